package log

import (
	"context"
	"fmt"
)

// entries is a log as its index asks it.
type entries Log

// EventID implements index.Entries.
func (e *entries) EventID(at uint64) (id [32]byte, known bool, err error) {
	err = e.store.Payloads(context.Background(), at, at+1, func(i uint64, payload []byte) error {
		row, err := indexRow(i, payload)
		id, known = row.Event, !row.Erased
		return err
	})
	if err != nil {
		return id, false, fmt.Errorf("reading the entry %d, which may have the same event id: %w", at, err)
	}
	return id, known, nil
}
