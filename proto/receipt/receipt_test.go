package receipt_test

import (
	"bytes"
	"encoding/base64"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/transparency-dev/formats/proof"

	"github.com/keytrail/keytrail/proto/checkpoint"
	"github.com/keytrail/keytrail/proto/event"
	"github.com/keytrail/keytrail/proto/receipt"
	"github.com/keytrail/keytrail/proto/record"
)

// note stands for a signed checkpoint; a receipt only holds it.
const note = "log.example/keys\n7\nAQIDAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAP8=\n\n— log.example/keys AAAAAAA=\n"

func hashes(n int) [][32]byte {
	var out [][32]byte
	for i := range n {
		out = append(out, [32]byte{byte(i), 31: 0xfe})
	}
	return out
}

var examples = map[string]*receipt.Receipt{
	"typical":      {Index: 5, Hashes: hashes(3), Extra: []byte("salt and record"), Checkpoint: []byte(note)},
	"no extra":     {Index: 5, Hashes: hashes(3), Checkpoint: []byte(note)},
	"no hashes":    {Extra: []byte{0}, Checkpoint: []byte(note)},
	"largest":      {Index: 1<<64 - 1, Hashes: hashes(receipt.MaxHashes), Extra: make([]byte, receipt.MaxExtra), Checkpoint: largestNote()},
	"longest line": {Index: 1, Hashes: hashes(1), Extra: make([]byte, receipt.MaxExtra), Checkpoint: []byte(note)},
}

func largestNote() []byte {
	return append(bytes.Repeat([]byte("x"), checkpoint.MaxNoteSize-1), '\n')
}

func TestRoundTrip(t *testing.T) {
	for name, want := range examples {
		data := want.Append(nil)
		got, err := receipt.Parse(data)
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("%s: %s", name, diff)
		}
		if n := want.Size(); n < len(data) || n > len(data)+64 {
			t.Errorf("%s: size is said to be %d, it is %d", name, n, len(data))
		}
		if !bytes.Equal(got.Append([]byte("before")), append([]byte("before"), data...)) {
			t.Errorf("%s: not written as it was read", name)
		}
	}
}

// TestFormats exchanges receipts with transparency-dev/formats, both ways.
func TestFormats(t *testing.T) {
	for name, ours := range examples {
		if name == "largest" {
			continue // their reader takes lines of at most 64 KiB; no checkpoint has such a line
		}
		theirs := proof.TLogProof{Index: ours.Index, Hashes: ours.Hashes, Checkpoint: ours.Checkpoint, ExtraData: ours.Extra}
		if diff := cmp.Diff(string(theirs.Marshal()), string(ours.Append(nil))); diff != "" {
			t.Errorf("%s: encodings differ: %s", name, diff)
		}
		var read proof.TLogProof
		if err := read.Unmarshal(ours.Append(nil)); err != nil {
			t.Errorf("%s: they refuse ours: %v", name, err)
			continue
		}
		if diff := cmp.Diff(theirs, read); diff != "" {
			t.Errorf("%s: they read ours as: %s", name, diff)
		}
		back, err := receipt.Parse(theirs.Marshal())
		if err != nil {
			t.Errorf("%s: we refuse theirs: %v", name, err)
			continue
		}
		if diff := cmp.Diff(ours, back); diff != "" {
			t.Errorf("%s: we read theirs as: %s", name, diff)
		}
	}
}

// TestLargestEventFits: the payload of the largest event goes into a receipt, and the
// receipt into a reader with lines of 64 KiB (see "longest line" above).
func TestLargestEventFits(t *testing.T) {
	if record.MaxPayloadSize > receipt.MaxExtra {
		t.Errorf("a payload may have %d bytes, extra data only %d", record.MaxPayloadSize, receipt.MaxExtra)
	}
	var salt [record.SaltSize]byte
	rec := &record.Record{
		Index: 1<<64 - 1, Producer: strings.Repeat("p", record.MaxProducerSize), KeySequence: 1<<64 - 1,
		PreviousIndex: 1<<64 - 2, KeyEvent: make([]byte, event.MaxSize),
	}
	r := &receipt.Receipt{Index: rec.Index, Hashes: hashes(63), Extra: record.AppendPayload(nil, &salt, rec), Checkpoint: []byte(note)}
	data := r.Append(nil)
	if _, err := receipt.Parse(data); err != nil {
		t.Error(err)
	}
	if err := new(proof.TLogProof).Unmarshal(data); err != nil {
		t.Errorf("transparency-dev/formats: %v", err)
	}
}

