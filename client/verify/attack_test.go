package verify_test

import (
	"bytes"
	"encoding/base64"
	"errors"
	"strings"
	"testing"
	"time"

	"google.golang.org/protobuf/encoding/protowire"

	"github.com/keytrail/keytrail/client/verify"
	"github.com/keytrail/keytrail/proto/checkpoint"
	"github.com/keytrail/keytrail/proto/policy"
	"github.com/keytrail/keytrail/proto/record"
)

// Each test below is one attack on a receipt.

func TestAttackAlteredRecord(t *testing.T) {
	l := newLog(t, origin, 5)
	rec := l.receipt(3, 5)
	altered := bytes.Replace(rec.Extra, []byte("key-1"), []byte("key-2"), 1)
	if bytes.Equal(altered, rec.Extra) {
		t.Fatal("nothing was altered")
	}
	rec.Extra = altered
	r, err := receiptVerdict(t, rec.Append(nil), l.policy())
	e := wantTampered(t, r, err, verify.KindInclusion)
	if len(e.Proof) != len(rec.Hashes) || !bytes.Equal(e.File, rec.Append(nil)) {
		t.Error("evidence lacks the proof or the receipt")
	}
}

// TestAttackAlteredLeaf changes the salt. No receipt holds the leaf itself: it is computed
// from salt and record, so another leaf is another salt, another record or another proof.
func TestAttackAlteredLeaf(t *testing.T) {
	l := newLog(t, origin, 5)
	rec := l.receipt(3, 5)
	rec.Extra[0] ^= 1
	r, err := receiptVerdict(t, rec.Append(nil), l.policy())
	wantTampered(t, r, err, verify.KindInclusion)
}

func TestAttackAlteredProof(t *testing.T) {
	l := newLog(t, origin, 5)
	for i := range l.receipt(3, 5).Hashes {
		rec := l.receipt(3, 5)
		rec.Hashes[i][7] ^= 1
		r, err := receiptVerdict(t, rec.Append(nil), l.policy())
		wantTampered(t, r, err, verify.KindInclusion)
	}
	rec := l.receipt(3, 5)
	rec.Hashes = rec.Hashes[1:]
	r, err := receiptVerdict(t, rec.Append(nil), l.policy())
	wantTampered(t, r, err, verify.KindInclusion)
	rec = l.receipt(3, 5)
	rec.Hashes = append(rec.Hashes, [32]byte{})
	r, err = receiptVerdict(t, rec.Append(nil), l.policy())
	wantTampered(t, r, err, verify.KindInclusion)
}

func TestAttackWrongIndex(t *testing.T) {
	l := newLog(t, origin, 5)
	for index := range uint64(8) {
		rec := l.receipt(3, 5)
		if rec.Index = index; index == 3 {
			continue
		}
		r, err := receiptVerdict(t, rec.Append(nil), l.policy())
		kind := verify.KindInclusion
		if index >= 5 {
			kind = verify.KindIndexBeyondTree
		}
		wantTampered(t, r, err, kind)
	}
	rec := l.receipt(3, 5)
	rec.Index = 1<<64 - 1
	r, err := receiptVerdict(t, rec.Append(nil), l.policy())
	wantTampered(t, r, err, verify.KindIndexBeyondTree)
}

// TestAttackLogMovesRecord is a log that commits to a record in another place than the
// record says: the proof is right, the log is not.
func TestAttackLogMovesRecord(t *testing.T) {
	l := newLog(t, origin, 3)
	l.append(l.payload(l.record(7)))
	r, err := receiptVerdict(t, l.receipt(3, 4).Append(nil), l.policy())
	wantTampered(t, r, err, verify.KindRecordIndex)
}

