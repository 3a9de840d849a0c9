package interop_test

import (
	"bytes"
	"encoding/base64"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"filippo.io/torchwood"
	"github.com/transparency-dev/formats/proof"
	merkle "github.com/transparency-dev/merkle/proof"
	"github.com/transparency-dev/merkle/rfc6962"
	"golang.org/x/mod/sumdb/tlog"

	"github.com/keytrail/keytrail/client/verify"
	"github.com/keytrail/keytrail/proto/policy"
	"github.com/keytrail/keytrail/proto/record"
)

// forTorchwood is a policy that torchwood can read: without keys that are not Ed25519.
func forTorchwood(t testing.TB, text string) torchwood.Policy {
	t.Helper()
	p, err := torchwood.ParsePolicy([]byte(ed25519Only(t, text)))
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// ed25519Only takes the log lines with ML-DSA-44 keys out of a policy.
func ed25519Only(t testing.TB, text string) string {
	t.Helper()
	var kept []string
	for line := range strings.Lines(text) {
		if key, ok := strings.CutPrefix(line, "log "); ok {
			material, err := base64.StdEncoding.DecodeString(strings.SplitN(strings.Fields(key)[0], "+", 3)[2])
			if err != nil {
				t.Fatal(err)
			}
			if material[0] != 0x01 {
				continue
			}
		}
		kept = append(kept, line)
	}
	return strings.Join(kept, "")
}

// policyText returns the log's policy file.
func (l *logProcess) policyText(t testing.TB) string {
	t.Helper()
	b, err := os.ReadFile(filepath.Join(l.dir, "policy"))
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

// leafOf returns the leaf of the entry in a receipt. How a payload becomes a leaf is our
// application's; everything after it is not.
func leafOf(t testing.TB, receipt []byte) []byte {
	t.Helper()
	payload, err := torchwood.ProofExtraData(receipt)
	if err != nil {
		t.Fatal(err)
	}
	leaf := record.Leaf(payload)
	return leaf[:]
}

// TestReceipts has receipts of a real log verified by torchwood and formats, and receipts
// that these write verified by ours.
func TestReceipts(t *testing.T) {
	t.Parallel()
	l := newLog(t, "interop.test/receipts")
	l.grow(t, 600)
	theirs := forTorchwood(t, l.policyText(t))
	ours := l.policy(t)
	for _, i := range []uint64{0, 1, 255, 256, 511, 599} {
		r := l.receipt(t, i)
		if err := torchwood.VerifyProof(theirs, tlog.RecordHash(leafOf(t, r)), r); err != nil {
			t.Errorf("receipt %d: torchwood: %v", i, err)
		}
		wantFormats(t, l, r)
		wantWrittenAlike(t, l, r)
		if res, err := verify.Receipt(r, ours); err != nil || res.Entry.Index != i {
			t.Errorf("receipt %d: ours: %v", i, err)
		}
	}
	// What must not verify: another entry, and a proof for another index.
	r, other := l.receipt(t, 7), l.receipt(t, 8)
	var wrong *torchwood.VerifyRecordError
	if err := torchwood.VerifyProof(theirs, tlog.RecordHash(leafOf(t, other)), r); !errors.As(err, &wrong) {
		t.Errorf("torchwood takes another entry: %v", err)
	}
	moved := bytes.Replace(r, []byte("\nindex 7\n"), []byte("\nindex 6\n"), 1)
	if err := torchwood.VerifyProof(theirs, tlog.RecordHash(leafOf(t, r)), moved); !errors.As(err, &wrong) {
		t.Errorf("torchwood takes another index: %v", err)
	}
	if _, err := verify.Receipt(moved, ours); err == nil {
		t.Errorf("ours takes another index")
	}
	t.Run("differences", func(t *testing.T) { wantReceiptDifferences(t, l, r) })
}

// wantFormats verifies a receipt with formats' parser and merkle's verifier.
func wantFormats(t *testing.T, l *logProcess, receipt []byte) {
	t.Helper()
	var p proof.TLogProof
	if err := p.Unmarshal(receipt); err != nil {
		t.Fatalf("formats: %v", err)
	}
	if again := p.Marshal(); !bytes.Equal(again, receipt) {
		t.Errorf("formats writes receipt %d otherwise:\n%s", p.Index, again)
	}
	cp, err := torchwood.ParseCheckpoint(string(p.Checkpoint[:bytes.Index(p.Checkpoint, []byte("\n\n"))+1]))
	if err != nil {
		t.Fatal(err)
	}
	var path [][]byte
	for _, h := range p.Hashes {
		path = append(path, h[:])
	}
	leaf := rfc6962.DefaultHasher.HashLeaf(leafOf(t, receipt))
	if err := merkle.VerifyInclusion(rfc6962.DefaultHasher, p.Index, uint64(cp.N), leaf, path, cp.Hash[:]); err != nil {
		t.Errorf("receipt %d: merkle: %v", p.Index, err)
	}
	if _, _, err := torchwood.VerifyCheckpoint(p.Checkpoint, forTorchwood(t, l.policyText(t))); err != nil {
		t.Errorf("receipt %d: torchwood on the checkpoint: %v", p.Index, err)
	}
}

// wantWrittenAlike has torchwood make the receipt from the tile API: it must be ours.
func wantWrittenAlike(t *testing.T, l *logProcess, receipt []byte) {
	t.Helper()
	var p proof.TLogProof
	if err := p.Unmarshal(receipt); err != nil {
		t.Fatal(err)
	}
	cp, _, err := torchwood.VerifyCheckpoint(p.Checkpoint, forTorchwood(t, l.policyText(t)))
	if err != nil {
		t.Fatal(err)
	}
	_, path, err := torchwoodClient(t, l.url).Entry(t.Context(), cp.Tree, int64(p.Index))
	if err != nil {
		t.Fatal(err)
	}
	written := torchwood.FormatProofWithExtraData(int64(p.Index), p.ExtraData, path, p.Checkpoint)
	if !bytes.Equal(written, receipt) {
		t.Errorf("torchwood writes receipt %d otherwise:\n%s\nours:\n%s", p.Index, written, receipt)
	}
}

// receiptDifferences are ways to write a good receipt otherwise, and who takes it: ours
// verifies it, torchwood verifies it, formats parses it.
var receiptDifferences = []struct {
	name                     string
	edit                     func(receipt string) string
	ours, torchwood, formats bool
	why                      string
}{
	{"as it is", func(s string) string { return s }, true, true, true, ""},
	{"carriage returns", func(s string) string { return strings.ReplaceAll(s, "\n", "\r\n") }, false, false, true, "lines end in a newline; formats drops what stands before it"},
	{"carriage return after a hash", func(s string) string { return strings.Replace(s, "=\n", "=\r\n", 2) }, false, true, true, "Go's base64 skips it; the extra line and the first hash have one spelling"},
	{"leading zero", func(s string) string { return strings.Replace(s, "\nindex 7\n", "\nindex 07\n", 1) }, false, true, true, "tlog-proof: no leading zeros"},
	{"plus sign", func(s string) string { return strings.Replace(s, "\nindex 7\n", "\nindex +7\n", 1) }, false, true, false, "not a decimal number; ParseInt takes the sign"},
	{"loose base64", loosen, false, true, true, "bits behind the hash must be zero, else one proof has many spellings"},
	{"no last newline", func(s string) string { return strings.TrimSuffix(s, "\n") }, false, false, true, "a signed note ends in a newline; formats adds it"},
	{"cut off after the proof", func(s string) string { return s[:strings.Index(s, "\n\n")+2] }, false, false, true, "a receipt without checkpoint proves nothing; formats leaves that to the caller"},
	{"no extra", func(s string) string { return cutLine(s, "extra ") }, false, true, true, "extra is optional; without the record ours cannot open the commitment, and says \"unverifiable\""},
	{"other extra", func(s string) string { return strings.Replace(s, "\nextra ", "\nextra AAAA", 1) }, false, true, true, "extra is not authenticated by the format; ours is the application that binds it to the leaf"},
	{"large extra", func(s string) string {
		return strings.Replace(s, "\nextra ", "\nextra "+strings.Repeat("AAAA", 16<<10), 1)
	}, false, true, false, "an event has at most 32 KiB; formats reads lines up to 64 KiB"},
	{"extra twice", func(s string) string { return strings.Replace(s, "\nindex ", "\nextra AAAA\nindex ", 1) }, false, false, false, "one extra line at most"},
	{"no index", func(s string) string { return cutLine(s, "index ") }, false, false, false, "the index is required"},
	{"newer version", func(s string) string { return strings.Replace(s, "@v1\n", "@v2\n", 1) }, false, false, false, "nobody knows it"},
	{"5000 hashes", func(s string) string {
		return strings.Replace(s, "\n\n", "\n"+strings.Repeat(strings.Repeat("A", 43)+"=\n", 5000)+"\n", 1)
	}, false, false, true, "a path has at most 63 hashes; torchwood finds that it is no proof"},
	{"unknown signature", func(s string) string { return s + "— someone.example/else AAAAAAAA\n" }, true, true, true, "verifiers ignore keys that they do not know"},
	{"no signature of the log", func(s string) string { return unsign(s) }, false, false, true, "formats does not verify"},
	{"without ML-DSA-44", func(s string) string { return keepShortSignatures(s) }, true, true, true, "one signature of a known key is enough; ours names the missing one"},
}

// loosen sets a bit of the last hash's padding.
func loosen(s string) string {
	end := strings.Index(s, "=\n\n")
	const alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/"
	digit := strings.IndexByte(alphabet, s[end-1])
	return s[:end-1] + string(alphabet[digit|1]) + s[end:]
}

func cutLine(s, prefix string) string {
	i := strings.Index(s, "\n"+prefix) + 1
	return s[:i] + s[i+strings.IndexByte(s[i:], '\n')+1:]
}

// unsign leaves one signature, of nobody known.
func unsign(s string) string {
	i := strings.Index(s, "\n\n— ")
	return s[:i+2] + "— someone.example/else AAAAAAAA\n"
}

// keepShortSignatures drops signature lines as long as those of ML-DSA-44.
func keepShortSignatures(s string) string {
	var b strings.Builder
	for line := range strings.Lines(s) {
		if !strings.HasPrefix(line, "— ") || len(line) < 1000 {
			b.WriteString(line)
		}
	}
	return b.String()
}

func wantReceiptDifferences(t *testing.T, l *logProcess, receipt []byte) {
	theirs, ours := forTorchwood(t, l.policyText(t)), l.policy(t)
	leaf := tlog.RecordHash(leafOf(t, receipt))
	for i, d := range receiptDifferences {
		text := []byte(d.edit(string(receipt)))
		if i > 0 && bytes.Equal(text, receipt) {
			t.Errorf("%s: nothing was changed", d.name)
		}
		_, err := verify.Receipt(text, ours)
		twErr := torchwood.VerifyProof(theirs, leaf, text)
		var p proof.TLogProof
		fErr := p.Unmarshal(text)
		if (err == nil) != d.ours || (twErr == nil) != d.torchwood || (fErr == nil) != d.formats {
			t.Errorf("%s (%s):\nours %v, want %v\ntorchwood %v, want %v\nformats %v, want %v", d.name, d.why, err, d.ours, twErr, d.torchwood, fErr, d.formats)
		}
	}
}

// wantPolicy parses a policy with ours.
func wantPolicy(t testing.TB, text string) *policy.Policy {
	t.Helper()
	p, err := policy.Parse([]byte(text))
	if err != nil {
		t.Fatalf("%v in\n%s", err, text)
	}
	return p
}
