package statement_test

import (
	"bytes"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/keytrail/keytrail/proto/checkpoint"
	"github.com/keytrail/keytrail/proto/statement"
)

const origin = "log.example/keys"

// signers returns the two fixed keys of a log.
func signers(t testing.TB, name string, n byte) []*checkpoint.SignerKey {
	t.Helper()
	var out []*checkpoint.SignerKey
	for i, typ := range []checkpoint.KeyType{checkpoint.TypeEd25519, checkpoint.TypeMLDSA44} {
		k, err := checkpoint.NewSignerKey(name, typ, bytes.Repeat([]byte{n + byte(i)}, 32))
		if err != nil {
			t.Fatal(err)
		}
		out = append(out, k)
	}
	return out
}

func publicKeys(signers []*checkpoint.SignerKey) []checkpoint.VerifierKey {
	var out []checkpoint.VerifierKey
	for _, s := range signers {
		out = append(out, s.VerifierKey())
	}
	return out
}

func example(t testing.TB) *statement.Statement {
	return &statement.Statement{
		Origin: origin, Signed: statement.Tree{Size: 1234, Root: [32]byte{1}}, Kept: statement.Tree{Size: 1200, Root: [32]byte{2}},
		Successor: origin + "/2", Keys: publicKeys(signers(t, origin+"/2", 3)), Time: time.Unix(1800000000, 0).UTC(),
	}
}

func sign(t testing.TB, s *statement.Statement) []byte {
	t.Helper()
	note, err := s.Sign(signers(t, origin, 1)...)
	if err != nil {
		t.Fatal(err)
	}
	return note
}

func TestRoundTrip(t *testing.T) {
	for name, change := range map[string]func(s *statement.Statement){
		"typical":      func(*statement.Statement) {},
		"nothing kept": func(s *statement.Statement) { s.Kept = statement.Tree{Root: checkpoint.EmptyRoot()} },
		"nothing lost": func(s *statement.Statement) { s.Kept = s.Signed },
		"one key":      func(s *statement.Statement) { s.Keys = s.Keys[:1] },
	} {
		want := example(t)
		change(want)
		note := sign(t, want)
		got, err := statement.Parse(note)
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		if diff := cmp.Diff(fmt.Sprint(*want), fmt.Sprint(got.Statement)); diff != "" {
			t.Errorf("%s: %s", name, diff)
		}
		keys := publicKeys(signers(t, origin, 1))
		signed, err := got.Verify(keys)
		if err != nil || len(signed) != 2 {
			t.Errorf("%s: %d signatures, %v", name, len(signed), err)
		}
		if strangers, err := got.Verify(publicKeys(signers(t, origin, 7))); err != nil || len(strangers) != 0 {
			t.Errorf("%s: strangers' keys: %d signatures, %v", name, len(strangers), err)
		}
	}
}

// TestIsNoCheckpoint holds that no reader of checkpoints takes a statement for one.
func TestIsNoCheckpoint(t *testing.T) {
	note := sign(t, example(t))
	for name, parse := range map[string]func([]byte) (checkpoint.Checkpoint, []checkpoint.Signature, error){
		"ParseNote": checkpoint.ParseNote, "ParseForeignNote": checkpoint.ParseForeignNote,
	} {
		if c, _, err := parse(note); err == nil || errors.Is(err, checkpoint.ErrExtension) {
			t.Errorf("%s reads %+v, %v", name, c, err)
		}
	}
}

func TestNext(t *testing.T) {
	for origin, want := range map[string]string{
		"log.example.com/keys":                      "log.example.com/keys/2",
		"log.example.com/keys/2":                    "log.example.com/keys/3",
		"log.example.com/keys/99":                   "log.example.com/keys/100",
		"log.example.com/keys/02":                   "log.example.com/keys/02/2",
		"log.example.com/keys2":                     "log.example.com/keys2/2",
		"log.example.com":                           "log.example.com/2",
		"7":                                         "7/2",
		"log.example.com/18446744073709551615":      "log.example.com/18446744073709551615/2",
		"log.example.com/99999999999999999999999/1": "log.example.com/99999999999999999999999/2",
	} {
		if got := statement.Next(origin); got != want {
			t.Errorf("Next(%q) = %q, want %q", origin, got, want)
		}
	}
}