// TestAttackLogCommitsToRubbish is a log that commits to what is no record, or no event.
func TestAttackLogCommitsToRubbish(t *testing.T) {
	for name, payload := range map[string]func(l *testLog) []byte{
		"nothing but salt": func(*testLog) []byte { return make([]byte, record.SaltSize) },
		"less than salt":   func(*testLog) []byte { return []byte{1} },
		"rubbish":          func(*testLog) []byte { return bytes.Repeat([]byte{0xff}, 100) },
		"no event": func(l *testLog) []byte {
			r := l.record(0)
			r.KeyEvent = []byte{0xff}
			return l.payload(r)
		},
		"cut record": func(l *testLog) []byte {
			p := l.payload(l.record(0))
			return p[:len(p)-1]
		},
		"second spelling": func(l *testLog) []byte { // index 0 spelt out, after the event
			return append(l.payload(l.record(0)), 0x08, 0x00)
		},
		"unknown field before the event": func(l *testLog) []byte { // number 15, which no kind of record will have
			p := protowire.AppendTag(l.payload(l.record(0)), 15, protowire.VarintType)
			return protowire.AppendVarint(p, 1)
		},
		"too large": func(l *testLog) []byte {
			r := l.record(0)
			r.Producer = strings.Repeat("p", record.MaxProducerSize+1)
			return l.payload(r)
		},
	} {
		t.Run(name, func(t *testing.T) {
			l := newLog(t, origin, 0)
			l.append(payload(l))
			r, err := receiptVerdict(t, l.receipt(0, 1).Append(nil), l.policy())
			wantTampered(t, r, err, verify.KindRecord)
		})
	}
}

// TestNewerRecord is no attack: a record or an event of a later version of keytrail is
// not called tampered with.
func TestNewerRecord(t *testing.T) {
	l := newLog(t, origin, 0)
	p := l.payload(l.record(0))
	p = protowire.AppendTag(p, 17, protowire.BytesType)
	l.append(protowire.AppendString(p, "a finding"))
	r, err := receiptVerdict(t, l.receipt(0, 1).Append(nil), l.policy())
	wantUnverifiable(t, r, err, verify.ReasonNewer)

	l = newLog(t, origin, 0)
	rec := l.record(0)
	rec.KeyEvent[1] = 2 // schema_version, the first field
	rec.KeyEvent = protowire.AppendTag(rec.KeyEvent, 500, protowire.VarintType)
	rec.KeyEvent = protowire.AppendVarint(rec.KeyEvent, 1)
	l.append(l.payload(rec))
	r, err = receiptVerdict(t, l.receipt(0, 1).Append(nil), l.policy())
	wantUnverifiable(t, r, err, verify.ReasonNewer)
}

// TestAttackWrongOrigin signs the log's tree under another name.
func TestAttackWrongOrigin(t *testing.T) {
	l := newLog(t, origin, 5)
	c := l.checkpoint(5)
	c.Origin = "other.example/keys"
	rec := l.receipt(3, 5)
	rec.Checkpoint = l.sign(c)
	r, err := receiptVerdict(t, rec.Append(nil), l.policy())
	wantUnverifiable(t, r, err, verify.ReasonUnknownLog)

	// The same with another log of the policy: its keys did not sign.
	other := newLog(t, "other.example/keys", 1)
	p := l.policy()
	p.Logs = append(p.Logs, other.policy().Logs...)
	r, err = receiptVerdict(t, rec.Append(nil), p)
	wantUnverifiable(t, r, err, verify.ReasonNoSignature)

	// The origin line of a true note replaced.
	rec.Checkpoint = bytes.Replace(l.sign(l.checkpoint(5)), []byte(origin+"\n5"), []byte("other.example/keys\n5"), 1)
	r, err = receiptVerdict(t, rec.Append(nil), p)
	wantTampered(t, r, err, verify.KindLogSignature)
}

