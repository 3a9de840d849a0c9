package log_test

import (
	"errors"
	"strings"
	"testing"

	"github.com/keytrail/keytrail/log"
	"github.com/keytrail/keytrail/log/ledger"
	"github.com/keytrail/keytrail/log/logtest"
	"github.com/keytrail/keytrail/storage/memstore"
)

func TestRefusesAfterTheEnd(t *testing.T) {
	d, s := logtest.NewDir(t), memstore.New()
	l := logtest.Open(t, d, s)
	l.Append1(t, logtest.Event(0, "a"))
	if err := l.Stop(); err != nil {
		t.Fatal(err)
	}
	led, err := ledger.Open(d.Ledger(), logtest.Origin)
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(led.Seal(logtest.Origin+"/2"), led.Close()); err != nil {
		t.Fatal(err)
	}
	_, err = logtest.TryOpen(t, d, s)
	if refusal, ok := errors.AsType[*log.RefusalError](err); !ok || !strings.Contains(refusal.Reason, logtest.Origin+"/2") {
		t.Errorf("an ended log opens: %v", err)
	}
}
