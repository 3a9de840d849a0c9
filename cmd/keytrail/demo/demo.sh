#!/usr/bin/env bash
# The main job of keytrail, told as a story: a real audit log of OpenBao goes into a log
# with three witnesses, receipts come out, they verify without the server, and damage, lost
# witnesses and a second history are caught.
#
# Needs keytrail, keytraild and keytrail-witness in PATH (make demo sees to that), bash and POSIX tools.
# Works in a temporary directory of its own, which it removes. Every step says which exit
# status and which words it expects; the script fails at the first that differ.
set -euo pipefail

audit=$(cd "$(dirname "${BASH_SOURCE[0]}")/../../../testdata/audit/openbao" && pwd)/audit.ndjson
work=$(mktemp -d "${TMPDIR:-/tmp}/keytrail-demo.XXXXXX")
step=0
declare -A pid # of each process that runs, by its name

cleanup() {
	local name
	for name in "${!pid[@]}"; do
		kill "${pid[$name]}" 2>/dev/null || true
		wait "${pid[$name]}" 2>/dev/null || true
	done
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

# start NAME COMMAND runs a program in the background until it prints its ready line, which
# it leaves in $ready.
start() {
	printf '   $ %s &\n' "$2"
	rm -f "$1.ready"
	bash -c "exec $2" >"$1.ready" 2>"$1.log" &
	pid[$1]=$!
	for _ in $(seq 300); do
		grep -q '^ready ' "$1.ready" && break
		kill -0 "${pid[$1]}" 2>/dev/null || { cat "$1.log" >&2; die "$1 ended"; }
		sleep 0.1
	done
	ready=$(cat "$1.ready")
	[ -n "$ready" ] || { cat "$1.log" >&2; die "$1 is not ready after 30 s"; }
	printf '     %s\n' "$ready"
}

# stop NAME ends a program, which must end well.
stop() {
	local status=0
	kill -TERM "${pid[$1]}"
	wait "${pid[$1]}" || status=$?
	unset "pid[$1]"
	[ "$status" -eq 0 ] || { cat "$1.log" >&2; die "$1 ended with status $status"; }
}

# wait_for TEXT COMMAND repeats a command until it prints TEXT.
wait_for() {
	for _ in $(seq 300); do
		if bash -c "$2" 2>/dev/null | grep -q -- "$1"; then return; fi
		sleep 0.1
	done
	die "waited 30 s for '$1' of: $2"
}

# flip FILE OFFSET flips one bit of a byte.
flip() {
	local byte
	byte=$(od -An -tu1 -j "$2" -N 1 "$1")
	printf "\\$(printf %o $((byte ^ 1)))" | dd of="$1" bs=1 seek="$2" conv=notrunc 2>/dev/null
}

for program in keytrail keytraild keytrail-witness; do
	command -v $program >/dev/null || die "$program is not in PATH; run: make demo"
done
cp "$audit" "$work/audit.ndjson"
cd "$work"

echo "keytrail: a transparency log for the life of cryptographic keys"

heading "Make a log" "Keys (Ed25519 and ML-DSA-44), a signer's ledger, an empty store, and a policy to verify with."
run 0 5 'keytrail init --dir log --origin demo.example/keys'
run 1 5 'keytrail init --dir log --origin demo.example/keys'
says 'not empty'

heading "Three witnesses" \
	"Run by others: each remembers the largest tree of every log that it serves, and cosigns" \
	"a tree only after a proof that it extends that one. Here they get the log's public keys."
log_keys=$(sed -n 's/^log //p' log/policy | tr '\n' ' ')
for w in w1 w2 w3; do
	echo "   \$ keytrail-witness init --dir $w --name $w.example"
	keytrail-witness init --dir $w --name $w.example >$w.keys
	keytrail-witness enroll --dir $w $log_keys >/dev/null
	start $w "keytrail-witness --dir $w --listen 127.0.0.1:0"
	echo "${ready#*http=}" >$w.address
done

heading "The policy" \
	"Who uses the log trusts its tree when two of the three have cosigned it. The log reads" \
	"the same file, and publishes nothing that it does not cover."
{
	sed '/^quorum/d' log/policy
	for w in w1 w2 w3; do
		url=http://$(cat $w.address)
		echo "witness $w.ed25519 $(sed -n 1p $w.keys) $url"
		echo "witness $w.mldsa44 $(sed -n 2p $w.keys) $url"
		echo "group $w all $w.ed25519 $w.mldsa44"
	done
	echo "group two-of-three 2 w1 w2 w3"
	echo "quorum two-of-three"
} >policy
mv policy log/policy
run 0 7+4 'cut -c1-78 log/policy'

heading "Start the server" "On a free port; it asks the witnesses what they remember before it signs anything."
start server 'keytraild --dir log --grpc 127.0.0.1:0 --http 127.0.0.1:0'
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
run 0 9 'keytrail append suspend.ndjson --wait witnessed 2>/dev/null'
says '420'
index=$(keytrail list --tenant acme --key acme/transit/payments-pan --operation key.destroy --outcome success --newest --limit 1 | awk 'NR == 2 { print $1 }')
run 0 5 'keytrail list --key acme/transit/payments-pan --operation key.destroy --newest --limit 1'
run 0 5 "keytrail receipt $index -o destroyed.tlog-proof"
run 0 5 'keytrail consistency --from monday.checkpoint -o tuesday.update'

# event ID TIME-OFFSET makes one event of a key's use.
event() {
	printf '{"schemaVersion":1,"eventId":"%s","source":{"system":"soc"},"tenant":"acme","time":"%s","operation":"use.sign","outcome":"success","key":{"ref":"acme/transit/code-signing"},"actor":{"id":"ci"}}\n' \
		"$1" "$(date -u +%Y-%m-%dT%H:%M:%SZ)"
}

heading "One witness is lost" "Two are enough: the log publishes as before."
stop w3
event release-1 >release-1.ndjson
run 0 9 'keytrail append release-1.ndjson --wait witnessed 2>/dev/null'
says '421'

heading "A second is lost" \
	"No quorum: nothing is published. Appends go on, and are durable."
stop w2
event release-2 >release-2.ndjson
run 0 9 'keytrail append release-2.ndjson 2>/dev/null'
says '422'
wait_for '^problem' 'keytrail log-info'
run 0 12 'keytrail log-info | grep -E "^(entries|problem|witness)" | cut -c1-110'
says 'entries, durable    423'
says 'entries, published  422'

heading "It comes back" "The log asks it again by itself, and gives it the proof from the tree that it knows."
start w2 "keytrail-witness --dir w2 --listen $(cat w2.address)"
wait_for 'published  423' 'keytrail log-info'
run 0 12 'keytrail log-info | grep -E "^(entries|problem|witness)" | cut -c1-110'

heading "Stop the server"
echo '   $ kill -TERM %server'
stop server
printf '     %s\n' "$(tail -n 1 server.log)"
cp -r log twin # somebody copies the log, with its keys

heading "A second history" \
	"Somebody has a copy of everything, keys too, and writes another history: behind the" \
	"witnesses' back, then with them. The log itself has gone on meanwhile."
start server 'keytraild --dir log --grpc 127.0.0.1:0 --http 127.0.0.1:0'
event release-3 >release-3.ndjson
run 0 9 "keytrail append release-3.ndjson --server $(sed 's/.*grpc=\([^ ]*\).*/\1/' server.ready) --wait witnessed 2>/dev/null"
stop server
mv twin/policy twin/policy.witnessed
sed '/^witness/d; /^group/d; s/^quorum.*/quorum none/' twin/policy.witnessed >twin/policy
start twin 'keytraild --dir twin --grpc 127.0.0.1:0 --http 127.0.0.1:0'
event forged-3 >forged-3.ndjson
run 0 9 "keytrail append forged-3.ndjson --server $(sed 's/.*grpc=\([^ ]*\).*/\1/' twin.ready) --wait published 2>/dev/null"
stop twin
mv twin/policy.witnessed twin/policy
run 1 3 "keytraild --dir twin --grpc 127.0.0.1:0 --http 127.0.0.1:0 2>&1 >/dev/null | grep 'keytraild: error'  | cut -c1-400; exit \${PIPESTATUS[0]}"
says 'refusing to sign'
echo
echo "   A witness kept both signed trees. Whoever has the log's public keys can check that file,"
echo "   without the witness and without the log: exit status 3."
echo
run 0 3 'keytrail-witness evidence --dir w1'
keytrail-witness evidence --dir w1 "$(sed -n 1p output)" >fork.json
run 3 9 'keytrail verify evidence fork.json --policy log/policy'
says '424 entries'
stop w1
stop w2

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
# A clean stop has moved everything to tables; the largest holds the records.
table=$(wc -c log/store/db/tree/*.sst | sort -n | sed -n 's/^ *[0-9]* \(log.*\)/\1/p' | tail -n 1)
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
     that two of three independent witnesses have cosigned
   - publication that waits for its witnesses, and appends that do not
   - a second history, written with the log's own keys, that no witness cosigns, and the
     file that proves it
   - the whole life of a key, and a key that was used after its destruction
   - a receipt and a consistency proof that verify without the server
   - one changed byte caught in a receipt (tampered), a cut one told apart (unverifiable),
     and one flipped bit caught in the store
END