func TestAttackReceiptOfAnotherLog(t *testing.T) {
	l, other := newLog(t, origin, 5), newLog(t, "other.example/keys", 5)
	r, err := receiptVerdict(t, other.receipt(3, 5).Append(nil), l.policy())
	wantUnverifiable(t, r, err, verify.ReasonUnknownLog)
	r, err = receiptVerdict(t, l.receipt(3, 5).Append(nil), &policy.Policy{Quorum: policy.None})
	wantUnverifiable(t, r, err, verify.ReasonUnknownLog)

	// The proof of one log under the checkpoint of another.
	foreign := newLog(t, "other.example/keys", 6)
	rec := foreign.receipt(3, 5)
	rec.Checkpoint = l.sign(checkpoint.Checkpoint{Origin: origin, Size: 5, Root: [32]byte{1}})
	r, err = receiptVerdict(t, rec.Append(nil), l.policy())
	wantTampered(t, r, err, verify.KindInclusion)
}

func TestAttackForgedSignature(t *testing.T) {
	l := newLog(t, origin, 5)
	for _, k := range []*checkpoint.SignerKey{l.ed, l.pq} {
		rec := l.receipt(3, 5)
		rec.Checkpoint = forge(t, rec.Checkpoint, k.VerifierKey())
		r, err := receiptVerdict(t, rec.Append(nil), l.policy())
		wantTampered(t, r, err, verify.KindLogSignature)
	}
	// Another root under true signatures.
	rec := l.receipt(3, 5)
	_, sigs, err := checkpoint.ParseNote(rec.Checkpoint)
	if err != nil {
		t.Fatal(err)
	}
	rec.Checkpoint = checkpoint.AppendNote(nil, l.checkpoint(4), sigs)
	r, err := receiptVerdict(t, rec.Append(nil), l.policy())
	wantTampered(t, r, err, verify.KindLogSignature)
	// An attacker's own keys under the log's name.
	stranger := key(t, origin, checkpoint.TypeEd25519, 0x77)
	r, err = receiptVerdict(t, l.receipt(3, 5, stranger).Append(nil), l.policy())
	wantUnverifiable(t, r, err, verify.ReasonNoSignature)
	// A good signature does not make up for a forged one.
	rec = l.receipt(3, 5, l.ed)
	rec.Checkpoint = append(rec.Checkpoint, firstLine(t, forge(t, l.sign(l.checkpoint(5)), l.ed.VerifierKey()))...)
	r, err = receiptVerdict(t, rec.Append(nil), l.policy())
	wantTampered(t, r, err, verify.KindLogSignature)
}

// firstLine returns the first signature line of a note.
func firstLine(t testing.TB, note []byte) []byte {
	t.Helper()
	_, sigs, err := checkpoint.ParseNote(note)
	if err != nil {
		t.Fatal(err)
	}
	return sigs[0].Append(nil)
}

func TestAttackMissingSignature(t *testing.T) {
	l := newLog(t, origin, 5)
	rec := l.receipt(3, 5)
	rec.Checkpoint = append(l.checkpoint(5).Text(), '\n')
	r, err := receiptVerdict(t, rec.Append(nil), l.policy())
	wantUnverifiable(t, r, err, verify.ReasonMalformed)
	rec.Checkpoint = l.checkpoint(5).Text()
	r, err = receiptVerdict(t, rec.Append(nil), l.policy())
	wantUnverifiable(t, r, err, verify.ReasonMalformed)
	// Only a signature of a key that nobody knows.
	stranger := key(t, "stranger.example", checkpoint.TypeEd25519, 0x77)
	r, err = receiptVerdict(t, l.receipt(3, 5, stranger).Append(nil), l.policy())
	wantUnverifiable(t, r, err, verify.ReasonNoSignature)
}

func TestAttackDuplicateSignatures(t *testing.T) {
	l := newLog(t, origin, 5)
	stranger := key(t, "stranger.example", checkpoint.TypeEd25519, 0x77)
	r, err := receiptVerdict(t, l.receipt(3, 5, l.ed, l.ed, stranger, l.ed).Append(nil), l.policy())
	wantVerified(t, r, err)
	if c := r.Checkpoint; len(c.LogKeys) != 1 || len(c.MissingLogKeys) != 1 || c.Ignored != 3 {
		t.Errorf("signed %d, missing %d, ignored %d", len(c.LogKeys), len(c.MissingLogKeys), c.Ignored)
	}
}

