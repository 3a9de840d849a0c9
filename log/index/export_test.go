package index

import "github.com/cockroachdb/pebble/v2"

// SetFormat makes the directory one of another program.
func (x *Index) SetFormat(format string) error {
	if err := x.db.Set(formatKey, []byte(format), pebble.NoSync); err != nil {
		return err
	}
	return x.db.Flush()
}
