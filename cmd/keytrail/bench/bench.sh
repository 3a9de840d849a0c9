#!/usr/bin/env bash
# Measures keytrail as whole processes on this machine, in one run: throughput, and the time
# from an append to its witnessed receipt. The cases take turns for ROUNDS (3) rounds, so that
# a slow phase of the machine meets all of them; each row gives the median and, in brackets,
# the least and the most.
#
# Needs keytrail, keytraild and keytrail-witness in PATH (make bench sees to that).
set -euo pipefail

rounds=${ROUNDS:-3}
events=${EVENTS:-200000}
work=$(mktemp -d "${TMPDIR:-/tmp}/keytrail-bench.XXXXXX")
trap 'rm -rf "$work"' EXIT

names=() flags=()
add() {
	names+=("$1")
	flags+=("$2")
}
add "stream, 1 event a message, durable" "--events $events"
add "stream, 64 events a message, durable" "--events $events --batch 64 --streams 4 --window 16"
for rate in 1 100 1000; do
	n=$((rate * 5 < 20 ? 20 : rate * 5))
	add "$rate events/s offered, receipt, no witness" "--events $n --streams 1 --rate $rate --wait published"
	add "$rate events/s offered, receipt with 2 of 3 witnesses" "--events $n --streams 1 --rate $rate --wait witnessed --witnesses 3"
done

# field NAME FILE prints the number of a JSON field.
field() { sed -n "s/^ *\"$1\": \([0-9.e+-]*\),\{0,1\}$/\1/p" "$2"; }

# spread prints the median of numbers and their bounds.
spread() {
	sort -g | awk -v f="$1" '{ v[NR] = $1 } END { printf f " [" f "–" f "]", v[int((NR + 1) / 2)], v[1], v[NR] }'
}

for round in $(seq "$rounds"); do
	for i in "${!names[@]}"; do
		[ ! -t 2 ] || printf '\rround %d of %d, case %d of %d ' "$round" "$rounds" $((i + 1)) ${#names[@]} >&2
		# Each flag is a word of its own.
		# shellcheck disable=SC2086
		keytrail bench --json ${flags[i]} >"$work/$i.$round"
	done
done
[ ! -t 2 ] || printf '\r%50s\r' '' >&2

printf 'machine: %s, %d cores, %s\n' "$(sed -n 's/^model name[^:]*: //p' /proc/cpuinfo | head -1)" "$(nproc)" "$(uname -sr)"
printf 'program: %s; %d rounds, %s; load average %s\n\n' "$(keytrail --version)" "$rounds" "$(date -u +%F)" "$(cut -d' ' -f1-3 /proc/loadavg)"
printf '%-52s  %-30s  %-24s  %-24s  %s\n' "" "events/s" "p50 ms" "p99 ms" "server CPU ms/event"
for i in "${!names[@]}"; do
	row() { for round in $(seq "$rounds"); do field "$1" "$work/$i.$round"; done | spread "$2"; }
	cpu=$(for round in $(seq "$rounds"); do
		echo "$(field server_cpu_seconds "$work/$i.$round") $(field events "$work/$i.$round")"
	done | awk '{ print 1000 * $1 / $2 }' | spread %.3f)
	printf '%-52s  %-30s  %-24s  %-24s  %s\n' "${names[i]}" "$(row events_per_second %.0f)" "$(row ack_p50_ms %.2f)" "$(row ack_p99_ms %.2f)" "$cpu"
done
