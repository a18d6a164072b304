#!/usr/bin/env bash
# Checks before a commit, as in CI: format, lint, types, import contracts.
set -euo pipefail
cd "$(dirname "$0")/.."
bin=${BIN:-.venv/bin}
"$bin/ruff" format --check .
"$bin/ruff" check .
"$bin/pyright" --pythonpath "$bin/python"
"$bin/lint-imports"
