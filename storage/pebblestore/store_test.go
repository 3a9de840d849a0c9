package pebblestore_test

import (
	"context"
	"testing"

	"github.com/keytrail/keytrail/storage"
	"github.com/keytrail/keytrail/storage/pebblestore"
	"github.com/keytrail/keytrail/storage/storagetest"
)

func TestSmoke(t *testing.T) {
	dir := t.TempDir()
	s, err := pebblestore.Create(dir, pebblestore.Options{})
	if err != nil {
		t.Fatal(err)
	}
	ctx := context.Background()
	b := storagetest.NewBuilder()
	for _, n := range []int{1, 2, 255, 1, 1000, 64} {
		if err := s.Commit(ctx, b.Batch(t, n)); err != nil {
			t.Fatal(err)
		}
		if err := storage.Verify(ctx, s); err != nil {
			t.Fatal(err)
		}
	}
	if err := s.ErasePayloads(ctx, []uint64{3, 1000}); err != nil {
		t.Fatal(err)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	s, err = pebblestore.Open(dir, pebblestore.Options{})
	if err != nil {
		t.Fatal(err)
	}
	n := 0
	err = s.Payloads(ctx, 0, b.Head.Size, func(i uint64, p []byte) error {
		if p == nil {
			n++
		} else if string(p) != string(storagetest.Entry(i).Payload) {
			t.Fatal(i)
		}
		return nil
	})
	if err != nil || n != 2 {
		t.Fatal(n, err)
	}
	if _, err := pebblestore.Open(dir, pebblestore.Options{}); err == nil {
		t.Fatal()
	} else {
		t.Log(err)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
}
