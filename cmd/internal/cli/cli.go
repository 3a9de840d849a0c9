// Package cli is how every keytrail program meets people: exit status, error messages,
// hints, signals.
//
// The rules of the terminal:
//   - results go to standard output, everything else to standard error;
//   - an error is one line "NAME: error: …" and what to do next "NAME: hint: …", without
//     capitals at the beginning or full stops at the end;
//   - exit status 0 is fine, 1 could not do it, 2 wrong usage, 3 verification failed;
//   - the first interrupt stops cleanly, the second at once.
package cli

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"syscall"

	"github.com/spf13/cobra"
)

// Exit statuses.
const (
	ExitOK       = 0
	ExitError    = 1
	ExitUsage    = 2
	ExitTampered = 3
)

// Error is an error that knows its exit status and what to do next.
type Error struct {
	Err  error
	Exit int
	Hint string
	// Silent means that the command has said everything itself.
	Silent bool
}

func (e *Error) Error() string { return e.Err.Error() }

func (e *Error) Unwrap() error { return e.Err }

// Usage makes an error of wrong usage.
func Usage(format string, args ...any) error {
	return &Error{Err: fmt.Errorf(format, args...), Exit: ExitUsage}
}

// Hint adds what to do next to an error.
func Hint(err error, format string, args ...any) error {
	if err == nil {
		return nil
	}
	return &Error{Err: err, Exit: exit(err), Hint: fmt.Sprintf(format, args...)}
}

func exit(err error) int {
	var e *Error
	if errors.As(err, &e) {
		return e.Exit
	}
	return ExitError
}

// Main runs a command with the process's arguments and returns the exit status.
func Main(cmd *cobra.Command) int {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	// After the first signal the default handling is back, so that the second kills.
	context.AfterFunc(ctx, stop)
	return Run(ctx, cmd)
}

// Run runs a command and returns the exit status.
func Run(ctx context.Context, cmd *cobra.Command) int {
	cmd.SilenceErrors = true
	cmd.SilenceUsage = true
	cmd.SetFlagErrorFunc(func(c *cobra.Command, err error) error {
		return &Error{Err: err, Exit: ExitUsage, Hint: "see " + c.CommandPath() + " -h"}
	})
	started := false
	cmd.PersistentPreRunE = func(c *cobra.Command, _ []string) error {
		// Cobra itself looks for required flags only after this.
		if err := c.ValidateRequiredFlags(); err != nil {
			return &Error{Err: err, Exit: ExitUsage, Hint: "see " + c.CommandPath() + " -h"}
		}
		started = true
		return nil
	}
	err := cmd.ExecuteContext(ctx)
	if err == nil {
		return ExitOK
	}
	code, hint := exit(err), ""
	var e *Error
	if errors.As(err, &e) {
		if e.Silent {
			return code
		}
		hint = e.Hint
	} else if !started {
		// What cobra itself found wrong: unknown command, number of arguments.
		code, hint = ExitUsage, "see "+cmd.Name()+" -h"
	}
	w := cmd.ErrOrStderr()
	fmt.Fprintf(w, "%s: error: %v\n", cmd.Name(), err)
	if hint != "" {
		fmt.Fprintf(w, "%s: hint: %s\n", cmd.Name(), hint)
	}
	return code
}

// Version is the program's version, as the Go toolchain recorded it.
func Version() string { return version() }
