package ledger

import "os"

// SlotSize is the size of a slot in bytes.
const SlotSize = slotSize

// ReadSlot reads a slot and encodes again what it says; ok is false when it is not one.
func ReadSlot(b []byte) (st State, again []byte, ok bool) {
	s, ok := parseSlot(b)
	if !ok {
		return State{}, nil, false
	}
	enc := s.encode()
	return s.state, enc[:], true
}

// Exchange puts another file under the ledger and returns the one it had.
func (l *Ledger) Exchange(f *os.File) *os.File {
	old := l.f
	l.f = f
	return old
}
