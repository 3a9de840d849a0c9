package vectors_test

import (
	"bytes"
	"encoding/hex"
	"strings"
	"testing"

	"github.com/keytrail/keytrail/proto/checkpoint"
	"github.com/keytrail/keytrail/proto/consistency"
	"github.com/keytrail/keytrail/proto/receipt"
)

// receiptVector is one tlog-proof. What it proves is the business of the vectors of
// verify.
type receiptVector struct {
	Description string        `json:"description"`
	Receipt     string        `json:"receipt"`
	Valid       bool          `json:"valid"`
	Parts       *receiptParts `json:"parts,omitempty"`
}

type receiptParts struct {
	Extra      string   `json:"extra_hex"`
	Index      uint64   `json:"index,string"`
	Hashes     []string `json:"hashes_hex"`
	Checkpoint string   `json:"checkpoint"`
}

// bundleVector is one consistency bundle.
type bundleVector struct {
	Description string       `json:"description"`
	Bundle      string       `json:"bundle"`
	Valid       bool         `json:"valid"`
	Parts       *bundleParts `json:"parts,omitempty"`
}

type bundleParts struct {
	OldSize    uint64   `json:"old_size,string"`
	Hashes     []string `json:"hashes_hex"`
	Checkpoint string   `json:"checkpoint"`
}

const (
	hashA    = "AQIDAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA//8=\n"
	hashAHex = "010203000000000000000000000000000000000000000000000000000000ffff"
	hashB    = "/////////////////////////////////////////wA=\n"
	hashBHex = "ffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff00"
)

func note() string {
	return text + "\n" + newSigner(logName, checkpoint.TypeEd25519, 1).line(text, 0)
}

func receipts() map[string]receiptVector {
	const header = "c2sp.org/tlog-proof@v1\n"
	note := note()
	valid := func(description, head string, parts receiptParts) receiptVector {
		parts.Checkpoint = note
		return receiptVector{description, head + "\n" + note, true, &parts}
	}
	invalid := func(description, data string) receiptVector {
		return receiptVector{description, data, false, nil}
	}
	good := header + "extra c2FsdA==\nindex 5\n" + hashA + hashB + "\n" + note
	change := func(old, new string) string { return strings.Replace(good, old, new, 1) }
	return map[string]receiptVector{
		"typical":           valid("Extra data, index, two hashes and a checkpoint.", header+"extra c2FsdA==\nindex 5\n"+hashA+hashB, receiptParts{"73616c74", 5, []string{hashAHex, hashBHex}, ""}),
		"no-extra":          valid("Without extra data.", header+"index 5\n"+hashA, receiptParts{"", 5, []string{hashAHex}, ""}),
		"no-hashes":         valid("The only entry of a log needs no hash.", header+"extra c2FsdA==\nindex 0\n", receiptParts{"73616c74", 0, []string{}, ""}),
		"largest-index":     valid("The largest index.", header+"index 18446744073709551615\n"+strings.Repeat(hashA, 63), receiptParts{"", 1<<64 - 1, strings.Split(strings.TrimSpace(strings.Repeat(hashAHex+" ", 63)), " "), ""}),
		"no-header":         invalid("The first line is missing.", strings.TrimPrefix(good, header)),
		"other-version":     invalid("Another version.", change("@v1", "@v2")),
		"empty-extra":       invalid("An extra line without data.", change("c2FsdA==", "")),
		"loose-extra":       invalid("Base64 with unused bits set.", change("c2FsdA==", "c2FsdB==")),
		"extra-twice":       invalid("Two extra lines.", change("index", "extra c2FsdA==\nindex")),
		"extra-last":        invalid("Extra data after the index.", change("extra c2FsdA==\nindex 5\n", "index 5\nextra c2FsdA==\n")),
		"no-index":          invalid("The index is missing.", change("index 5\n", "")),
		"leading-zero":      invalid("An index with a leading zero.", change("index 5", "index 005")),
		"index-2-64":        invalid("An index of more than 64 bits.", change("index 5", "index 18446744073709551616")),
		"short-hash":        invalid("A hash of 31 bytes.", change("//8=", "/w==")),
		"64-hashes":         invalid("More hashes than a proof can have.", change(hashA, strings.Repeat(hashA, 63))),
		"carriage-returns":  invalid("Lines that end in CR LF.", strings.ReplaceAll(good, "\n", "\r\n")),
		"no-checkpoint":     invalid("The checkpoint is missing.", strings.TrimSuffix(good, note)),
		"no-separator":      invalid("No empty line before the checkpoint.", change("\n\n"+logName, "\n"+logName)),
		"no-last-newline":   invalid("Cut off before the last newline.", strings.TrimSuffix(good, "\n")),
		"cut-in-the-hashes": invalid("Cut off after the first hash.", good[:strings.Index(good, hashB)]),
	}
}

