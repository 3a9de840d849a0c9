package cli

import (
	"fmt"
	"os"
)

// OnFatal returns what a program does when a store has a write of unknown outcome, as after a
// failed sync: it says so and ends at once, since only a new process finds out what the disk
// holds. What it was making is not in its place; another run begins anew.
func OnFatal(program string) func(error) {
	return func(err error) {
		fmt.Fprintf(os.Stderr, "%s: error: the store cannot be trusted to keep what it is given: %v\n", program, err)
		fmt.Fprintf(os.Stderr, "%s: hint: look at the disk (kernel log, free space), then run it again\n", program)
		os.Exit(ExitError)
	}
}
