package view

import (
	"context"
	"sync"
	"testing"
	"time"

	"github.com/keytrail/keytrail/storage"
)

// growingSource publishes as many erased entries as a test says.
type growingSource struct {
	mu    sync.Mutex
	size  uint64
	grown chan struct{}
}

func (s *growingSource) publish(size uint64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.size = size
	close(s.grown)
	s.grown = make(chan struct{})
}

func (s *growingSource) FollowPublished(ctx context.Context, after uint64) (uint64, error) {
	for {
		s.mu.Lock()
		size, grown := s.size, s.grown
		s.mu.Unlock()
		if size > after {
			return size, nil
		}
		select {
		case <-grown:
		case <-ctx.Done():
			return 0, ctx.Err()
		}
	}
}

func (s *growingSource) Payloads(_ context.Context, start, end uint64, fn func(uint64, []byte) error) error {
	for ; start < end; start++ {
		if err := fn(start, nil); err != nil {
			return err
		}
	}
	return nil
}

func (s *growingSource) RootAt(context.Context, uint64) (root [storage.HashSize]byte, err error) {
	return root, nil
}

// TestGather: entries gather before they are read, unless somebody waits for them. The view
// would let them gather for an hour.
func TestGather(t *testing.T) {
	src := &growingSource{grown: make(chan struct{})}
	v, err := Open(t.Context(), t.TempDir(), src, Options{})
	if err != nil {
		t.Fatal(err)
	}
	v.gatherTime = time.Hour
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- v.Run(ctx) }()
	wait := func(size uint64) {
		t.Helper()
		ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
		defer cancel()
		if err := v.Wait(ctx, size); err != nil {
			t.Fatalf("waiting for %d entries: %v", size, err)
		}
	}
	src.publish(1)
	wait(1)
	for size := uint64(2); size < 50; size += 2 {
		src.publish(size)
		src.publish(size + 1)
		wait(size + 1)
	}
	// Nobody has waited since the last entry was read, or one was read at once because somebody
	// had: the next ones are not.
	src.publish(60)
	time.Sleep(20 * time.Millisecond)
	had := v.Size()
	src.publish(70)
	time.Sleep(20 * time.Millisecond)
	if v.Size() != had {
		t.Errorf("the view went on from %d to %d entries though nobody waits", had, v.Size())
	}
	wait(70)
	cancel()
	if err := <-ended; err != nil {
		t.Error(err)
	}
	if err := v.Close(); err != nil {
		t.Error(err)
	}
}