// TestAttackExtensionLine adds lines that the ML-DSA-44 signature does not cover: with
// another library such a note verifies.
func TestAttackExtensionLine(t *testing.T) {
	l := newLog(t, origin, 5)
	for name, keys := range map[string][]*checkpoint.SignerKey{"both keys": nil, "ML-DSA-44 only": {l.pq}, "Ed25519 only": {l.ed}} {
		for _, ext := range []string{"evil\n", "evil\nmore\n", "\nevil\n", "\n"} {
			rec := l.receipt(3, 5, keys...)
			text := l.checkpoint(5).Text()
			rec.Checkpoint = bytes.Replace(rec.Checkpoint, text, append(text, ext...), 1)
			r, err := receiptVerdict(t, rec.Append(nil), l.policy())
			if t.Run(name, func(t *testing.T) { wantTampered(t, r, err, verify.KindExtension) }); t.Failed() {
				t.Fatalf("extension %q", ext)
			}
		}
	}
	// Signed by the log itself, extension and all.
	text := append(l.checkpoint(5).Text(), "evil\n"...)
	note := append(text, '\n')
	note = append(note, firstLine(t, l.sign(l.checkpoint(5), l.ed))...)
	if _, err := verify.Checkpoint(note, l.policy()); err == nil {
		t.Error("checkpoint with an extension line is verified")
	}
}

func TestAttackNoRecord(t *testing.T) {
	l := newLog(t, origin, 5)
	rec := l.receipt(3, 5)
	rec.Extra = nil
	r, err := receiptVerdict(t, rec.Append(nil), l.policy())
	wantUnverifiable(t, r, err, verify.ReasonNoRecord)
}

// TestAttackInnerNodeAsLeaf shows a proof of an inner node as one of a record: leaves and
// nodes are hashed apart, so none fits.
func TestAttackInnerNodeAsLeaf(t *testing.T) {
	l := newLog(t, origin, 4)
	rec := l.receipt(2, 4)
	rec.Extra = append(append([]byte(nil), l.tree.LeafHash(2)...), l.tree.LeafHash(3)...)
	rec.Hashes = rec.Hashes[1:]
	rec.Index = 1
	r, err := receiptVerdict(t, rec.Append(nil), l.policy())
	wantTampered(t, r, err, verify.KindInclusion)
}

func TestAttackTruncated(t *testing.T) {
	l := newLog(t, origin, 5)
	whole := l.receipt(3, 5).Append(nil)
	for n := range whole {
		r, err := receiptVerdict(t, whole[:n], l.policy())
		verdict(t, r, err)
		if err != nil {
			continue
		}
		// What is left is a receipt with one of the two signatures, and says so.
		if !bytes.HasSuffix(whole[:n], []byte("=\n")) || len(r.Checkpoint.MissingLogKeys) != 1 || !r.Checkpoint.MissingLogKeys[0].Equal(l.pq.VerifierKey()) {
			t.Fatalf("verified although cut to %d of %d bytes", n, len(whole))
		}
	}
	bundle := l.bundle(3, 5).Append(nil)
	old := l.sign(l.checkpoint(3))
	for n := range bundle {
		r, err := verify.Consistency(bundle[:n], old, l.policy())
		verdict(t, r, err)
		if err == nil && len(r.Checkpoint.MissingLogKeys) != 1 {
			t.Fatalf("bundle verified although cut to %d of %d bytes", n, len(bundle))
		}
	}
	for n := range old {
		r, err := verify.Consistency(bundle, old[:n], l.policy())
		verdict(t, r, err)
		if err == nil && len(r.Earlier.MissingLogKeys) != 1 {
			t.Fatalf("verified although the earlier checkpoint is cut to %d of %d bytes", n, len(old))
		}
	}
}

