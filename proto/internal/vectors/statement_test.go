package vectors_test

import (
	"bytes"
	"crypto/ed25519"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"fmt"
	"strings"
	"testing"
	"time"

	"filippo.io/mldsa"

	"github.com/keytrail/keytrail/proto/checkpoint"
	"github.com/keytrail/keytrail/proto/statement"
)

// statementVector is one final statement. Verifies has, for each of the keys, whether its
// signature line is good; keys without a line are not listed.
type statementVector struct {
	Description string          `json:"description"`
	Note        string          `json:"note"`
	Valid       bool            `json:"valid"`
	Statement   *saidAtEnd      `json:"statement,omitempty"`
	Keys        []statementKeys `json:"keys,omitempty"`
}

// saidAtEnd is what a final statement says.
type saidAtEnd struct {
	Origin     string   `json:"origin"`
	SignedSize uint64   `json:"signed_size,string"`
	SignedRoot string   `json:"signed_root_hex"`
	KeptSize   uint64   `json:"kept_size,string"`
	KeptRoot   string   `json:"kept_root_hex"`
	Successor  string   `json:"successor"`
	Keys       []string `json:"successor_vkeys"`
	Time       uint64   `json:"time,string"`
}

type statementKeys struct {
	Key      string `json:"vkey"`
	Signer   string `json:"skey"`
	LineID   string `json:"line_key_id_hex"`
	Verifies bool   `json:"verifies"`
}

// textLine returns the signature line over a text that is no checkpoint.
func (s signer) textLine(text string) string {
	var raw []byte
	if s.typ == 1 {
		raw = ed25519.Sign(ed25519.NewKeyFromSeed(s.seed), []byte(text))
	} else {
		var err error
		if raw, err = s.mldsa().SignDeterministic([]byte(text), &mldsa.Options{Context: "keytrail.dev/text/v1"}); err != nil {
			panic(err)
		}
	}
	return fmt.Sprintf("— %s %s\n", s.name, base64.StdEncoding.EncodeToString(append(s.textID(), raw...)))
}

func (s signer) textID() []byte {
	typ := string(rune(1))
	if s.typ == 6 {
		typ = "\xffkeytrail.dev/text/v1/ML-DSA-44"
	}
	id := sha256.Sum256([]byte(s.name + "\n" + typ + string(s.public())))
	return id[:4]
}

func (s signer) statementKey(verifies bool) statementKeys {
	return statementKeys{Key: s.vkey(), Signer: s.skey(), LineID: hex.EncodeToString(s.textID()), Verifies: verifies}
}

func statements() map[string]statementVector {
	ed, pq := newSigner(logName, checkpoint.TypeEd25519, 1), newSigner(logName, checkpoint.TypeMLDSA44, 2)
	next := newSigner(logName+"/2", checkpoint.TypeEd25519, 5)
	nextPQ := newSigner(logName+"/2", checkpoint.TypeMLDSA44, 6)
	const (
		root  = "AQIDAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA//8="
		empty = "47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU="
	)
	text := "keytrail.dev/final-statement/v1\norigin " + logName + "\nsigned 1234 " + root + "\nkept 0 " + empty +
		"\nsuccessor " + logName + "/2\nkey " + next.vkey() + "\nkey " + nextPQ.vkey() + "\ntime 2023-11-14T22:13:20Z\n"
	note := text + "\n" + ed.textLine(text) + pq.textLine(text)
	said := saidAtEnd{
		Origin: logName, SignedSize: 1234, SignedRoot: rootHex, KeptSize: 0,
		KeptRoot: hex.EncodeToString(bytes.Clone(func() []byte { r := checkpoint.EmptyRoot(); return r[:] }())), Successor: logName + "/2",
		Keys: []string{next.vkey(), nextPQ.vkey()}, Time: 1700000000,
	}
	malformed := func(description, old, new string) statementVector {
		return statementVector{Description: description, Note: strings.Replace(note, old, new, 1)}
	}
	forged := strings.Replace(note, "signed 1234", "signed 1235", 1)
	said1235 := said
	said1235.SignedSize = 1235
	checkpointLine := pq.line(logName+"\n1234\n"+root+"\n", 1700000000)
	return map[string]statementVector{
		"both-keys": {
			Description: "A final statement, signed with both of the log's keys. All entries are lost.",
			Note:        note, Valid: true, Statement: &said, Keys: []statementKeys{ed.statementKey(true), pq.statementKey(true)},
		},
		"forged": {
			Description: "A size was changed after signing: neither signature verifies.",
			Note:        forged, Valid: true, Statement: &said1235, Keys: []statementKeys{ed.statementKey(false), pq.statementKey(false)},
		},
		"checkpoint-signature": {
			Description: "The ML-DSA-44 line is that of a checkpoint of the same size: its key id is another, so it counts for nothing.",
			Note:        text + "\n" + ed.textLine(text) + checkpointLine, Valid: true, Statement: &said, Keys: []statementKeys{ed.statementKey(true)},
		},
		"other-version":   malformed("A version that does not exist.", "/v1\n", "/v2\n"),
		"other-successor": malformed("The successor must have the next number.", "successor "+logName+"/2", "successor "+logName+"/3"),
		"kept-more":       malformed("More entries are kept than were signed.", "kept 0 "+empty, "kept 1235 "+root),
		"leading-zero":    malformed("A size has one spelling.", "1234", "01234"),
		"extra-line":      malformed("Nothing follows the time.", "20Z\n", "20Z\nmore\n"),
		"checkpoint":      {Description: "A checkpoint is no statement.", Note: logName + "\n1234\n" + root + "\n\n" + checkpointLine},
	}
}

func TestStatementVectors(t *testing.T) {
	run(t, "statement", statements(), func(t *testing.T, v statementVector) {
		n, err := statement.Parse([]byte(v.Note))
		if (err == nil) != v.Valid {
			t.Fatalf("valid %v, error %v", v.Valid, err)
		}
		if err != nil {
			return
		}
		if text := string(n.AppendText(nil)); !strings.HasPrefix(v.Note, text+"\n") {
			t.Errorf("written again it is %q", text)
		}
		s := v.Statement
		if n.Origin != s.Origin || n.Signed.Size != s.SignedSize || hex.EncodeToString(n.Signed.Root[:]) != s.SignedRoot ||
			n.Kept.Size != s.KeptSize || hex.EncodeToString(n.Kept.Root[:]) != s.KeptRoot || n.Successor != s.Successor ||
			!n.Time.Equal(time.Unix(int64(s.Time), 0)) || fmt.Sprint(n.Keys) != fmt.Sprint(s.Keys) {
			t.Errorf("read as %+v", n.Statement)
		}
		for _, k := range v.Keys {
			key, err := checkpoint.ParseVerifierKey(k.Key)
			if err != nil {
				t.Fatal(err)
			}
			signed, err := n.Verify([]checkpoint.VerifierKey{key})
			if (err == nil && len(signed) == 1) != k.Verifies {
				t.Errorf("%s: %d keys signed, %v", key.Type(), len(signed), err)
			}
		}
	})
}
