#!/usr/bin/env bash
# The main job of keytrail, told as a story: a real audit log of OpenBao goes into a log,
# receipts come out, they verify without the server, and damage is caught.
#
# Needs keytrail and keytraild in PATH (make demo sees to that), bash and POSIX tools.
# Works in a temporary directory of its own, which it removes. Every step says which exit
# status and which words it expects; the script fails at the first that differ.
set -euo pipefail

audit=$(cd "$(dirname "${BASH_SOURCE[0]}")/../../../testdata/audit/openbao" && pwd)/audit.ndjson
work=$(mktemp -d "${TMPDIR:-/tmp}/keytrail-demo.XXXXXX")
server= step=0

cleanup() {
	if [ -n "$server" ]; then
		kill "$server" 2>/dev/null || true
		wait "$server" 2>/dev/null || true
	fi
	rm -rf "$work"
}
trap cleanup EXIT
trap 'exit 130' INT
trap 'exit 143' TERM

die() {
	printf '\ndemo: %s\n' "$*" >&2
	exit 1
}

heading() {
	step=$((step + 1))
	printf '\n%d. %s\n' "$step" "$1"
	[ $# -lt 2 ] || printf '   %s\n' "${@:2}"
	echo
}

# run STATUS LINES COMMAND shows a command and the first LINES lines of what it prints, or
# with LINES as HEAD+TAIL also the last ones, and fails unless it ends with STATUS.
run() {
	local want=$1 head=${2%+*} tail=0 cmd=$3 got=0 all
	[ "$head" = "$2" ] || tail=${2#*+}
	printf '   $ %s\n' "$cmd"
	bash -o pipefail -c "$cmd" >"$work/output" 2>&1 || got=$?
	all=$(wc -l <"$work/output")
	if [ "$all" -le $((head + tail)) ]; then
		sed 's/^/     /' "$work/output"
	else
		sed "s/^/     /; ${head}q" "$work/output"
		printf '     … %d more lines\n' $((all - head - tail))
		[ "$tail" -eq 0 ] || tail -n "$tail" "$work/output" | sed 's/^/     /'
	fi
	[ "$want" -eq 0 ] || printf '     (exit status %d)\n' "$got"
	[ "$got" -eq "$want" ] || { cat "$work/output" >&2; die "exit status $got, not $want: $cmd"; }
}

# says fails unless the last command printed TEXT.
says() {
	grep -qF -- "$1" "$work/output" || { cat "$work/output" >&2; die "the output lacks: $1"; }
}

# flip FILE OFFSET flips one bit of a byte.
flip() {
	local byte
	byte=$(od -An -tu1 -j "$2" -N 1 "$1")
	printf "\\$(printf %o $((byte ^ 1)))" | dd of="$1" bs=1 seek="$2" conv=notrunc 2>/dev/null
}

command -v keytrail >/dev/null && command -v keytraild >/dev/null || die "keytrail and keytraild are not in PATH; run: make demo"
cp "$audit" "$work/audit.ndjson"
cd "$work"

echo "keytrail: a transparency log for the life of cryptographic keys"

heading "Make a log" "Keys (Ed25519 and ML-DSA-44), a signer's ledger, an empty store, and a policy to verify with."
run 0 5 'keytrail init --dir log --origin demo.example/keys'
run 1 5 'keytrail init --dir log --origin demo.example/keys'
says 'not empty'

heading "Start the server" "On a free port; it says where on standard output."
echo '   $ keytraild --dir log --grpc 127.0.0.1:0 --http 127.0.0.1:0 &'
keytraild --dir log --grpc 127.0.0.1:0 --http 127.0.0.1:0 >ready 2>server.log &
server=$!
for _ in $(seq 300); do
	grep -q '^ready ' ready && break
	kill -0 "$server" 2>/dev/null || { cat server.log >&2; die "the server ended"; }
	sleep 0.1
done
ready=$(cat ready)
[ -n "$ready" ] || { cat server.log >&2; die "the server is not ready after 30 s"; }
printf '     %s\n' "$ready"
KEYTRAIL_SERVER=${ready#*grpc=}
export KEYTRAIL_SERVER=${KEYTRAIL_SERVER%% *}

heading "Import a real audit log" "What an OpenBao server wrote while keys were made, used, exported and destroyed."
run 0 7+5 'keytrail import openbao audit.ndjson --tenant acme'
says 'logged now      420'
echo
echo "   Again: the same event has the same place, for ever, so nothing is added."
echo
run 0 4 'keytrail import openbao audit.ndjson --tenant acme | tail -n 4'
says 'logged now      0'
says 'already logged  420'

heading "The life of a key" "Every event of the key in order, and its lifecycle state after each."
run 0 40 'keytrail history acme/transit/payments-pan --tenant acme'
says 'destroy pending (was active)'
says 'destroyed'
if grep -q '!' output; then die "a finding where all went well"; fi

heading "A life with something odd in it" \
	"This key was destroyed, then used: someone had brought it back in a way that the" \
	"audit log does not show. The log records it all the same, and says what is odd."
run 0 9 "keytrail history acme/transit/ledger --tenant acme | sed -n '1p; /key.destroy/p; /!/p'"
says '! use.decrypt succeeded although the key was destroyed'

heading "What an auditor takes along" \
	"A checkpoint now; then the log grows; then a receipt of the destruction, and the proof" \
	"that the grown log still holds all that the checkpoint covers."
run 0 5 'keytrail checkpoint -o monday.checkpoint'
printf '{"schemaVersion":1,"eventId":"incident-7","source":{"system":"soc"},"tenant":"acme","time":"%s","operation":"key.suspend","outcome":"success","key":{"ref":"acme/transit/ledger"},"actor":{"id":"on-call"}}\n' \
	"$(date -u +%Y-%m-%dT%H:%M:%SZ)" >suspend.ndjson
run 0 9 'keytrail append suspend.ndjson --wait published 2>/dev/null'
says '420'
index=$(keytrail list --tenant acme --key acme/transit/payments-pan --operation key.destroy --outcome success --newest --limit 1 | awk 'NR == 2 { print $1 }')
run 0 5 'keytrail list --key acme/transit/payments-pan --operation key.destroy --newest --limit 1'
run 0 5 "keytrail receipt $index -o destroyed.tlog-proof"
run 0 5 'keytrail consistency --from monday.checkpoint -o tuesday.update'

heading "Stop the server"
echo '   $ kill -TERM %1'
kill -TERM "$server"
status=0
wait "$server" || status=$?
server=
[ "$status" -eq 0 ] || { cat server.log >&2; die "the server ended with status $status"; }
printf '     %s\n' "$(tail -n 1 server.log)"

heading "Verify offline" "No server, no network: the file and the log's policy."
run 0 20 'keytrail verify receipt destroyed.tlog-proof --policy log/policy'
says 'destroyed.tlog-proof: verified'
says 'key.destroy (success)'
run 0 20 'keytrail verify consistency tuesday.update --from monday.checkpoint --policy log/policy'
says 'tuesday.update: verified'
says '421'

heading "Check the whole store" "Every leaf, node, root, key chain and signature, derived anew."
run 0 9 'keytrail fsck --dir log'
says 'clean'

heading "Flip one byte of the receipt" "One letter inside the record: tampered, exit status 3."
cp destroyed.tlog-proof forged.tlog-proof
line=$(sed -n 2p forged.tlog-proof)
[ "${line%% *}" = extra ] || die "the receipt's second line is not the record"
# The record is in the second line, in base64; all but the very last letters carry it.
at=$(($(sed -n 1p forged.tlog-proof | wc -c) + ${#line} / 2))
letter=A
[ "${line:${#line}/2:1}" != A ] || letter=B
printf %s "$letter" | dd of=forged.tlog-proof bs=1 seek="$at" conv=notrunc 2>/dev/null
run 3 4 'keytrail verify receipt forged.tlog-proof --policy log/policy'
says 'forged.tlog-proof: tampered'
echo
echo "   A receipt that is cut off is something else: nothing can be said, exit status 1."
echo
head -c 1000 destroyed.tlog-proof >cut.tlog-proof
run 1 4 'keytrail verify receipt cut.tlog-proof --policy log/policy'
says 'cut.tlog-proof: unverifiable'

heading "Flip one bit of the store" "In the middle of its data: fsck finds it, exit status 3."
# A clean stop has moved everything to tables; the newest holds the log.
table=$(printf '%s\n' log/store/db/*.sst | sort | tail -n 1)
at=$(($(wc -c <"$table") / 2))
flip "$table" "$at"
run 3 6 'keytrail fsck --dir log'
says 'PROBLEM'
echo
echo "   The bit put back, and all is well again."
echo
flip "$table" "$at"
run 0 9 'keytrail fsck --dir log'
says 'clean'

cat <<'END'

What you have seen
   - 420 events of a real audit log in, none twice, each with its place in a signed tree
   - the whole life of a key, and a key that was used after its destruction
   - a receipt and a consistency proof that verify without the server
   - one changed byte caught in a receipt (tampered), a cut one told apart (unverifiable),
     and one flipped bit caught in the store
END
