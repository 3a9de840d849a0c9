package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/keytrail/keytrail/client"
	"github.com/keytrail/keytrail/log/logdir"
	keytrailv1 "github.com/keytrail/keytrail/proto/keytrail/v1"
	"github.com/keytrail/keytrail/proto/keytrail/v1/rpc"
	"github.com/keytrail/keytrail/storage/pebblestore"
)

// TestRecoverIsKilled restores a backup of a log and kills keytrail recover at random
// moments until it gets to its end. The log is then what it was, byte for byte.
func TestRecoverIsKilled(t *testing.T) {
	t.Parallel()
	size := 20_000
	if testing.Short() {
		size = 5_000
	}
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	rnd := rand.New(rand.NewPCG(seed, 0))
	k := &killed{dir: filepath.Join(t.TempDir(), "log")}
	if _, err := logdir.Init(k.dir, "kill.test/log"); err != nil {
		t.Fatal(err)
	}
	appendMany(t, k, 0, 1_500)
	backup := copyDir(t, k.dir)
	appendMany(t, k, 1_500, size)
	whole := k.dir
	// The ledger too is that of the backup, so that a recovery that ends too early would
	// not be noticed by it. What a whole run takes says when to kill the others: in the
	// second half, where it writes.
	begin := time.Now()
	if !recoverUntil(t, copyDir(t, backup), whole, time.Minute) {
		t.Fatal("it takes more than a minute")
	}
	full := time.Since(begin)
	kills, sizes := 0, make(map[uint64]bool) // at which it was cut off
	for range 4 {
		k.dir = copyDir(t, backup)
		for try := 0; !recoverUntil(t, k.dir, whole, full/2+time.Duration(rnd.Int64N(int64(full)))*time.Duration(try+5)/10); try++ {
			kills++
			sizes[storedSize(t, k.dir)] = true
		}
	}
	t.Logf("%d kills, at the sizes %v", kills, slices.Sorted(maps.Keys(sizes)))
	if out, err := exec.Command("keytrail", "fsck", "--dir", k.dir).CombinedOutput(); err != nil || !bytes.Contains(out, fmt.Appendf(nil, "entries    %d of %d", size, size)) {
		t.Errorf("fsck: %v\n%s", err, out)
	}
	root := func(dir string) string {
		out, err := exec.Command("keytrail", "ledger", "show", "--dir", dir).Output()
		if err != nil {
			t.Fatal(err)
		}
		return string(out)
	}
	if got, want := root(k.dir), root(whole); got != want {
		t.Errorf("the ledger holds %s, and held %s", got, want)
	}
	// It knows all of its events, and goes on.
	cmd, lines := k.start(t)
	c, err := client.Dial(ready(t, lines), client.TLS{})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	for _, n := range []int{0, 1_499, 1_500, size / 2, size - 1} {
		res, err := c.Append(t.Context(), &rpc.AppendRequest{Event: numbered(n)})
		if err != nil || !res.GetAck().GetDuplicate() || res.GetAck().GetIndex() != uint64(n) {
			t.Errorf("event %d again: %v, %v", n, res, err)
		}
	}
	res, err := c.Append(t.Context(), &rpc.AppendRequest{Event: numbered(size), Wait: rpc.Wait_WAIT_PUBLISHED})
	if err != nil || res.GetAck().GetIndex() != uint64(size) {
		t.Errorf("the next event: %v, %v", res, err)
	}
	kill(t, cmd)
}

// recoverUntil runs keytrail recover, kills it after a while, and says whether it had ended.
func recoverUntil(t *testing.T, dir, from string, after time.Duration) bool {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), after)
	defer cancel()
	out, err := exec.CommandContext(ctx, "keytrail", "recover", "--dir", dir, "--from", from).CombinedOutput()
	if err != nil && ctx.Err() == nil {
		t.Fatalf("recover: %v\n%s", err, out)
	}
	return err == nil
}

// storedSize opens the store as the next process would.
func storedSize(t *testing.T, dir string) uint64 {
	t.Helper()
	s, err := pebblestore.Open(filepath.Join(dir, "store"), pebblestore.Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	head, err := s.Head(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return head.Size
}

// copyDir copies a stopped log.
func copyDir(t *testing.T, dir string) string {
	t.Helper()
	to := filepath.Join(t.TempDir(), "copy")
	if out, err := exec.Command("cp", "-a", dir, to).CombinedOutput(); err != nil { // keeps modes
		t.Fatalf("%v\n%s", err, out)
	}
	return to
}

// numbered is the n-th event of a load.
func numbered(n int) *keytrailv1.KeyEvent {
	return &keytrailv1.KeyEvent{
		SchemaVersion: 1, EventId: fmt.Sprint("e-", n), Source: &keytrailv1.Source{System: "recover"},
		Tenant: "acme", Time: timestamppb.New(time.Unix(1_700_000_000+int64(n), 0)),
		Operation: keytrailv1.Operation_OPERATION_USE_SIGN, Outcome: keytrailv1.Outcome_OUTCOME_SUCCESS,
		Key: &keytrailv1.Key{Ref: fmt.Sprint("key-", n%50)},
	}
}

// appendMany runs the log, appends events and stops it.
func appendMany(t *testing.T, k *killed, from, to int) {
	t.Helper()
	cmd, lines := k.start(t)
	c, err := client.Dial(ready(t, lines), client.TLS{})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	for n := from; n < to; {
		var events []*keytrailv1.KeyEvent
		for ; n < to && len(events) < 500; n++ {
			events = append(events, numbered(n))
		}
		if _, err := c.AppendBatch(t.Context(), &rpc.AppendBatchRequest{Events: events}); err != nil {
			t.Fatal(err)
		}
	}
	if err := errors.Join(cmd.Process.Signal(os.Interrupt), cmd.Wait()); err != nil {
		t.Fatal(err)
	}
}
