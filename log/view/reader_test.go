package view

import (
	"context"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2"

	"github.com/keytrail/keytrail/storage"
)

// emptySource has the roots that filing a segment asks for, and nothing else.
type emptySource struct{ Source }

func (emptySource) RootAt(context.Context, uint64) (root [storage.HashSize]byte, err error) {
	return root, nil
}

// openFull opens a view whose live segment is full of entries with one term.
func openFull(t *testing.T, of term) *View {
	t.Helper()
	v, err := Open(t.Context(), t.TempDir(), emptySource{}, Options{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := v.Close(); err != nil {
			t.Error(err)
		}
	})
	fill(v, of)
	return v
}

func fill(v *View, of term) {
	for i := range segmentSize {
		v.live.add(int64(i), []term{of})
	}
}

// wantAll checks that a query finds a term in every entry of the first segment.
func wantAll(t *testing.T, r *reader, of term) {
	t.Helper()
	var found, all set
	all.fill()
	if err := r.entries(&found, []anyOf{{of}}, 0); err != nil {
		t.Fatal(err)
	}
	if found != all {
		t.Errorf("the query finds %d of %d entries", len(found.offsets()), segmentSize)
	}
}

// TestBeginWhileFiling: a query that begins while a segment is filed finds its entries, in
// memory or in the database.
func TestBeginWhileFiling(t *testing.T) {
	of := tenantTerm("acme")
	v := openFull(t, of)
	v.mu.Lock()
	begun := make(chan *reader)
	go func() {
		r, err := v.begin(t.Context())
		if err != nil {
			t.Error(err)
		}
		begun <- r
	}()
	time.Sleep(50 * time.Millisecond) // It waits for mu, whatever it did before.
	b, err := v.filer.batch(v.db, v.live)
	if err != nil {
		t.Fatal(err)
	}
	if err := b.Commit(pebble.NoSync); err != nil {
		t.Fatal(err)
	}
	v.live = newSegment(1)
	v.mu.Unlock()
	r := <-begun
	defer closeReader(t, r)
	if r.size != segmentSize {
		t.Errorf("the query sees %d entries", r.size)
	}
	wantAll(t, r, of)
}

func closeReader(t *testing.T, r *reader) {
	t.Helper()
	if err := r.close(); err != nil {
		t.Error(err)
	}
}

// TestSegmentIsUsedAgain: the memory of a segment that was filed serves the next one, but not
// while a query reads it.
func TestSegmentIsUsedAgain(t *testing.T) {
	of := tenantTerm("acme")
	v := openFull(t, of)
	first := v.live
	r, err := v.begin(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if err := v.file(t.Context()); err != nil {
		t.Fatal(err)
	}
	if v.live == first {
		t.Fatal("a segment that a query reads is used again")
	}
	fill(v, tenantTerm("other"))
	wantAll(t, r, of)
	closeReader(t, r)

	second := v.live
	if err := v.file(t.Context()); err != nil {
		t.Fatal(err)
	}
	if v.live != second || v.live.entries != 0 || v.live.number != 2 || v.live.has(tenantTerm("other")) {
		t.Errorf("the next segment is %p after %p, number %d, %d entries", v.live, second, v.live.number, v.live.entries)
	}
	if r, err = v.begin(t.Context()); err != nil {
		t.Fatal(err)
	}
	defer closeReader(t, r)
	wantAll(t, r, of)
}
