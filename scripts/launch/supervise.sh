#!/usr/bin/env bash
# Runs a command and restarts it, depending on its exit code.
#
#   supervise.sh N COMMAND [ARGUMENT...]
#
# N          most restarts; 0 = none
# restarts:  75 (stopped by a signal, or hung), and above 128 except 130 (killed by a signal)
# ends:      all other codes: 0 done, 1 the run failed, 2 the input is wrong, 130 interrupted
#
# Waits SUPERVISE_PAUSE_S (default 5) seconds before the first restart, and doubles this each time, up
# to 60. Passes SIGTERM, SIGINT and SIGHUP (as SIGTERM) to the command, and does not restart it then.
# The exit code is always the command's.
set -uo pipefail
# Job control gives the command its own process group: Ctrl-C reaches it once, through this script.
# It also keeps bash from ignoring SIGINT in the command, as in other background commands.
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

child=""   # process id of the command or the pause
asked=""   # the last signal received
signals=0  # number of signals received

pass_on() {
  asked=$1
  signals=$((signals + 1))
  if [[ -n $child ]]; then kill -s "$1" "$child" 2>/dev/null; fi
}
trap 'pass_on TERM' TERM HUP
trap 'pass_on INT' INT

# Runs a command until it ends and stores its exit code in `code`.
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
    # A signal to this script also ends `wait`, with another code; 127 = already reaped.
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
    say "code $last: not restarted"
    exit "$last"
  fi
  if [[ -n $asked ]]; then
    say "code $last after SIG$asked: not restarted; run the same command again to resume"
    exit "$last"
  fi
  if ((count > restarts)); then
    say "code $last after $restarts restarts: giving up"
    exit "$last"
  fi
  say "code $last: restart $count of $restarts in $pause_s s"
  run sleep "$pause_s"
  if [[ -n $asked ]]; then exit "$last"; fi
  pause_s=$((pause_s * 2 < longest_pause_s ? pause_s * 2 : longest_pause_s))
done
