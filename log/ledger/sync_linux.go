package ledger

import (
	"errors"
	"os"
	"syscall"
)

// syncData waits until the disk has the content of a file, and what is needed to read it
// (fdatasync). The slots are written in place, so that all that fsync would write besides is the
// time of the change: one more block each round, for which a journaling file system commits its
// journal.
func syncData(f *os.File) error {
	raw, err := f.SyscallConn()
	if err != nil {
		return err
	}
	var syncErr error
	err = raw.Control(func(fd uintptr) {
		for {
			if syncErr = syscall.Fdatasync(int(fd)); !errors.Is(syncErr, syscall.EINTR) {
				return
			}
		}
	})
	if err != nil {
		return err
	}
	return os.NewSyscallError("fdatasync", syncErr)
}
