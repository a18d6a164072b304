#!/usr/bin/env bash
# Runs a command, and starts it again when its exit code says that this helps.
#
#   supervise.sh N COMMAND [ARGUMENT...]
#
# N          restarts at most; 0 = none
# started again: 75 (told to stop, or hung), and what a signal ended: above 128, but 130
# left alone:    all others: 0 done, 1 the run failed, 2 the input is wrong, 130 interrupted
#
# SUPERVISE_PAUSE_S (5) seconds are waited before the first restart, twice as many before each
# further one, 60 at most. SIGTERM, SIGINT and SIGHUP (as SIGTERM) are passed to the command; after
# one there is no restart. The exit code is always the command's.
set -uo pipefail
# The command gets a process group of its own: a Ctrl-C reaches it once, through here, and bash
# does not make it deaf to SIGINT, as it does with other commands in the background.
set -m

say() { printf 'supervise: %s %s\n' "$(date -u +%Y-%m-%dT%H:%M:%SZ)" "$*" >&2; }

longest_pause_s=60
pause_s=${SUPERVISE_PAUSE_S:-5}
if [[ $# -lt 2 || ! $1 =~ ^[0-9]+$ || ! $pause_s =~ ^[0-9]+$ ]]; then
  echo "usage: [SUPERVISE_PAUSE_S=SECONDS] supervise.sh N COMMAND [ARGUMENT...]" >&2
  exit 2
fi
restarts=$1
shift

child=""   # process id of what runs now: the command, or the pause
asked=""   # the last signal that came
signals=0  # how many came

pass_on() {
  asked=$1
  signals=$((signals + 1))
  if [[ -n $child ]]; then kill -s "$1" "$child" 2>/dev/null; fi
}
trap 'pass_on TERM' TERM HUP
trap 'pass_on INT' INT

# Runs a command to its end and puts its exit code into `code`.
run() {
  local status before
  code=127
  "$@" </dev/null &
  child=$!
  if [[ -n $asked ]]; then kill -s "$asked" "$child" 2>/dev/null; fi
  while :; do
    before=$signals
    wait "$child" 2>/dev/null
    status=$?
    # 127 = it is known already; a signal to us ends `wait` too, with a code of its own.
    if [[ $status -ne 127 ]]; then code=$status; fi
    if [[ $signals -eq $before ]]; then break; fi
  done
  child=""
}

for ((count = 1; ; count++)); do
  run "$@"
  last=$code
  if ((last == 0)); then exit 0; fi
  if ! ((last == 75 || (last > 128 && last != 130))); then
    say "code $last: not started again"
    exit "$last"
  fi
  if [[ -n $asked ]]; then
    say "code $last after SIG$asked: not started again here; the same command continues"
    exit "$last"
  fi
  if ((count > restarts)); then
    say "code $last after $restarts restarts: given up"
    exit "$last"
  fi
  say "code $last: restart $count of $restarts in $pause_s s"
  run sleep "$pause_s"
  if [[ -n $asked ]]; then exit "$last"; fi
  pause_s=$((pause_s * 2 < longest_pause_s ? pause_s * 2 : longest_pause_s))
done