// verdict checks that there is exactly one of the three.
func verdict(t testing.TB, r *verify.Result, err error) {
	t.Helper()
	_, tampered := errors.AsType[*verify.TamperError](err)
	_, unverifiable := errors.AsType[*verify.UnverifiableError](err)
	if (r == nil) == (err == nil) || (err != nil && tampered == unverifiable) {
		t.Fatalf("no single verdict: %+v, %v", r, err)
	}
}

// TestAttackFlippedByte changes every byte of a receipt in turn. One change leaves it
// verified: in the name or key id of a signature line, which makes it a line of a key
// that nobody knows, and those are ignored (signed-note). The other signature covers
// everything else, and the result says which is missing.
func TestAttackFlippedByte(t *testing.T) {
	l := newLog(t, origin, 5)
	whole := l.receipt(3, 5).Append(nil)
	at := bytes.Index(whole, []byte("— "))
	for i := range whole {
		for _, mask := range []byte{0x01, 0x20, 0x80} {
			bad := bytes.Clone(whole)
			bad[i] ^= mask
			r, err := receiptVerdict(t, bad, l.policy())
			verdict(t, r, err)
			if err == nil && (i < at || len(r.Checkpoint.MissingLogKeys) != 1 || r.Checkpoint.Ignored != 1) {
				t.Fatalf("verified although byte %d was changed from %q to %q", i, whole[i], bad[i])
			}
		}
	}
}

func TestAttackGarbage(t *testing.T) {
	l := newLog(t, origin, 5)
	whole := string(l.receipt(3, 5).Append(nil))
	first, rest, _ := strings.Cut(whole, "\n")
	extra, rest, _ := strings.Cut(rest, "\n")
	note := string(l.sign(l.checkpoint(5)))
	for name, data := range map[string]string{
		"nothing":             "",
		"not a receipt":       "hello\n",
		"a checkpoint":        note,
		"another version":     strings.Replace(whole, "@v1", "@v2", 1),
		"carriage returns":    strings.ReplaceAll(whole, "\n", "\r\n"),
		"byte order mark":     "\ufeff" + whole,
		"empty line first":    "\n" + whole,
		"two extra lines":     first + "\n" + extra + "\n" + extra + "\n" + rest,
		"empty extra":         first + "\nextra \n" + rest,
		"garbage base64":      first + "\nextra ????\n" + rest,
		"loose base64":        first + "\nextra AB==\n" + rest,
		"leading zero":        strings.Replace(whole, "\nindex 3\n", "\nindex 03\n", 1),
		"no index":            strings.Replace(whole, "\nindex 3\n", "\n", 1),
		"64 hashes":           strings.Replace(whole, "\nindex 3\n", "\nindex 3\n"+strings.Repeat(base64.StdEncoding.EncodeToString(make([]byte, 32))+"\n", 64), 1),
		"no empty line":       strings.Replace(whole, "\n\n"+origin, "\n"+origin, 1),
		"trailing bytes":      whole + "x",
		"trailing empty line": whole + "\n",
		"trailing line":       whole + "x\n",
		"a megabyte":          whole + strings.Repeat("x\n", 1<<19),
	} {
		t.Run(name, func(t *testing.T) {
			r, err := receiptVerdict(t, []byte(data), l.policy())
			wantUnverifiable(t, r, err, verify.ReasonMalformed)
		})
	}
}

// TestTimesAreReported: the verifier has no clock, so a signature from the future is
// verified and its time is there for the caller to judge.
func TestTimesAreReported(t *testing.T) {
	l := newLog(t, origin, 1)
	at := time.Date(2999, 1, 1, 0, 0, 0, 0, time.UTC)
	note, err := checkpoint.SignNote(l.checkpoint(1), at, l.pq)
	if err != nil {
		t.Fatal(err)
	}
	s, err := verify.Checkpoint(note, l.policy())
	if err != nil || !s.LogKeys[0].Time.Equal(at) {
		t.Errorf("%+v, %v", s, err)
	}
}
