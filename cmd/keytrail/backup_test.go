package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io/fs"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/keytrail/keytrail/client"
	"github.com/keytrail/keytrail/log/logdir"
	keytrailv1 "github.com/keytrail/keytrail/proto/keytrail/v1"
	"github.com/keytrail/keytrail/proto/keytrail/v1/rpc"
	"github.com/keytrail/keytrail/storage/pebblestore"
)

// TestBackupIsKilled kills keytrail backup at random moments while the log grows. What was
// finished before can be restored after each kill, and the next run goes on. Restoring is
// killed too, and leaves nothing at its place.
func TestBackupIsKilled(t *testing.T) {
	t.Parallel()
	rounds := 12
	if testing.Short() {
		rounds = 5
	}
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	rnd := rand.New(rand.NewPCG(seed, 0))
	k, dir := &killed{dir: filepath.Join(t.TempDir(), "log")}, filepath.Join(t.TempDir(), "bk")
	if _, err := logdir.Init(k.dir, "kill.test/log"); err != nil {
		t.Fatal(err)
	}
	cmd, lines := k.start(t)
	server, web := readyBoth(t, lines)
	c, err := client.Dial(server, client.TLS{})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	backup := []string{"backup", "--dir", k.dir, "--server", server, "--url", "http://" + web, dir}
	n := appendTo(t, c, 0, 3_000)
	begin := time.Now()
	finished := treeSize(t, runKeytrail(t, backup...))
	full := time.Since(begin)
	kills := 0
	for range rounds {
		n = appendTo(t, c, n, n+1_000+rnd.IntN(2_000))
		if !keytrailUntil(t, time.Duration(rnd.Int64N(int64(full))), backup...) {
			kills++
		}
		size := treeSize(t, runKeytrail(t, "restore", "--check", dir))
		if size < finished {
			t.Fatalf("a backup of %d entries, one of %d was finished before", size, finished)
		}
		finished = size
	}
	if size := treeSize(t, runKeytrail(t, append(backup, "--verify-all")...)); size != n {
		t.Errorf("%d entries, want %d", size, n)
	}
	kill(t, cmd)
	restored := filepath.Join(t.TempDir(), "again")
	begin = time.Now()
	runKeytrail(t, "restore", "--check", dir)
	full = time.Since(begin)
	for try := 0; ; try++ {
		done := keytrailUntil(t, time.Duration(rnd.Int64N(int64(full)))*time.Duration(try+1)/2, "restore", dir, restored, "--ledger", filepath.Join(k.dir, "signer", "ledger"))
		if done {
			break
		}
		kills++
		if _, err := os.Stat(restored); !errors.Is(err, os.ErrNotExist) && storedSize(t, restored) != uint64(n) {
			t.Fatal("half of a log is in its place")
		}
	}
	t.Logf("%d kills", kills)
	runKeytrail(t, "fsck", "--dir", withKeys(t, restored, k.dir))
	if got := storedSize(t, restored); got != uint64(n) {
		t.Errorf("%d entries, want %d", got, n)
	}
}

