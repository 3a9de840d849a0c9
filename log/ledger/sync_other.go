//go:build !linux

package ledger

import "os"

// syncData waits until the disk has a file.
func syncData(f *os.File) error { return f.Sync() }
