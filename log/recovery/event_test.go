package recovery_test

import (
	"fmt"

	keytrailv1 "github.com/keytrail/keytrail/proto/keytrail/v1"

	"github.com/keytrail/keytrail/log/logtest"
)

// event is the n-th event: about key n mod 7, of which it is number n/7+1.
func event(n uint64) *keytrailv1.KeyEvent { return logtest.Event(int(n), fmt.Sprint("key-", n%7)) }
