package main_test

import (
	"context"
	"crypto/sha256"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"sync"
	"testing"
	"time"

	"github.com/keytrail/keytrail/proto/checkpoint"
)

// TestCrashStorm kills the log and its three witnesses with SIGKILL again and again, in any
// combination and at any moment, while clients append in every way there is; the clients
// stay and find the log again. Every so often all is brought back and audited: nothing that
// was acknowledged is lost, moved or doubled, all checkpoints are one history, and every
// witness is on it.
func TestCrashStorm(t *testing.T) {
	t.Parallel()
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	c := newCluster(t, 3)
	c.log.mustStart()
	s := &storm{cluster: c, chance: rand.New(rand.NewPCG(seed, 0)), killed: make(map[string]int)}
	s.book = newBook(t, c.policy)
	s.load = &load{book: s.book, dial: c.dial, witnessed: true}
	end := time.Now().Add(lasting(t, 2*time.Minute))
	kills := 20
	if !long() {
		kills = 3
	}
	for round := 0; round == 0 || time.Now().Before(end); round++ {
		s.round(kills, seed)
		s.audit(false)
		if t.Failed() {
			t.FailNow()
		}
	}
	s.audit(true)
	c.stop()
	t.Logf("killed %v, %d starts cut off; %v", s.killed, s.cutOff, s.book)
}

// storm is a cluster that is killed again and again.
type storm struct {
	*cluster
	book   *book
	load   *load
	chance *rand.Rand
	killed map[string]int
	cutOff int
}

// round kills so many times, under load.
func (s *storm) round(kills int, seed uint64) {
	ctx, cancel := context.WithCancel(context.Background())
	var working sync.WaitGroup
	working.Go(func() { s.load.run(ctx, seed) })
	for range kills {
		time.Sleep(time.Duration(s.chance.IntN(400)) * time.Millisecond)
		victims := s.victims()
		for _, v := range victims {
			s.kill(v)
		}
		time.Sleep(time.Duration(s.chance.IntN(100)) * time.Millisecond)
		for _, v := range victims {
			s.restart(v)
		}
	}
	time.Sleep(time.Duration(s.chance.IntN(200)) * time.Millisecond)
	cancel()
	working.Wait()
}

// victims are the log, one witness, the log and some witnesses, or all.
func (s *storm) victims() []*server {
	all := append([]*server{s.log}, s.witnesses...)
	switch s.chance.IntN(5) {
	case 0:
		return all
	case 1, 2:
		return []*server{s.log}
	case 3:
		return []*server{s.witnesses[s.chance.IntN(len(s.witnesses))]}
	}
	s.chance.Shuffle(len(all), func(i, j int) { all[i], all[j] = all[j], all[i] })
	return all[:1+s.chance.IntN(len(all)-1)]
}

func (s *storm) kill(v *server) {
	v.kill()
	s.killed[v.program]++
	if !v.killed() {
		s.tb.Errorf("%s ended by itself: %v\n%s", v.program, v.cmd.ProcessState, tail(v.lastSaid(), 2000))
	}
}

// restart starts a server again; one in four starts is cut off by another kill first.
func (s *storm) restart(v *server) {
	if s.chance.IntN(4) == 0 {
		s.cutOff++
		v.cutOff = time.Duration(1+s.chance.IntN(150)) * time.Millisecond
		_ = v.start() // as often as not it is ready before
		if v.running() {
			v.kill()
		}
	}
	v.mustStart()
}

// audit waits until the log is there and holds it, and the witnesses, against the book.
func (s *storm) audit(whole bool) {
	s.tb.Helper()
	auditCluster(s.cluster, s.book, whole)
}

func auditCluster(c *cluster, b *book, whole bool) {
	c.tb.Helper()
	cl := c.dial()
	defer cl.Close()
	ctx, cancel := context.WithTimeout(context.Background(), 3*time.Minute)
	defer cancel()
	for i := range c.witnesses {
		c.witnessed(i, b)
	}
	if err := b.audit(ctx, cl, whole); err != nil {
		c.tb.Errorf("auditing the log: %v", err)
	}
}

// witnessed takes what a witness cosigned last into the book; the audit that follows holds
// it against the log.
func (c *cluster) witnessed(i int, b *book) {
	c.tb.Helper()
	res, err := http.Get(fmt.Sprintf("http://%s/%x/checkpoint", c.witnesses[i].addr["http"], sha256.Sum256([]byte(c.policy.Logs[0].Key.Name()))))
	if err != nil {
		c.tb.Errorf("asking witness %d: %v", i, err)
		return
	}
	defer res.Body.Close()
	note, err := io.ReadAll(res.Body)
	if err != nil || res.StatusCode == http.StatusNotFound { // it has cosigned nothing yet
		return
	}
	cp, _, err := checkpoint.ParseNote(note)
	if err != nil {
		c.tb.Errorf("witness %d serves %q: %v", i, note, err)
		return
	}
	b.root(cp.Size, cp.Root, nil)
}