func TestParseRefuses(t *testing.T) {
	const good = "c2sp.org/tlog-proof@v1\nextra c2FsdA==\nindex 5\nAQIDAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAP8=\n\n" + note
	if _, err := receipt.Parse([]byte(good)); err != nil {
		t.Fatal(err)
	}
	const hash = "AQIDAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAP8=\n"
	replace := func(old, new string) string { return strings.Replace(good, old, new, 1) }
	for name, bad := range map[string]string{
		"nothing":                 "",
		"header only":             "c2sp.org/tlog-proof@v1\n",
		"other version":           replace("@v1", "@v2"),
		"space after header":      replace("@v1", "@v1 "),
		"carriage returns":        strings.ReplaceAll(good, "\n", "\r\n"),
		"empty extra":             replace("c2FsdA==", ""),
		"extra without space":     replace("extra c2FsdA==", "extra"),
		"loose extra":             replace("c2FsdA==", "c2FsdB=="),
		"extra without padding":   replace("c2FsdA==", "c2FsdA"),
		"extra with a line break": replace("c2FsdA==", "c2Fs\rdA=="),
		"two spaces after extra":  replace("extra ", "extra  "),
		"extra too long":          replace("c2FsdA==", base64.StdEncoding.EncodeToString(make([]byte, receipt.MaxExtra+1))),
		"extra after index":       replace("extra c2FsdA==\nindex 5\n", "index 5\nextra c2FsdA==\n"),
		"unknown line":            replace("index 5", "other 5\nindex 5"),
		"no index":                replace("index 5\n", ""),
		"empty index":             replace("index 5", "index "),
		"leading zero":            replace("index 5", "index 05"),
		"negative index":          replace("index 5", "index -5"),
		"index 2^64":              replace("index 5", "index 18446744073709551616"),
		"space after index":       replace("index 5", "index 5 "),
		"hash of 31 bytes":        replace(hash, "AQIDAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA==\n"),
		"loose hash":              replace("AP8=\n\n", "AP9=\n\n"),
		"64 hashes":               replace(hash, strings.Repeat(hash, 64)),
		"space before hash":       replace(hash, " "+hash),
		"no empty line":           strings.ReplaceAll(good, "\n\n", "\n"),
		"no checkpoint":           strings.TrimSuffix(good, note),
		"no last newline":         strings.TrimSuffix(good, "\n"),
		"checkpoint too large":    strings.TrimSuffix(good, note) + strings.Repeat("x\n", checkpoint.MaxNoteSize/2+1),
		"too large":               good + strings.Repeat("x\n", receipt.MaxSize/2),
	} {
		if _, ok := parseLines([]byte(bad)); ok {
			t.Errorf("%s: is read by its lines", name)
		}
		if r, err := receipt.Parse([]byte(bad)); err == nil {
			t.Errorf("%s: %+v", name, r)
		} else if !strings.HasPrefix(err.Error(), "receipt: ") {
			t.Errorf("%s: message is %q", name, err)
		}
	}
}

func FuzzParse(f *testing.F) {
	for name, r := range examples {
		if name != "largest" {
			f.Add(r.Append(nil))
		}
	}
	f.Add([]byte("c2sp.org/tlog-proof@v1\nindex 00\n\n\n"))
	f.Fuzz(func(t *testing.T, data []byte) {
		again := receipt.Receipt{Index: 9, Hashes: hashes(5), Extra: []byte("what was there before")}
		if err := again.Parse(data); (err == nil) && !bytes.Equal(again.Append(nil), data) {
			t.Errorf("%q is read into another one and written as %q", data, again.Append(nil))
		}
		r, err := receipt.Parse(data)
		if byLines, ok := parseLines(data); ok != (err == nil) || ok && !bytes.Equal(byLines.Append(nil), data) {
			t.Errorf("%q is read by its lines: %v as %+v; Parse says %v", data, ok, byLines, err)
		}
		if err != nil {
			return
		}
		if !bytes.Equal(r.Append(nil), data) {
			t.Errorf("%q is read and written as %q", data, r.Append(nil))
		}
	})
}

// parseLines is Parse by way of ParseLines; ok is false when one of the lines holds no hash.
func parseLines(data []byte) (r receipt.Receipt, ok bool) {
	r = receipt.Receipt{Index: 9, Hashes: hashes(5), Extra: []byte("what was there before")}
	lines, err := r.ParseLines(data)
	if err != nil {
		return r, false
	}
	for i := range lines.Len() {
		h, ok := lines.Hash(i)
		if !ok {
			return r, false
		}
		r.Hashes = append(r.Hashes, h)
	}
	return r, true
}
