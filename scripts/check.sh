#!/usr/bin/env bash
# What must hold before a commit: format, lint, types, import contracts. CI runs exactly this.
set -euo pipefail
cd "$(dirname "$0")/.."
bin=${BIN:-.venv/bin}
"$bin/ruff" format --check .
"$bin/ruff" check .
"$bin/pyright" --pythonpath "$bin/python"
"$bin/lint-imports"
