package log_test

import (
	"bytes"
	"errors"
	"fmt"
	"testing"

	"github.com/keytrail/keytrail/client/verify"
	"github.com/keytrail/keytrail/log"
	"github.com/keytrail/keytrail/log/logtest"
	"github.com/keytrail/keytrail/proto/policy"
	"github.com/keytrail/keytrail/storage/memstore"
)

// TestReceipts: those of many entries are those of each, under one checkpoint.
func TestReceipts(t *testing.T) {
	d, s := logtest.NewDir(t), memstore.New()
	l := logtest.Open(t, d, s)
	var indexes []uint64
	for n := range 300 {
		indexes = append(indexes, l.Append1(t, logtest.Event(n, fmt.Sprint("key ", n%7))).Index)
	}
	l.AwaitPublished(t, 300)
	indexes = append(indexes, 5, 299, 5)
	if err := s.ErasePayloads(t.Context(), []uint64{17}); err != nil {
		t.Fatal(err)
	}
	p, err := policy.Parse(fmt.Appendf(nil, "log %s\nquorum none\n", d.Signers[0].VerifierKey()))
	if err != nil {
		t.Fatal(err)
	}
	all, err := l.Receipts(t.Context(), indexes)
	if err != nil {
		t.Fatal(err)
	}
	for i, index := range indexes {
		one, err := l.Receipt(t.Context(), index)
		if index == 17 {
			if !errors.Is(err, log.ErrErased) || all[i] != nil {
				t.Errorf("receipt of an erased entry: %q, %v", all[i], err)
			}
			continue
		}
		if err != nil || !bytes.Equal(all[i], one) {
			t.Errorf("receipt of entry %d differs from the one that is asked for alone (%v)", index, err)
		}
		if res, err := verify.Receipt(all[i], p); err != nil || res.Entry.Index != index {
			t.Errorf("receipt of entry %d: %v", index, err)
		}
	}
	if _, err := l.Receipts(t.Context(), []uint64{0, 300}); !errors.Is(err, log.ErrUnpublished) {
		t.Errorf("an entry that is not there: %v", err)
	}
}
