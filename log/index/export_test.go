package index

import "github.com/cockroachdb/pebble/v2"

// SetFormat makes the directory one of another program.
func (x *Index) SetFormat(format string) error {
	return x.db.Set(formatKey, []byte(format), pebble.Sync)
}
