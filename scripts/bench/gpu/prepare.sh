#!/usr/bin/env bash
# Fetches what a GPU machine without a network lacks into .gpu/wheels, and checks that it can travel:
# the wheels and the files of this repository must be under 64 MiB together.
#
#   scripts/bench/gpu/prepare.sh          # on a machine with a network; any Python 3 with pip
set -euo pipefail
cd "$(dirname "$0")/../../.."
python=${PYTHON:-python3}
wheels=.gpu/wheels
rm -rf .gpu
mkdir -p "$wheels"
fetch() {
  "$python" -m pip download --quiet --no-deps --only-binary=:all: --dest "$1" \
    --python-version 3.12 --implementation cp \
    --platform manylinux_2_28_x86_64 --platform manylinux_2_27_x86_64 \
    --platform manylinux_2_17_x86_64 --platform manylinux2014_x86_64 "${@:2}"
}
fetch "$wheels" --requirement scripts/bench/gpu/wheels.txt
# tokamax does not import with the typeguard 4 that tyro needs, so attention.py loads this one.
fetch .gpu/tokamax typeguard==2.13.3
# A file that is deleted but not yet committed is listed too, and cannot be measured.
bytes() { { du --bytes --total --files0-from=- 2>/dev/null || true; } | tail -1 | cut -f1; }
fetched=$(find .gpu -type f -print0 | bytes)
tree=$(git ls-files -z --cached --others --exclude-standard | bytes)
mib() { echo "$(($1 / 1048576)) MiB"; }
echo "wheels $(mib "$fetched") in .gpu, repository $(mib "$tree")"
if [ $((fetched + tree)) -ge $((64 * 1048576)) ]; then
  echo "together $(mib $((fetched + tree))), more than the 64 MiB that may travel" >&2
  exit 1
fi
