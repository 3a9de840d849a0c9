package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"time"
	"unicode"

	"golang.org/x/term"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"

	"github.com/keytrail/keytrail/cmd/internal/cli"
	keytrailv1 "github.com/keytrail/keytrail/proto/keytrail/v1"
	"github.com/keytrail/keytrail/proto/keytrail/v1/rpc"
)

// printProto prints a message as one line of JSON.
func printProto(w io.Writer, m proto.Message) error {
	_, info := m.(*rpc.GetLogInfoResponse) // a size of 0 is news there
	b, err := protojson.MarshalOptions{UseProtoNames: true, EmitDefaultValues: info}.Marshal(m)
	if err != nil {
		return fmt.Errorf("printing JSON: %w", err)
	}
	// protojson's spacing differs from run to run on purpose; this one does not.
	var line bytes.Buffer
	if err := json.Compact(&line, b); err != nil {
		return fmt.Errorf("printing JSON: %w", err)
	}
	line.WriteByte('\n')
	_, err = w.Write(withIndex(m, line.Bytes()))
	return err
}

// withIndex puts the index of the first entry into a message's JSON: protobuf leaves out
// what is 0.
func withIndex(m proto.Message, line []byte) []byte {
	before, index := "", uint64(0)
	switch m := m.(type) {
	case *rpc.Entry:
		before, index = `{`, m.GetIndex()
	case *rpc.HistoryEvent:
		before, index = `{"entry":{`, m.GetEntry().GetIndex()
	case *rpc.AppendResult:
		before, index = `{"ack":{`, m.GetAck().GetIndex()
	}
	rest, ok := bytes.CutPrefix(line, []byte(before))
	if before == "" || !ok || index != 0 {
		return line
	}
	field := `"index":"0"`
	if !bytes.HasPrefix(rest, []byte("}")) {
		field += ","
	}
	return append([]byte(before+field), rest...)
}

// printIndented prints a message as JSON for people.
func printIndented(w io.Writer, m proto.Message) error {
	var line, b bytes.Buffer
	if err := printProto(&line, m); err != nil {
		return err
	}
	if err := json.Indent(&b, line.Bytes(), "", "  "); err != nil {
		return fmt.Errorf("printing JSON: %w", err)
	}
	_, err := b.WriteTo(w)
	return err
}

// printJSON prints a value as indented JSON.
func printJSON(w io.Writer, v any) error {
	enc := json.NewEncoder(w)
	enc.SetIndent("", "  ")
	enc.SetEscapeHTML(false)
	if err := enc.Encode(v); err != nil {
		return fmt.Errorf("printing JSON: %w", err)
	}
	return nil
}

// isTerminal says whether progress may be drawn on w.
func isTerminal(w io.Writer) bool {
	f, ok := w.(*os.File)
	return ok && term.IsTerminal(int(f.Fd()))
}

// writeOutput writes a file whole or not at all; "-" is standard output. An existing file
// is replaced.
func writeOutput(stdout io.Writer, path string, b []byte) error {
	if path == "-" {
		_, err := stdout.Write(b)
		return err
	}
	f, err := os.CreateTemp(filepath.Dir(path), "."+filepath.Base(path)+".*")
	if err != nil {
		return fmt.Errorf("writing %s: %w", path, err)
	}
	defer os.Remove(f.Name()) // in vain once it is renamed
	_, err = f.Write(b)
	if err == nil {
		err = f.Chmod(0o644)
	}
	if closeErr := f.Close(); err == nil {
		err = closeErr
	}
	if err == nil {
		err = os.Rename(f.Name(), path)
	}
	if err != nil {
		return fmt.Errorf("writing %s: %w", path, err)
	}
	return nil
}

// readInput reads a file of at most max bytes whole.
func readInput(path string, max int64) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(f, max+1))
	if err != nil {
		return nil, fmt.Errorf("reading %s: %w", path, err)
	}
	if int64(len(b)) > max {
		return nil, fmt.Errorf("reading %s: larger than %d bytes", path, max)
	}
	return b, nil
}

// parseTime reads a time of a flag: RFC 3339, or a date, which is its midnight in UTC.
func parseTime(flag, s string) (time.Time, error) {
	for _, layout := range []string{time.RFC3339Nano, time.DateOnly} {
		if t, err := time.Parse(layout, s); err == nil {
			return t, nil
		}
	}
	return time.Time{}, cli.Usage("--%s: %q is no time; give 2026-11-22T15:04:05Z or 2026-11-22", flag, s)
}

// Cells of tables.

func timeCell(t time.Time) string { return t.UTC().Format("2006-01-02 15:04:05") }

func actorCell(a *keytrailv1.Actor) string {
	switch {
	case a == nil:
		return "-"
	case a.GetDisplay() != "":
		return printable(a.GetDisplay())
	}
	return printable(a.GetId())
}

func keyCell(k *keytrailv1.Key) string {
	if k == nil {
		return "-"
	}
	s := printable(k.GetRef())
	if vs := k.GetVersions(); len(vs) > 0 {
		return s + " v" + printable(strings.Join(vs, ","))
	}
	if v := k.GetVersion(); v != "" {
		s += " v" + printable(v)
	}
	return s
}

// printable keeps a stranger's text from steering the terminal: no control characters, no
// escape sequences, nothing that turns the direction of writing.
func printable(s string) string {
	if s == "" {
		return "-"
	}
	return strings.Map(func(r rune) rune {
		if !unicode.IsPrint(r) {
			return '?'
		}
		return r
	}, s)
}
