package event

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"

	keytrailv1 "github.com/keytrail/keytrail/proto/keytrail/v1"
)

// scanner reads an encoded event by the tables of its messages, once from its first byte
// to its last, and allocates nothing but the list of further operations.
type scanner struct {
	f *Fields
	// name is that of the pair before.
	name []byte
	// Of the aggregate, and of the raw record.
	count, failed uint64
	first, last   moment
	digest        []byte
}

// moment is a timestamp.
type moment struct {
	seconds int64
	nanos   int32
}

func (m moment) before(o moment) bool {
	return m.seconds < o.seconds || m.seconds == o.seconds && m.nanos < o.nanos
}

// message reads one message. Fields stand in ascending order, those of a list one after
// the other.
func (s *scanner) message(b []byte, m *message) bool {
	var seen uint64
	var last uint
	nth, list := 0, 0 // the element of a list, and where its first begins
	for i := 0; i < len(b); {
		begin := i
		tag := uint(b[i])
		i++
		if tag >= 0x80 { // fields 16 to 32
			if i == len(b) || b[i]-1 >= 0x7f {
				return false
			}
			tag = tag&0x7f | uint(b[i])<<7
			i++
		}
		num := tag >> 3
		if num >= uint(len(m.fields)) {
			return false
		}
		r := &m.fields[num]
		if r.kind == unknown || tag&7 != r.kind.wire() || i == len(b) {
			return false
		}
		switch {
		case num > last:
			last, nth, list = num, 0, begin
			seen |= 1 << num
		case num == last && nth+1 < int(r.list):
			nth++
		default:
			return false
		}
		v := uint64(b[i])
		i++
		if v >= 0x80 {
			var n int
			if v, n = longVarint(b[i-1:]); n == 0 {
				return false
			}
			i += n - 1
		}
		if r.kind.wire() == 0 {
			if !s.number(r, v) {
				return false
			}
			continue
		}
		if v > uint64(len(b)-i) {
			return false
		}
		value := b[i : i+int(v) : i+int(v)]
		i += int(v)
		if !s.value(r, value, nth) || r.part == partVersion && !newVersion(b[list:begin], value) {
			return false
		}
	}
	return seen&m.required == m.required && s.extra(m, seen)
}

// longVarint reads a varint of more than one byte that is as short as it can be; n is 0
// when there is none.
func longVarint(b []byte) (v uint64, n int) {
	v, n = binary.Uvarint(b)
	if n < 2 || b[n-1] == 0 {
		return 0, 0
	}
	return v, n
}

// number checks a field that is a number.
func (s *scanner) number(r *rule, v uint64) bool {
	switch {
	case r.kind == operation:
		if v >= uint64(len(knownOperations)) || !knownOperations[v] {
			return false
		}
	case v > r.limit, v == 0 && r.kind == number:
		return false
	}
	switch r.part {
	case partOperation:
		s.f.Operation = keytrailv1.Operation(v)
	case partOutcome:
		s.f.Outcome = keytrailv1.Outcome(v)
	case partCount:
		s.count = v
	case partFailed:
		s.failed = v
	default:
	}
	return true
}

// value checks a field that has a length; nth is its place in its list.
func (s *scanner) value(r *rule, v []byte, nth int) bool {
	switch r.kind {
	case word:
		if uint64(len(v)) > r.limit || len(v) == 0 || !printableASCII(v) && !printable(v, identifier) {
			return false
		}
	case within:
		if nth == 0 {
			s.name = nil
		}
		return s.message(v, r.of)
	case instant:
		return s.instant(r, v)
	case free, maybe:
		if uint64(len(v)) > r.limit || len(v) == 0 && r.kind == free || !printableASCII(v) && !printable(v, line) {
			return false
		}
	case prose:
		if uint64(len(v)) > r.limit || len(v) == 0 || !printableASCII(v) && !printable(v, text) {
			return false
		}
	case system:
		if uint64(len(v)) > r.limit || len(v) == 0 || !systemName(v) {
			return false
		}
	case digest:
		if len(v) != sha256.Size {
			return false
		}
	case blob:
		if uint64(len(v)) > r.limit || len(v) == 0 {
			return false
		}
	case operations:
		return s.also(v)
	default:
		return false
	}
	return r.part == nothing || s.take(r.part, v)
}

