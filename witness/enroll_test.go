package witness_test

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/keytrail/keytrail/proto/checkpoint"
	"github.com/keytrail/keytrail/witness"
)

// TestKeyRotation enrols a second pair of keys, lets both sign, and ends the trust in the
// first, over restarts.
func TestKeyRotation(t *testing.T) {
	ctx := context.Background()
	l := newLog(t, testOrigin, testOrigin)
	w := inMemory(t, l)
	w.add(t, l.request(t, 0, 3))
	old := l.keys
	renewed := []*checkpoint.SignerKey{key(t, testOrigin, checkpoint.TypeEd25519, 1)}
	with := func(keys []*checkpoint.SignerKey, from, to uint64) []byte {
		return l.bundle(t, from, to, l.sign(t, l.at(to), keys...))
	}
	w.wantRefused(t, with(renewed, 3, 4), http.StatusForbidden)
	if err := w.Enroll(ctx, witness.Log{Origin: testOrigin, Keys: []checkpoint.VerifierKey{renewed[0].VerifierKey()}}); err != nil {
		t.Fatal(err)
	}
	w.reopen(t)
	w.add(t, with(renewed, 3, 4))
	w.add(t, with(old, 4, 5))
	for _, k := range old {
		if err := w.RemoveKey(ctx, testOrigin, k.VerifierKey()); err != nil {
			t.Fatal(err)
		}
	}
	w.reopen(t)
	w.wantRefused(t, with(old, 5, 6), http.StatusForbidden)
	w.add(t, with(renewed, 5, 6))
	if err := w.RemoveKey(ctx, testOrigin, renewed[0].VerifierKey()); err == nil {
		t.Error("the last key of a log was removed")
	}
}

// TestRemove removes a log: it is unknown then, but goes on from its tree if it comes back.
func TestRemove(t *testing.T) {
	ctx := context.Background()
	l := newLog(t, testOrigin, testOrigin)
	w := inMemory(t, l)
	w.add(t, l.request(t, 0, 3))
	if err := w.Remove(ctx, testOrigin); err != nil {
		t.Fatal(err)
	}
	w.wantRefused(t, l.request(t, 3, 4), http.StatusNotFound)
	w.reopen(t)
	w.wantRefused(t, l.request(t, 3, 4), http.StatusNotFound)
	if err := w.Remove(ctx, testOrigin); !errors.Is(err, witness.ErrNotEnrolled) {
		t.Errorf("removing again: %v, want ErrNotEnrolled", err)
	}
	if len(w.Logs()) != 0 {
		t.Error("a removed log is listed")
	}
	if n, err := w.EnrollListed(ctx, []witness.Log{l.enrolment()}); err != nil || n != 0 {
		t.Errorf("a list enrols a removed log: %d, %v", n, err)
	}
	if err := w.Enroll(ctx, l.enrolment()); err != nil {
		t.Fatal(err)
	}
	if e := w.wantRefused(t, l.request(t, 0, 4), http.StatusConflict); e.Size != 3 {
		t.Errorf("a log that came back starts at %d, want 3", e.Size)
	}
	w.add(t, l.request(t, 3, 4))
}

func TestEnrollRefuses(t *testing.T) {
	ed := key(t, "log.test", checkpoint.TypeEd25519, 0).VerifierKey()
	for name, l := range map[string]witness.Log{
		"no key":           {Origin: "log.test"},
		"no origin":        {Keys: []checkpoint.VerifierKey{ed}},
		"cosigner's key":   {Origin: "log.test", Keys: []checkpoint.VerifierKey{signers(t)[0].VerifierKey()}},
		"two-line contact": {Origin: "log.test", Keys: []checkpoint.VerifierKey{ed}, Contact: "a\nb"},
	} {
		w := inMemory(t)
		if err := w.Enroll(context.Background(), l); err == nil || len(w.Logs()) != 0 {
			t.Errorf("%s: enrolled, %v", name, err)
		}
	}
}

// TestEnrollListed holds that a list changes no keys.
func TestEnrollListed(t *testing.T) {
	ctx := context.Background()
	l := newLog(t, testOrigin, testOrigin)
	w := inMemory(t, l)
	other := newLog(t, "log.test/two", "log.test/two").enrolment()
	listed := witness.Log{Origin: testOrigin, Keys: []checkpoint.VerifierKey{l.keys[0].VerifierKey()}, PerDay: 24, Contact: "c"}
	if n, err := w.EnrollListed(ctx, []witness.Log{listed, other}); err != nil || n != 1 {
		t.Fatalf("%d new, %v; want 1", n, err)
	}
	got := w.Logs()
	if len(got) != 2 || len(got[0].Keys) != 2 || got[0].PerDay != 24 || got[0].Contact != "c" {
		t.Errorf("the logs are %+v", got)
	}
	listed.Keys = []checkpoint.VerifierKey{key(t, testOrigin, checkpoint.TypeEd25519, 9).VerifierKey()}
	third := newLog(t, "log.test/three", "log.test/three").enrolment()
	if _, err := w.EnrollListed(ctx, []witness.Log{third, listed}); err == nil || len(w.Logs()) != 2 {
		t.Errorf("a list with another key is taken: %v", err)
	}
}

