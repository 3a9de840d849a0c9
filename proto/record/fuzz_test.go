package record_test

import (
	"bytes"
	"fmt"
	"reflect"
	"testing"

	"google.golang.org/protobuf/proto"

	keytrailv1 "github.com/keytrail/keytrail/proto/keytrail/v1"
	"github.com/keytrail/keytrail/proto/record"
)

// FuzzParse: what parses is exactly what Append writes, and protobuf reads the same.
func FuzzParse(f *testing.F) {
	f.Add(sample().Append(nil))
	f.Add((&record.Record{KeyEvent: []byte("e")}).Append(nil))
	f.Add([]byte("\x12\x00\x82\x01\x01e"))
	f.Add([]byte("\x08\xac\x02\x12\x04\x08\x01\x10\x01\x1a\x01p\x20\x02\x28\xab\x02\x82\x01\x01e"))
	f.Fuzz(func(t *testing.T, b []byte) {
		r, err := record.Parse(b)
		reused := record.Record{Index: 7, Producer: "before", KeySequence: 8, PreviousIndex: 3, KeyEvent: []byte("x")}
		for range 2 {
			if againErr := reused.Parse(b); fmt.Sprint(againErr) != fmt.Sprint(err) || !reflect.DeepEqual(reused, r) {
				t.Fatalf("reading into a record gives %+v, %v; want %+v, %v", reused, againErr, r, err)
			}
		}
		if err != nil {
			return
		}
		if again := r.Append(nil); !bytes.Equal(again, b) || r.Size() != len(b) {
			t.Fatalf("%x parses, and is written as %x (size %d)", b, again, r.Size())
		}
		var m keytrailv1.Record
		if err := proto.Unmarshal(b, &m); err != nil {
			t.Fatalf("%x: protobuf: %v", b, err)
		}
		if m.Index != r.Index || !m.LoggedAt.AsTime().Equal(r.LoggedAt) || m.Producer != r.Producer ||
			m.KeySequence != r.KeySequence || m.PreviousIndex != r.PreviousIndex || !bytes.Equal(m.GetKeyEvent(), r.KeyEvent) {
			t.Fatalf("protobuf reads %v, we %+v", &m, r)
		}
	})
}

// FuzzOpen: no payload and no leaf makes them panic; what opens is the payload's bytes.
func FuzzOpen(f *testing.F) {
	f.Add(record.AppendPayload(nil, new([record.SaltSize]byte), sample()))
	leaf := record.Leaf(nil)
	f.Add(leaf[:])
	f.Fuzz(func(t *testing.T, b []byte) {
		if salt, rec, err := record.Open(b); err == nil && !bytes.Equal(append(salt[:], rec...), b) {
			t.Fatalf("%x opens to %x and %x", b, salt, rec)
		}
		if hash, err := record.ParseLeaf(b); err == nil && !bytes.Equal(append([]byte{record.LeafVersion}, hash[:]...), b) {
			t.Fatalf("%x is read as a leaf with the hash %x", b, hash)
		}
	})
}
