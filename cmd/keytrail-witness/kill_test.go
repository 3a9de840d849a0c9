package main

import (
	"fmt"
	"math/rand/v2"
	"net/http"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/transparency-dev/merkle/rfc6962"
	"github.com/transparency-dev/merkle/testonly"

	"github.com/keytrail/keytrail/proto/checkpoint"
)

// TestKill kills the witness again and again, at moments left to chance, while a log asks for
// one size after the other and a forger with the log's key for other trees: whatever was
// answered is still there, nothing smaller is cosigned, and nothing of another history.
func TestKill(t *testing.T) {
	const rounds = 12
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	chance := rand.New(rand.NewPCG(seed, 0))
	dir := filepath.Join(t.TempDir(), "w")
	mustRun(t, "init", "--dir", dir, "--name", "witness.test/w1")
	l := newLog(t)
	mustRun(t, "enroll", "--dir", dir, l.key.VerifierKey().String())
	var known uint64 // the last size that was answered with 200
	for round := range rounds {
		p := serveWitness(t, dir)
		status, body, err := p.add(l.request(t, known+1000, known+1000))
		var size uint64
		if _, scanErr := fmt.Sscanf(body, "%d\n", &size); err != nil || status != http.StatusConflict || scanErr != nil {
			t.Fatalf("round %d: %d %q, %v", round, status, body, err)
		}
		// The one that was under way may have been written.
		if size != known && size != known+1 {
			t.Fatalf("round %d: the witness remembers size %d, it answered for %d", round, size, known)
		}
		if known = size; known > 0 {
			p.wantTree(t, l, known)
		}
		time.AfterFunc(time.Duration(1+chance.IntN(100))*time.Millisecond, func() { _ = p.cmd.Process.Kill() })
		var forger sync.WaitGroup
		begin := known
		forger.Go(func() { p.forge(t, l.key, begin) })
		for {
			status, body, err := p.add(l.request(t, known, known+1))
			if err != nil {
				break
			}
			if status != http.StatusOK {
				t.Fatalf("round %d, from %d: %d %s", round, known, status, body)
			}
			known++
		}
		forger.Wait()
		_ = p.cmd.Wait()
	}
	if known == 0 {
		t.Error("nothing was cosigned")
	}
}

// wantTree looks at what the witness cosigned last.
func (p *process) wantTree(t *testing.T, l *logUnderTest, size uint64) {
	t.Helper()
	note := p.get(t, "/"+originHash(l.key.Name())+"/checkpoint")
	c, _, err := checkpoint.ParseNote([]byte(note))
	if err != nil || c.Size != size || c.Root != [32]byte(l.tree.HashAt(size)) {
		t.Fatalf("the witness serves %+v, %v; want the tree of size %d", c, err, size)
	}
}

// forge asks for trees of another history until the witness is gone: of the sizes around
// known, from every size that it may remember.
func (p *process) forge(t *testing.T, key *checkpoint.SignerKey, known uint64) {
	f := &logUnderTest{key, testonly.New(rfc6962.DefaultHasher)}
	f.tree.AppendData([]byte("forged"))
	if known == 0 {
		return // Its history would be as good as the other.
	}
	for i := uint64(0); ; i++ {
		old := known + i/3%50
		size := old + i%3
		if i%7 == 0 {
			old, size = known/2, known/2+1
		}
		status, _, err := p.add(f.request(t, old, size))
		if err != nil {
			return
		}
		if status != http.StatusConflict && status != http.StatusUnprocessableEntity {
			t.Errorf("a forged tree of size %d after %d: %d", size, old, status)
		}
	}
}
