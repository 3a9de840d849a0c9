package ledger_test

import (
	"errors"
	"strings"
	"testing"

	"github.com/keytrail/keytrail/log/ledger"
)

// sealed makes a ledger of a log that has signed 5 entries and ended.
func sealed(t *testing.T) string {
	t.Helper()
	path := advanced(t, 3, 5)
	l := open(t, path)
	if err := l.Seal("log.test/keytrail/2"); err != nil {
		t.Fatal(err)
	}
	if err := l.Advance(state(6)); !errors.Is(err, ledger.ErrSealed) {
		t.Errorf("advancing in the process that sealed: %v", err)
	}
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	return path
}

func TestSealedSignsNothing(t *testing.T) {
	l := open(t, sealed(t))
	if l.State() != state(5) || l.Successor() != "log.test/keytrail/2" {
		t.Errorf("state %v, successor %q", l.State(), l.Successor())
	}
	for _, n := range []uint64{4, 5, 6} { // the same state is a signature again too
		if err := l.Advance(state(n)); !errors.Is(err, ledger.ErrSealed) || !strings.Contains(err.Error(), "log.test/keytrail/2") {
			t.Errorf("advancing to %d: %v", n, err)
		}
	}
	if err := l.Seal("log.test/keytrail/2"); err != nil {
		t.Errorf("sealing again: %v", err)
	}
	if err := l.Seal("log.test/keytrail/3"); !errors.Is(err, ledger.ErrSealed) {
		t.Errorf("another successor: %v", err)
	}
}

// TestDamageDoesNotUnseal damages either slot of a sealed ledger.
func TestDamageDoesNotUnseal(t *testing.T) {
	whole := read(t, sealed(t))
	for slot := range 2 {
		path := create(t)
		b := append([]byte(nil), whole...)
		b[slot*ledger.SlotSize+100] ^= 1
		write(t, path, b)
		if l := open(t, path); l.Successor() == "" || l.State() != state(5) {
			t.Errorf("slot %d damaged: state %v, successor %q", slot, l.State(), l.Successor())
		}
	}
}

func TestSealRefusesNames(t *testing.T) {
	l := open(t, create(t))
	for _, name := range []string{"", strings.Repeat("x", 256)} {
		if err := l.Seal(name); err == nil || l.Successor() != "" {
			t.Errorf("a name of %d bytes: %v", len(name), err)
		}
	}
	if err := l.Seal(strings.Repeat("x", 255)); err != nil {
		t.Error(err)
	}
}