func TestParseLogList(t *testing.T) {
	a := key(t, "log.test/a", checkpoint.TypeEd25519, 0).VerifierKey()
	b := key(t, "sum.test", checkpoint.TypeEd25519, 0).VerifierKey()
	good := fmt.Sprintf("# comment\n logs/v0\r\n\nvkey %s\nqpd 86400\ncontact someone (at) log.test\n\n#\nvkey %s\norigin go.sum database tree\nqpd 1\ncontact x\n", a, b)
	got, err := witness.ParseLogList([]byte(good))
	want := []witness.Log{
		{Origin: "log.test/a", Keys: []checkpoint.VerifierKey{a}, PerDay: 86400, Contact: "someone (at) log.test"},
		{Origin: "go.sum database tree", Keys: []checkpoint.VerifierKey{b}, PerDay: 1, Contact: "x"},
	}
	if diff := cmp.Diff(want, got, cmp.Comparer(checkpoint.VerifierKey.Equal)); err != nil || diff != "" {
		t.Errorf("%v %s", err, diff)
	}
	log := fmt.Sprintf("vkey %s\nqpd 5\ncontact x\n", a)
	for name, bad := range map[string]string{
		"empty":           "",
		"no header":       log,
		"other version":   "logs/v1\n" + log,
		"no contact":      "logs/v0\n" + strings.TrimSuffix(log, "contact x\n"),
		"other order":     fmt.Sprintf("logs/v0\nqpd 5\nvkey %s\ncontact x\n", a),
		"two origins":     fmt.Sprintf("logs/v0\nvkey %s\norigin a\norigin b\nqpd 5\ncontact x\n", a),
		"qpd 0":           strings.Replace("logs/v0\n"+log, "qpd 5", "qpd 0", 1),
		"qpd 2^31":        strings.Replace("logs/v0\n"+log, "qpd 5", "qpd 2147483648", 1),
		"qpd 05":          strings.Replace("logs/v0\n"+log, "qpd 5", "qpd 05", 1),
		"twice":           "logs/v0\n" + log + log,
		"malformed key":   "logs/v0\n" + strings.Replace(log, "+", "-", 1),
		"unknown keyword": "logs/v0\n" + log + "bastion none\n",
	} {
		if logs, err := witness.ParseLogList([]byte(bad)); err == nil {
			t.Errorf("%s: is read as %v", name, logs)
		}
	}
}

// TestBudget uses up a day's requests, as far as strangers can, and as far as the log can.
func TestBudget(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLog(t, testOrigin, testOrigin)
		w := inMemory(t)
		e := l.enrolment()
		e.PerDay = 24
		if err := w.Enroll(context.Background(), e); err != nil {
			t.Fatal(err)
		}
		w.add(t, l.request(t, 0, 1))
		again := l.request(t, 1, 1)
		n := 0
		for ; ; n++ {
			if _, err := w.AddCheckpoint(context.Background(), again); err != nil {
				break
			}
		}
		if n != 11 {
			t.Errorf("the same tree was cosigned %d times again, want 11", n)
		}
		w.wantRefused(t, l.request(t, 0, 2), http.StatusConflict) // costs nothing
		size := uint64(1)
		for ; ; size++ {
			_, err := w.AddCheckpoint(context.Background(), l.request(t, size, size+1))
			refused, _ := errors.AsType[*witness.RefusalError](err)
			if err == nil {
				continue
			}
			if refused == nil || refused.Status != http.StatusTooManyRequests || refused.RetryAfter <= 59*time.Minute || refused.RetryAfter > time.Hour {
				t.Fatalf("beyond the budget: %+v, want 429 and an hour", err)
			}
			break
		}
		if size != 13 {
			t.Errorf("%d requests of the log were cosigned, want 12 besides", size-1)
		}
		time.Sleep(time.Hour + time.Second)
		w.add(t, l.request(t, size, size+1))
		w.wantRefused(t, l.request(t, size+1, size+2), http.StatusTooManyRequests)
		w.reopen(t) // A restart gives no new budget.
		w.wantRefused(t, l.request(t, size+1, size+2), http.StatusTooManyRequests)
		time.Sleep(time.Hour + time.Second)
		w.add(t, l.request(t, size+1, size+2))
	})
}
