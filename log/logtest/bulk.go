package logtest

import (
	"encoding/base64"
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"runtime"
	"sync"
	"testing"
	"time"

	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/keytrail/keytrail/proto/event"
	keytrailv1 "github.com/keytrail/keytrail/proto/keytrail/v1"
	"github.com/keytrail/keytrail/proto/record"
	"github.com/keytrail/keytrail/storage"
	"github.com/keytrail/keytrail/storage/storagetest"
)

// bulkBatch is how many entries Fill commits at a time.
const bulkBatch = 16 << 10

// Fill commits n entries to an empty store in large batches: a log that has run for long,
// without running one. Entry makes the i-th, and is called concurrently.
func Fill(t testing.TB, s storage.Store, n int, entry func(i int) storage.Entry) {
	t.Helper()
	b := storagetest.NewBuilder()
	for start := 0; start < n; start += bulkBatch {
		entries := make([]storage.Entry, min(bulkBatch, n-start))
		var wg sync.WaitGroup
		for w := range runtime.GOMAXPROCS(0) {
			wg.Go(func() {
				for i := w; i < len(entries); i += runtime.GOMAXPROCS(0) {
					entries[i] = entry(start + i)
				}
			})
		}
		wg.Wait()
		batch := b.BatchOf(t, entries)
		batch.New.Time = bulkTime(start + len(entries) - 1)
		b.Head = batch.New
		if err := s.Commit(t.Context(), batch); err != nil {
			t.Fatal(err)
		}
		b.Forget()
	}
}

// bulkTime is when the i-th entry was logged.
func bulkTime(i int) time.Time {
	return time.Unix(1_767_225_600+int64(i/1000), int64(i%1000)*1e6).UTC()
}

// LeafEntry makes an entry for Fill that is a leaf with one byte behind it: for what never
// looks at payloads.
func LeafEntry(i int) storage.Entry {
	var leaf [record.LeafSize]byte
	leaf[0] = record.LeafVersion
	rnd := rand.New(rand.NewPCG(uint64(i), 1))
	for at := 1; at < len(leaf); at += 8 {
		binary.LittleEndian.PutUint64(leaf[at:], rnd.Uint64())
	}
	return storage.Entry{Leaf: leaf[:], Payload: []byte{1}}
}

// RecordEntry returns a function for Fill that makes records of events of about size
// bytes, most of them random, each key's events keys entries apart.
func RecordEntry(t testing.TB, keys, size int) func(i int) storage.Entry {
	filler := 0
	entry := func(i int) storage.Entry {
		ev, err := event.Append(nil, bulkEvent(i, i%keys, filler))
		if err != nil {
			t.Error(err)
		}
		r := record.Record{Index: uint64(i), LoggedAt: bulkTime(i), Producer: "tester", KeySequence: uint64(i/keys) + 1, KeyEvent: ev}
		if i >= keys {
			r.PreviousIndex = uint64(i - keys)
		}
		var salt [record.SaltSize]byte
		binary.LittleEndian.PutUint64(salt[:], rand.Uint64())
		payload := record.AppendPayload(nil, &salt, &r)
		leaf := record.Leaf(payload)
		return storage.Entry{Leaf: leaf[:], Payload: payload}
	}
	filler = max(0, size-len(entry(0).Payload)+100)
	return entry
}

func bulkEvent(i, key, filler int) *keytrailv1.KeyEvent {
	rnd := rand.New(rand.NewPCG(uint64(i), 2))
	raw := make([]byte, filler*3/4+8)
	for at := 0; at+8 <= len(raw); at += 8 {
		binary.LittleEndian.PutUint64(raw[at:], rnd.Uint64())
	}
	return &keytrailv1.KeyEvent{
		SchemaVersion: 1,
		EventId:       fmt.Sprintf("%016x-%08x", rnd.Uint64(), i),
		Source:        &keytrailv1.Source{System: "bench", Account: "111122223333", Region: "eu-central-1"},
		Tenant:        fmt.Sprintf("tenant-%d", key%16),
		Time:          timestamppb.New(bulkTime(i)),
		Operation:     keytrailv1.Operation_OPERATION_USE_DECRYPT,
		Outcome:       keytrailv1.Outcome_OUTCOME_SUCCESS,
		Key:           &keytrailv1.Key{Ref: fmt.Sprintf("arn:bench:eu-central-1:111122223333:key/%08d", key)},
		Actor:         &keytrailv1.Actor{Id: fmt.Sprintf("arn:bench:iam::111122223333:role/service-%d", key%97), Type: keytrailv1.Actor_TYPE_WORKLOAD},
		SourceIp:      "10.20.30.40",
		RequestId:     fmt.Sprintf("%016x", rnd.Uint64()),
		Attributes:    []*keytrailv1.Attribute{{Name: "filler", Value: base64.RawStdEncoding.EncodeToString(raw)[:filler]}},
	}
}