func TestSignRefuses(t *testing.T) {
	for name, change := range map[string]func(s *statement.Statement){
		"no origin":            func(s *statement.Statement) { s.Origin = "" },
		"another successor":    func(s *statement.Statement) { s.Successor = origin + "/3" },
		"no key":               func(s *statement.Statement) { s.Keys = nil },
		"a key twice":          func(s *statement.Statement) { s.Keys = append(s.Keys, s.Keys[0]) },
		"a key of another log": func(s *statement.Statement) { s.Keys = publicKeys(signers(t, origin, 1)) },
		"more kept":            func(s *statement.Statement) { s.Kept.Size = 1235 },
		"kept is another tree": func(s *statement.Statement) { s.Kept.Size = 1234 },
		"kept without a root":  func(s *statement.Statement) { s.Kept.Size = 0 },
		"signed nothing":       func(s *statement.Statement) { s.Signed = statement.Tree{Root: checkpoint.EmptyRoot()} },
		"before 1970":          func(s *statement.Statement) { s.Time = time.Unix(-1, 0) },
	} {
		s := example(t)
		change(s)
		if _, err := s.Sign(signers(t, origin, 1)...); err == nil {
			t.Errorf("%s: signed", name)
		}
	}
	if _, err := example(t).Sign(); err == nil {
		t.Error("a statement without signatures")
	}
	if _, err := example(t).Sign(signers(t, origin+"/2", 3)...); err == nil {
		t.Error("signed by the successor")
	}
}

func TestParseRefuses(t *testing.T) {
	note := string(sign(t, example(t)))
	replace := func(old, new string) string {
		if !strings.Contains(note, old) {
			t.Fatalf("no %q in the note", old)
		}
		return strings.Replace(note, old, new, 1)
	}
	key := note[strings.Index(note, "key "):strings.Index(note, "time ")]
	for name, bad := range map[string]string{
		"nothing":            "",
		"another version":    replace("/v1\n", "/v2\n"),
		"no origin":          replace("origin log.example/keys\n", ""),
		"order":              replace("signed 1234", "kept 1234"),
		"two spaces":         replace("signed 1234 ", "signed 1234  "),
		"leading zero":       replace("signed 1234", "signed 01234"),
		"no root":            replace("kept 1200 AgAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=", "kept 1200"),
		"loose root":         replace("kept 1200 AgAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=", "kept 1200 AgAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAB="),
		"no key":             replace(key, ""),
		"a key twice":        replace(key, key+key),
		"nine keys":          replace(key, strings.Repeat(key, 5)),
		"bad key":            replace("key log", "key gol"),
		"no time":            replace("time 2027-01-15T08:00:00Z\n", ""),
		"time with fraction": replace("08:00:00Z", "08:00:00.5Z"),
		"time with offset":   replace("08:00:00Z", "09:00:00+01:00"),
		"no such time":       replace("01-15T", "02-30T"),
		"a line more":        replace("08:00:00Z\n", "08:00:00Z\nmore\n"),
		"no signature":       note[:strings.Index(note, "\n\n")+2],
		"no last newline":    strings.TrimSuffix(note, "\n"),
		"carriage returns":   strings.ReplaceAll(note, "\n", "\r\n"),
		"too large":          note + strings.Repeat("— a AAAAAAAA\n", statement.MaxSize/12),
	} {
		if n, err := statement.Parse([]byte(bad)); err == nil {
			t.Errorf("%s: read as %+v", name, n.Statement)
		}
	}
}

// TestAttackForgedLine puts a signature line of another text under a trusted name.
func TestAttackForgedLine(t *testing.T) {
	n, err := statement.Parse(sign(t, example(t)))
	if err != nil {
		t.Fatal(err)
	}
	other := example(t)
	other.Signed.Size++
	for i, s := range signers(t, origin, 1) {
		sig, err := s.SignText(other.AppendText(nil))
		if err != nil {
			t.Fatal(err)
		}
		forged := *n
		forged.Sigs = append([]checkpoint.Signature{sig}, n.Sigs[1-i])
		if signed, err := forged.Verify(publicKeys(signers(t, origin, 1))); !errors.Is(err, checkpoint.ErrSignature) || signed != nil {
			t.Errorf("%v: %d keys signed, %v", s.VerifierKey().Type(), len(signed), err)
		}
	}
}

// FuzzParse holds that what is read is written again byte for byte.
func FuzzParse(f *testing.F) {
	small := example(f) // without ML-DSA-44, whose keys take long to read
	small.Keys = small.Keys[:1]
	note, err := small.Sign(signers(f, origin, 1)[0])
	if err != nil {
		f.Fatal(err)
	}
	f.Add(note)
	f.Add([]byte(statement.Format + "\norigin a\n"))
	f.Fuzz(func(t *testing.T, b []byte) {
		n, err := statement.Parse(b)
		if err != nil {
			return
		}
		again := append(n.AppendText(nil), '\n')
		for _, s := range n.Sigs {
			again = s.Append(again)
		}
		if !bytes.Equal(again, b) {
			t.Errorf("%q is written as %q", b, again)
		}
		if c, _, err := checkpoint.ParseNote(b); err == nil {
			t.Errorf("a checkpoint too: %+v", c)
		}
	})
}