// take notes a part of the event, and checks what depends on earlier parts.
func (s *scanner) take(p part, v []byte) bool {
	switch p {
	case partEventID:
		s.f.EventID = v
	case partTenant:
		s.f.Tenant = v
	case partSystem:
		s.f.System = v
	case partAccount:
		s.f.Account = v
	case partRegion:
		s.f.Region = v
	case partKeyRef:
		s.f.KeyRef = v
	case partActorID:
		s.f.ActorID = v
	case partActorDisplay:
		s.f.ActorDisplay = v
	case partName:
		if s.name != nil && bytes.Compare(v, s.name) <= 0 {
			return false
		}
		s.name = v
	case partDigest:
		s.digest = v
	case partContent:
		sum := sha256.Sum256(v)
		return bytes.Equal(sum[:], s.digest)
	default:
	}
	return true
}

// instant reads a google.protobuf.Timestamp. All times allowed have seconds, and more of
// them than a byte holds.
func (s *scanner) instant(r *rule, b []byte) bool {
	if len(b) == 0 || b[0] != 1<<3 {
		return false
	}
	seconds, n := longVarint(b[1:])
	if n == 0 || seconds < minUnix || seconds > r.limit {
		return false
	}
	at := moment{seconds: int64(seconds)}
	if b = b[1+n:]; len(b) > 0 {
		nanos, n := binary.Uvarint(b[1:])
		if b[0] != 2<<3 || n != len(b)-1 || n < 1 || b[n] == 0 || nanos > 999_999_999 {
			return false
		}
		at.nanos = int32(nanos)
	}
	switch r.part {
	case nothing:
		return true
	case partTime:
		s.f.Seconds, s.f.Nanos = at.seconds, at.nanos
	case partFirst:
		s.first = at
	case partLast:
		s.last = at
	default:
	}
	s.f.latest = max(s.f.latest, at.seconds)
	return true
}

// also reads the packed list of further operations.
func (s *scanner) also(b []byte) bool {
	var list [maxAlso]keytrailv1.Operation
	n := 0
	for ; len(b) > 0; n++ {
		v, size := binary.Uvarint(b)
		if size < 1 || size > 1 && b[size-1] == 0 || v >= uint64(len(knownOperations)) || !knownOperations[v] || n == maxAlso {
			return false
		}
		op := keytrailv1.Operation(v)
		if op == keytrailv1.Operation_OPERATION_OTHER || op == s.f.Operation {
			return false
		}
		for _, earlier := range list[:n] {
			if op == earlier {
				return false
			}
		}
		list[n], b = op, b[size:]
	}
	s.f.Also = append(s.f.Also, list[:n]...)
	return n > 0
}

// extra checks the rules that concern several fields of a message; seen has a bit for each
// field that is there.
func (s *scanner) extra(m *message, seen uint64) bool {
	switch m.extra {
	case otherNamed:
		return s.f.Operation != keytrailv1.Operation_OPERATION_OTHER || seen&(1<<8) != 0
	case oneVersion, oneContent:
		return seen&(1<<2) == 0 || seen&(1<<3) == 0
	case eitherField:
		return seen&m.either != 0
	case inOrder:
		return s.failed <= s.count && (seen&(1<<3) == 0 || seen&(1<<4) == 0 || !s.last.before(s.first))
	default:
		return true
	}
}

// newVersion says whether a version is none of those in list, which holds elements of
// key.versions as they are written: tag, length, version.
func newVersion(list, v []byte) bool {
	for len(list) > 0 {
		size, n := binary.Uvarint(list[1:])
		end := 1 + n + int(size)
		if bytes.Equal(list[1+n:end], v) {
			return false
		}
		list = list[end:]
	}
	return true
}

// systemName says whether all bytes are a-z 0-9 . _ -.
func systemName(b []byte) bool {
	for _, c := range b {
		if c-'a' > 'z'-'a' && c-'0' > 9 && c != '.' && c != '_' && c != '-' {
			return false
		}
	}
	return true
}
