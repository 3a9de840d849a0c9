package keychain

import (
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"time"

	"github.com/cockroachdb/pebble/v2"
	"google.golang.org/protobuf/proto"

	keytrailv1 "github.com/keytrail/keytrail/proto/keytrail/v1"
	"github.com/keytrail/keytrail/proto/lifecycle"
)

// state is the row of the whole: how far the log is checked and what was found.
type state struct {
	Next uint64 `json:"next"`
	// LoggedAt is that of the last record, in nanoseconds since 1970.
	LoggedAt int64             `json:"logged_at"`
	Records  uint64            `json:"records"`
	Erased   uint64            `json:"erased"`
	Unknown  uint64            `json:"unknown"`
	Faults   map[Fault]uint64  `json:"faults"`
	First    map[Fault]string  `json:"first"`
	Findings map[string]uint64 `json:"findings"`
}

func (s *state) counts() Counts {
	return Counts{
		Records: s.Records, Erased: s.Erased, Unknown: s.Unknown,
		Faults: maps.Clone(s.Faults), First: maps.Clone(s.First), Findings: maps.Clone(s.Findings),
	}
}

func (s *state) encode() ([]byte, error) {
	b, err := json.Marshal(s)
	if err != nil {
		return nil, fmt.Errorf("keeping the place: %w", err)
	}
	return b, nil
}

// load reads the state as it was committed last.
func (c *Checker) load() error {
	c.state = state{Faults: map[Fault]uint64{}, First: map[Fault]string{}, Findings: map[string]uint64{}}
	b, closer, err := c.db.Get([]byte{stateRow})
	if errors.Is(err, pebble.ErrNotFound) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("reading the place: %w", err)
	}
	if err := errors.Join(json.Unmarshal(b, &c.state), closer.Close()); err != nil {
		return fmt.Errorf("reading the place: %w", err)
	}
	return nil
}

var errLink = errors.New("the row of a key is damaged")

// encode writes the number and index of a key's last record, its latest event time, whether
// it is known to exist, and its lifecycle.
func (l *link) encode() ([]byte, error) {
	s := l.fold.Snapshot()
	b := binary.AppendUvarint(nil, l.sequence)
	b = binary.AppendUvarint(b, l.index)
	known := byte(0)
	if s.Known {
		known = 1
	}
	last := []byte{}
	if !s.LastTime.IsZero() {
		var err error
		if last, err = s.LastTime.MarshalBinary(); err != nil {
			return nil, err
		}
	}
	b = append(b, known, byte(len(last)))
	b = append(b, last...)
	return proto.MarshalOptions{}.MarshalAppend(b, s.State)
}

func (l *link) decode(b []byte) error {
	for _, into := range []*uint64{&l.sequence, &l.index} {
		v, n := binary.Uvarint(b)
		if n <= 0 {
			return errLink
		}
		*into, b = v, b[n:]
	}
	if len(b) < 2 || len(b) < 2+int(b[1]) {
		return errLink
	}
	s := lifecycle.Snapshot{State: new(keytrailv1.LifecycleState), Known: b[0] == 1}
	last, rest := b[2:2+int(b[1])], b[2+int(b[1]):]
	if len(last) > 0 {
		var t time.Time
		if err := t.UnmarshalBinary(last); err != nil {
			return fmt.Errorf("%w: %w", errLink, err)
		}
		s.LastTime = t
	}
	if err := proto.Unmarshal(rest, s.State); err != nil {
		return fmt.Errorf("%w: %w", errLink, err)
	}
	l.fold = lifecycle.Restore(s)
	return nil
}
