#!/usr/bin/env bash
# Installs Debian's Chromium for the browser tests, unless there is one; CHROMIUM=path uses another.
set -euo pipefail
command -v "${CHROMIUM:-chromium}" >/dev/null && exit
if ! command -v apt-get >/dev/null; then
  echo "there is no Chromium; install it, or set CHROMIUM=/path/to/chrome" >&2
  exit 2
fi
root=()
[ "$(id -u)" = 0 ] || root=(sudo)
"${root[@]}" apt-get update -qq
DEBIAN_FRONTEND=noninteractive "${root[@]}" apt-get install -y -qq --no-install-recommends chromium fonts-liberation >/dev/null