func TestReceiptVectors(t *testing.T) {
	run(t, "receipt", receipts(), func(t *testing.T, v receiptVector) {
		got, err := receipt.Parse([]byte(v.Receipt))
		if (err == nil) != v.Valid {
			t.Fatalf("Parse: %+v, %v", got, err)
		}
		if !v.Valid {
			return
		}
		extra, err := hex.DecodeString(v.Parts.Extra)
		if err != nil {
			t.Fatal(err)
		}
		want := &receipt.Receipt{Index: v.Parts.Index, Hashes: fromHex(t, v.Parts.Hashes), Extra: extra, Checkpoint: []byte(v.Parts.Checkpoint)}
		if data := want.Append(nil); string(data) != v.Receipt {
			t.Errorf("Append: %q", data)
		}
		if !bytes.Equal(got.Extra, extra) || got.Index != want.Index || string(got.Checkpoint) != v.Parts.Checkpoint || len(got.Hashes) != len(want.Hashes) {
			t.Errorf("Parse: %+v", got)
		}
		for i := range want.Hashes {
			if got.Hashes[i] != want.Hashes[i] {
				t.Errorf("Parse: hash %d is %x", i, got.Hashes[i])
			}
		}
	})
}

func bundles() map[string]bundleVector {
	note := note()
	valid := func(description, head string, parts bundleParts) bundleVector {
		parts.Checkpoint = note
		return bundleVector{description, head + "\n" + note, true, &parts}
	}
	invalid := func(description, data string) bundleVector {
		return bundleVector{description, data, false, nil}
	}
	good := "old 3\n" + hashA + hashB + "\n" + note
	change := func(old, new string) string { return strings.Replace(good, old, new, 1) }
	return map[string]bundleVector{
		"typical":          valid("Old size, two hashes and a checkpoint.", "old 3\n"+hashA+hashB, bundleParts{3, []string{hashAHex, hashBHex}, ""}),
		"from-nothing":     valid("From the empty tree: no hashes.", "old 0\n", bundleParts{0, []string{}, ""}),
		"no-old":           invalid("The old size is missing.", change("old 3\n", "")),
		"leading-zero":     invalid("An old size with a leading zero.", change("old 3", "old 03")),
		"old-2-64":         invalid("An old size of more than 64 bits.", change("old 3", "old 18446744073709551616")),
		"64-hashes":        invalid("More hashes than a proof can have.", change(hashA, strings.Repeat(hashA, 63))),
		"loose-hash":       invalid("Base64 with unused bits set.", change("//8=", "//9=")),
		"carriage-returns": invalid("Lines that end in CR LF.", strings.ReplaceAll(good, "\n", "\r\n")),
		"no-separator":     invalid("No empty line before the checkpoint.", change("\n\n"+logName, "\n"+logName)),
		"no-checkpoint":    invalid("The checkpoint is missing.", strings.TrimSuffix(good, note)),
		"no-last-newline":  invalid("Cut off before the last newline.", strings.TrimSuffix(good, "\n")),
	}
}

func TestConsistencyVectors(t *testing.T) {
	run(t, "consistency", bundles(), func(t *testing.T, v bundleVector) {
		got, err := consistency.Parse([]byte(v.Bundle))
		if (err == nil) != v.Valid {
			t.Fatalf("Parse: %+v, %v", got, err)
		}
		if !v.Valid {
			return
		}
		want := &consistency.Bundle{OldSize: v.Parts.OldSize, Hashes: fromHex(t, v.Parts.Hashes), Checkpoint: []byte(v.Parts.Checkpoint)}
		if data := want.Append(nil); string(data) != v.Bundle {
			t.Errorf("Append: %q", data)
		}
		if got.OldSize != want.OldSize || string(got.Checkpoint) != v.Parts.Checkpoint || len(got.Hashes) != len(want.Hashes) {
			t.Errorf("Parse: %+v", got)
		}
		for i := range want.Hashes {
			if got.Hashes[i] != want.Hashes[i] {
				t.Errorf("Parse: hash %d is %x", i, got.Hashes[i])
			}
		}
	})
}
