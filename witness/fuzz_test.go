package witness_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"testing"

	"github.com/keytrail/keytrail/proto/checkpoint"
	"github.com/keytrail/keytrail/proto/consistency"
	"github.com/keytrail/keytrail/witness"
)

// FuzzAddCheckpoint sends any bytes: the answer is cosignatures or a refusal, and only a
// request that is spelled in the one way is cosigned.
func FuzzAddCheckpoint(f *testing.F) {
	l := newLog(f, testOrigin, testOrigin)
	w := inMemory(f, l)
	w.add(f, l.request(f, 0, 8))
	f.Add(l.request(f, 8, 8))
	f.Add(l.request(f, 8, 9))
	f.Add(l.request(f, 0, 9))
	f.Add([]byte("old 0\n\n"))
	f.Fuzz(func(t *testing.T, body []byte) {
		lines, err := w.AddCheckpoint(context.Background(), body)
		if err != nil {
			if _, ok := errors.AsType[*witness.RefusalError](err); !ok {
				t.Fatalf("neither cosignatures nor a refusal: %v", err)
			}
			return
		}
		u, err := consistency.Parse(body)
		if err != nil {
			t.Fatal(err)
		}
		c, sigs, err := checkpoint.ParseForeignNote(u.Checkpoint)
		if err != nil {
			t.Fatal(err)
		}
		u.Checkpoint = checkpoint.AppendNote(nil, c, sigs)
		if !bytes.Equal(u.Append(nil), body) {
			t.Error("a second spelling of a request was cosigned")
		}
		verifyLines(t, lines, c)
	})
}

func FuzzParseLogList(f *testing.F) {
	k := key(f, "log.test/a", checkpoint.TypeEd25519, 0).VerifierKey()
	f.Add(fmt.Appendf(nil, "logs/v0\nvkey %s\norigin go.sum database tree\nqpd 1\ncontact x\n", k))
	f.Fuzz(func(t *testing.T, list []byte) {
		logs, err := witness.ParseLogList(list)
		if err != nil {
			return
		}
		for _, l := range logs {
			if err := l.Validate(); err != nil || l.PerDay == 0 || len(l.Keys) != 1 {
				t.Errorf("a list gives %+v, %v", l, err)
			}
		}
	})
}

// FuzzParseForeignNote lives beside its only user.
func FuzzParseForeignNote(f *testing.F) {
	l := newLog(f, "go.sum database tree", "sum.test")
	f.Add(l.sign(f, l.at(3)))
	f.Fuzz(func(t *testing.T, note []byte) {
		c, sigs, err := checkpoint.ParseForeignNote(note)
		if err == nil && !bytes.Equal(checkpoint.AppendNote(nil, c, sigs), note) {
			t.Error("a note is written otherwise than it was read")
		}
	})
}
