package view

import (
	"encoding/binary"
	"math"

	"google.golang.org/protobuf/encoding/protowire"

	"github.com/keytrail/keytrail/proto/event"
	keytrailv1 "github.com/keytrail/keytrail/proto/keytrail/v1"
)

// Messages that skim reads: the event, and some that stand in it.
const (
	inEvent = iota << fieldBits
	inKey
	inActor
	inTime

	// fieldBits is room for the number of a field.
	fieldBits = 6
)

// What skim takes: the message and the number of the field.
const (
	eventTenant    = inEvent | 4
	eventTime      = inEvent | 5
	eventOperation = inEvent | 7
	eventAlso      = inEvent | 9
	eventOutcome   = inEvent | 10
	eventKey       = inEvent | 13
	eventActor     = inEvent | 15
	keyRef         = inKey | 1
	actorID        = inActor | 1
	actorDisplay   = inActor | 3
	timeSeconds    = inTime | 1
	timeNanos      = inTime | 2
)

// wantedFields has, for each message, a bit for each field that skim takes.
var wantedFields = [...]uint64{
	inEvent >> fieldBits: 1<<4 | 1<<5 | 1<<7 | 1<<9 | 1<<10 | 1<<13 | 1<<15,
	inKey >> fieldBits:   1 << 1,
	inActor >> fieldBits: 1<<1 | 1<<3,
	inTime >> fieldBits:  1<<1 | 1<<2,
}

// skim reads what the index takes of an encoded event and looks at nothing else: the log
// checked all of it when it recorded it, and its fields ascend. False means that they do not,
// or that what is taken is not as a log records it; protobuf then decides. f is filled anew,
// in the list that it has, and keeps parts of b.
func skim(b []byte, f *event.Fields) bool {
	*f = event.Fields{Also: f.Also[:0]}
	return skimMessage(b, inEvent, f)
}

// skimMessage is skim for one message. Its fields ascend, and one that is taken comes once:
// protobuf would take the last, or merge them.
func skimMessage(b []byte, in uint64, f *event.Fields) bool {
	wanted := wantedFields[in>>fieldBits]
	last := uint64(0)
	for i := 0; i < len(b); {
		tag := uint64(b[i])
		i++
		if tag >= 0x80 {
			if tag, i = longVarint(b, i-1); i == 0 {
				return false
			}
		}
		num := tag >> 3
		if num < last || num == 0 || num >= 1<<fieldBits || i == len(b) {
			return false
		}
		if wanted>>num == 0 {
			return true // Nothing that is taken follows.
		}
		v := uint64(b[i])
		i++
		if v >= 0x80 {
			if v, i = longVarint(b, i-1); i == 0 {
				return false
			}
		}
		if wanted&(1<<num) != 0 && num == last {
			return false
		}
		last = num
		switch protowire.Type(tag & 7) {
		case protowire.VarintType:
			if wanted&(1<<num) != 0 && !takeNumber(in|num, v, f) {
				return false
			}
		case protowire.BytesType:
			if v > uint64(len(b)-i) {
				return false
			}
			end := i + int(v)
			if wanted&(1<<num) != 0 && !takeBytes(in|num, b[i:end:end], f) {
				return false
			}
			i = end
		default:
			return false
		}
	}
	return true
}

// longVarint reads a varint at i; next is 0 when there is none.
func longVarint(b []byte, i int) (v uint64, next int) {
	v, n := binary.Uvarint(b[i:])
	if n <= 0 {
		return 0, 0
	}
	return v, i + n
}

func takeNumber(field, v uint64, f *event.Fields) bool {
	switch field {
	case timeSeconds:
		f.Seconds = int64(v)
		return true
	case timeNanos:
		f.Nanos = int32(v)
	case eventOperation:
		f.Operation = keytrailv1.Operation(v)
	case eventOutcome:
		f.Outcome = keytrailv1.Outcome(v)
	default:
		return false
	}
	return v <= math.MaxInt32
}

func takeBytes(field uint64, v []byte, f *event.Fields) bool {
	switch field {
	case eventTenant:
		f.Tenant = v
	case eventTime:
		return skimMessage(v, inTime, f)
	case eventAlso:
		return takeAlso(v, f)
	case eventKey:
		return skimMessage(v, inKey, f)
	case eventActor:
		return skimMessage(v, inActor, f)
	case keyRef:
		f.KeyRef = v
	case actorID:
		f.ActorID = v
	case actorDisplay:
		f.ActorDisplay = v
	default:
		return false
	}
	return true
}

// takeAlso takes the packed list of further operations.
func takeAlso(b []byte, f *event.Fields) bool {
	for i := 0; i < len(b); {
		var v uint64
		if v, i = longVarint(b, i); i == 0 || v > math.MaxInt32 {
			return false
		}
		f.Also = append(f.Also, keytrailv1.Operation(v))
	}
	return true
}
