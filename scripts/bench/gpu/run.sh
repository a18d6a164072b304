#!/usr/bin/env bash
# Runs cases of the GPU benchmark: scripts/bench/gpu/run.sh smoke ceilings, or all. README.md lists them.
# PYTHON is the interpreter that has jax for the card; TOY=1 takes small sizes, also without a GPU.
set -euo pipefail
exec "${PYTHON:-python3}" "$(dirname "$0")/run.py" "$@"