// TestBackupDropsErased erases payloads in a stopped log, and backs it up stopped and running.
func TestBackupDropsErased(t *testing.T) {
	t.Parallel()
	k, dir := &killed{dir: filepath.Join(t.TempDir(), "log")}, filepath.Join(t.TempDir(), "bk")
	if _, err := logdir.Init(k.dir, "kill.test/log"); err != nil {
		t.Fatal(err)
	}
	appendMany(t, k, 0, 600)
	runKeytrail(t, "backup", "--dir", k.dir, dir)
	var secrets [][]byte
	erase := func(indexes ...uint64) {
		s, err := pebblestore.Open(filepath.Join(k.dir, "store"), pebblestore.Options{})
		if err != nil {
			t.Fatal(err)
		}
		defer s.Close()
		for _, i := range indexes {
			err = errors.Join(err, s.Payloads(t.Context(), i, i+1, func(_ uint64, p []byte) error {
				secrets = append(secrets, bytes.Clone(p[:32]))
				return nil
			}))
		}
		if err := errors.Join(err, s.ErasePayloads(t.Context(), indexes)); err != nil {
			t.Fatal(err)
		}
	}
	check := func(out []byte, erased, dropped string) {
		t.Helper()
		if !strings.Contains(string(out), `"payloads_erased": `+erased) || !strings.Contains(string(out), `"payloads_dropped": `+dropped) {
			t.Errorf("%s erased, %s dropped: %s", erased, dropped, out)
		}
		for _, s := range secrets {
			err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
				if err != nil || d.IsDir() {
					return err
				}
				b, err := os.ReadFile(path)
				if bytes.Contains(b, s) {
					t.Errorf("an erased payload is still in %s", path)
				}
				return err
			})
			if err != nil {
				t.Fatal(err)
			}
		}
	}
	erase(3, 299)
	check(runKeytrail(t, "backup", "--dir", k.dir, dir), "2", "2")
	erase(4, 599)
	cmd, lines := k.start(t)
	server, web := readyBoth(t, lines)
	check(runKeytrail(t, "backup", "--dir", k.dir, "--server", server, "--url", "http://"+web, "--verify-all", dir), "4", "2")
	kill(t, cmd)
	if out := runKeytrail(t, "restore", "--check", dir); !bytes.Contains(out, []byte(`"payloads_erased": 4`)) {
		t.Errorf("restored: %s", out)
	}
}

// readyBoth reads the addresses that a server prints when it serves.
func readyBoth(t *testing.T, lines *bufio.Reader) (server, web string) {
	t.Helper()
	line, err := readReady(lines)
	if err != nil {
		t.Fatal(err)
	}
	for _, word := range strings.Fields(line) {
		if addr, ok := strings.CutPrefix(word, "grpc="); ok {
			server = addr
		}
		if addr, ok := strings.CutPrefix(word, "http="); ok {
			web = addr
		}
	}
	return server, web
}

// appendTo appends numbered events, and waits until they are published.
func appendTo(t *testing.T, c *client.Client, from, to int) int {
	t.Helper()
	for n := from; n < to; {
		var events []*keytrailv1.KeyEvent
		for ; n < to && len(events) < 500; n++ {
			events = append(events, numbered(n))
		}
		if _, err := c.AppendBatch(t.Context(), &rpc.AppendBatchRequest{Events: events, Wait: rpc.Wait_WAIT_DURABLE}); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := c.Append(t.Context(), &rpc.AppendRequest{Event: numbered(to - 1), Wait: rpc.Wait_WAIT_PUBLISHED}); err != nil {
		t.Fatal(err)
	}
	return to
}

func runKeytrail(t *testing.T, args ...string) []byte {
	t.Helper()
	var stderr bytes.Buffer
	cmd := exec.Command("keytrail", append(args, "--json")...)
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("%v: %v\n%s%s", args, err, out, stderr.Bytes())
	}
	return out
}

// keytrailUntil runs keytrail, kills it after a while, and says whether it had ended.
func keytrailUntil(t *testing.T, after time.Duration, args ...string) bool {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), after)
	defer cancel()
	out, err := exec.CommandContext(ctx, "keytrail", args...).CombinedOutput()
	if err != nil && ctx.Err() == nil {
		t.Fatalf("%v: %v\n%s", args, err, out)
	}
	return err == nil
}

func treeSize(t *testing.T, out []byte) int {
	t.Helper()
	var v struct {
		Size int `json:"tree_size"`
	}
	if err := json.Unmarshal(out, &v); err != nil {
		t.Fatalf("%v in %s", err, out)
	}
	return v.Size
}

// withKeys brings the keys of a log to a restored one.
func withKeys(t *testing.T, dir, from string) string {
	t.Helper()
	names, err := filepath.Glob(filepath.Join(from, "keys", "*.key"))
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range names {
		b, err := os.ReadFile(name)
		if err == nil {
			err = os.WriteFile(filepath.Join(dir, "keys", filepath.Base(name)), b, 0o600)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	return dir
}
