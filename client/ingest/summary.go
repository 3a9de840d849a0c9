package ingest

import (
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
	"text/tabwriter"

	"github.com/keytrail/keytrail/proto/event"
	keytrailv1 "github.com/keytrail/keytrail/proto/keytrail/v1"
)

// Summary says what became of everything that was read. It encodes as JSON.
type Summary struct {
	// Files read, to their end or not.
	Files        int           `json:"files"`
	SkippedFiles []SkippedFile `json:"skipped_files,omitempty"`
	// Events translated. Each is then logged, a duplicate, a conflict or refused, or, when
	// the import was stopped, unsent or unanswered.
	Events int `json:"events"`
	// Logged now.
	Logged int `json:"logged"`
	// Duplicates were in the log already, with the same content.
	Duplicates int `json:"already_logged"`
	// Retranslated were in the log already too: the same record of the source, which this
	// import translates otherwise than the one before. What is logged stays as it is.
	Retranslated int `json:"already_logged_translated_otherwise,omitempty"`
	// Conflicts have an id under which the log holds other content.
	Conflicts int `json:"conflicts"`
	// FirstConflicts are the first of them, at most MaxConflicts.
	FirstConflicts []Conflict `json:"first_conflicts,omitempty"`
	// Refused by the log as breaking a rule; each is in the reject file.
	Refused int `json:"refused"`
	// Rejects are records that could not be read or translated; each is in the reject file.
	Rejects int `json:"rejects"`
	// RejectFile is where refused events and rejects are, or "".
	RejectFile string `json:"reject_file,omitempty"`
	// Unanswered events were sent, and no answer came: they may be in the log or not.
	// Importing again settles it.
	Unanswered int `json:"unanswered,omitempty"`
	// Skipped counts records that are not about keys, by reason.
	Skipped map[string]int `json:"skipped,omitempty"`
	// Operations counts translated events by operation and outcome.
	Operations []OperationCount `json:"operations,omitempty"`

	counts map[opOutcome]int
}

// MaxConflicts is how many conflicts a summary names.
const MaxConflicts = 100

// Conflict is an event that the log refused because it holds another one under its id.
// When the source's record has not changed, the translation has: an adapter of another
// version, other options, or an import of other files, which knew another cause.
type Conflict struct {
	EventID string `json:"event_id"`
	File    string `json:"file"`
	Line    int    `json:"line"`
	// Index in the log of what stands there, if the log told.
	Index *uint64 `json:"index,omitempty"`
	// Differs names the fields of the event that are not as in the log; empty when the
	// appender cannot tell. With caused_by alone, the record was imported before, among
	// other files.
	Differs []string `json:"differs,omitempty"`
}

// OperationCount is how many events had an operation and an outcome.
type OperationCount struct {
	Operation string `json:"operation"`
	Outcome   string `json:"outcome"`
	Count     int    `json:"count"`
}

type opOutcome struct {
	op      keytrailv1.Operation
	outcome keytrailv1.Outcome
}

// Clean reports that everything that was read is in the log.
func (s *Summary) Clean() bool {
	return s.Rejects == 0 && s.Refused == 0 && s.Conflicts == 0 && s.Unanswered == 0 &&
		s.Events == s.Logged+s.Duplicates+s.Retranslated
}

func (s *Summary) countEvent(ev *keytrailv1.KeyEvent) {
	if s.counts == nil {
		s.counts = make(map[opOutcome]int)
	}
	s.counts[opOutcome{ev.GetOperation(), ev.GetOutcome()}]++
	s.Events++
}

func (s *Summary) countSkip(reason string) {
	if s.Skipped == nil {
		s.Skipped = make(map[string]int)
	}
	s.Skipped[reason]++
}

// finish fills Operations, sorted by the number of the operation, then of the outcome.
func (s *Summary) finish() {
	s.Operations = s.Operations[:0]
	keys := slices.SortedFunc(maps.Keys(s.counts), func(a, b opOutcome) int {
		if a.op != b.op {
			return int(a.op) - int(b.op)
		}
		return int(a.outcome) - int(b.outcome)
	})
	for _, k := range keys {
		s.Operations = append(s.Operations, OperationCount{
			Operation: event.OperationName(k.op), Outcome: event.OutcomeName(k.outcome), Count: s.counts[k],
		})
	}
}

// WriteTable prints the summary for people.
func (s *Summary) WriteTable(w io.Writer) error {
	var b strings.Builder
	t := tabwriter.NewWriter(&b, 0, 0, 2, ' ', 0)
	if len(s.Operations) > 0 {
		fmt.Fprintf(t, "operation\toutcome\tevents\n")
		for _, c := range s.Operations {
			fmt.Fprintf(t, "%s\t%s\t%d\n", c.Operation, c.Outcome, c.Count)
		}
		fmt.Fprintf(t, "\n")
	}
	fmt.Fprintf(t, "files read\t%d\n", s.Files)
	fmt.Fprintf(t, "events\t%d\n", s.Events)
	fmt.Fprintf(t, "  logged now\t%d\n", s.Logged)
	fmt.Fprintf(t, "  already logged\t%d\n", s.Duplicates)
	row := func(n int, name, note string) {
		if n > 0 {
			fmt.Fprintf(t, "%s\t%d%s\n", name, n, note)
		}
	}
	row(s.Retranslated, "  already logged, translated otherwise", "")
	row(s.Conflicts, "  in conflict with the log", "")
	row(s.Refused, "  refused by the log", s.inFile())
	row(s.Unanswered, "  sent without an answer", "  (import again to settle them)")
	for _, reason := range slices.Sorted(maps.Keys(s.Skipped)) {
		row(s.Skipped[reason], "skipped: "+reason, "")
	}
	row(len(s.SkippedFiles), "files skipped", "")
	row(s.Rejects, "rejected records", s.inFile())
	if err := t.Flush(); err != nil {
		return fmt.Errorf("writing summary: %w", err)
	}
	for _, c := range s.FirstConflicts {
		fmt.Fprintf(&b, "conflict: %s line %d: event %s: %s\n", c.File, c.Line, c.EventID, c.where())
	}
	if _, err := io.WriteString(w, b.String()); err != nil {
		return fmt.Errorf("writing summary: %w", err)
	}
	return nil
}

func (s *Summary) inFile() string {
	if s.RejectFile == "" {
		return ""
	}
	return "  in " + s.RejectFile
}

func (c Conflict) where() string {
	if c.Index == nil {
		return "the log holds other content under this id"
	}
	where := fmt.Sprintf("index %d holds other content under this id", *c.Index)
	if len(c.Differs) > 0 {
		where += "; what differs: " + strings.Join(c.Differs, ", ")
	}
	return where
}
