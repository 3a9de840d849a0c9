package event_test

import (
	"fmt"
	"math"
	"slices"
	"strings"
	"testing"

	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/reflect/protoreflect"

	"github.com/keytrail/keytrail/proto/event"
	keytrailv1 "github.com/keytrail/keytrail/proto/keytrail/v1"
)

// TestScanSpelling writes each field of each message in other ways that protobuf reads as
// the same, or as its default.
func TestScanSpelling(t *testing.T) {
	for _, ev := range []*keytrailv1.KeyEvent{complete(), typical()} {
		all := spellings(encode(t, ev), ev.ProtoReflect().Descriptor())
		for _, b := range all {
			if checkScan(t, b) {
				t.Errorf("taken: %x", b)
			}
		}
		if len(all) < 50 {
			t.Errorf("only %d spellings", len(all))
		}
	}
}

// spellings are encodings of a message that are not canonical, each in one place.
func spellings(b []byte, md protoreflect.MessageDescriptor) [][]byte {
	long := func(v uint64) []byte { // one byte too long
		out := protowire.AppendVarint(nil, v)
		out[len(out)-1] |= 0x80
		return append(out, 0)
	}
	var out [][]byte
	for at := 0; at < len(b); {
		num, typ, n := protowire.ConsumeTag(b[at:])
		m := protowire.ConsumeFieldValue(num, typ, b[at+n:])
		head, tag, value, rest := b[:at], b[at:at+n], b[at+n:at+n+m], b[at+n+m:]
		at += n + m
		first, _ := protowire.ConsumeVarint(value)
		put := func(parts ...[]byte) {
			out = append(out, slices.Concat(slices.Concat(head, slices.Concat(parts...)), rest))
		}
		put(long(protowire.EncodeTag(num, typ)), value)
		fd := md.Fields().ByNumber(num)
		if typ == protowire.VarintType {
			put(tag, long(first))
			if !fd.HasPresence() {
				put(tag, []byte{0})
			}
			continue
		}
		content := value[protowire.SizeVarint(first):]
		put(tag, long(first), content)
		if fd.Kind() == protoreflect.StringKind && fd.ContainingOneof() == nil || fd.IsPacked() {
			put(tag, []byte{0})
		}
		if fd.IsPacked() {
			put(tag, []byte{3, 0xec, 0x80 | 2, 0})
		}
		if fd.Message() != nil {
			for _, sub := range spellings(content, fd.Message()) {
				put(tag, protowire.AppendBytes(nil, sub))
			}
		}
	}
	return out
}

func TestScanTooLarge(t *testing.T) {
	ev := minimal()
	for i := range 17 {
		ev.Attributes = append(ev.Attributes, &keytrailv1.Attribute{Name: fmt.Sprint(100 + i), Value: strings.Repeat("x", 1950)})
	}
	last := ev.Attributes[16]
	for last.Value = last.Value[:1000]; len(encode(t, ev)) < event.MaxSize+2; last.Value += "x" {
		if size := len(encode(t, ev)); checkScan(t, encode(t, ev)) != (size <= event.MaxSize) {
			t.Errorf("wrong about %d bytes", size)
		}
	}
}

// TestScanEdges sets each field of each message, one at a time, to values at and past its
// limits, in an event that is otherwise complete.
func TestScanEdges(t *testing.T) {
	tried, taken := 0, 0
	try := func(ev *keytrailv1.KeyEvent) {
		b, err := event.Append(nil, ev)
		if err != nil {
			return // not UTF-8
		}
		tried++
		if checkScan(t, b) {
			taken++
		}
	}
	var walk func(root *keytrailv1.KeyEvent, m protoreflect.Message)
	walk = func(root *keytrailv1.KeyEvent, m protoreflect.Message) {
		fields := m.Descriptor().Fields()
		for i := range fields.Len() {
			fd := fields.Get(i)
			had, before := m.Has(fd), m.Get(fd)
			if fd.IsList() { // what Get returns is emptied by Clear
				before = protoreflect.ValueOfList(clone(m, fd))
			}
			switch {
			case fd.IsList():
				// Set a list anew, so that the one before stays as it was.
				for _, l := range lists(m, fd) {
					m.Set(fd, protoreflect.ValueOfList(l))
					try(root)
				}
			case fd.Message() != nil:
				m.Clear(fd)
				try(root)
				m.Set(fd, m.NewField(fd))
				try(root)
			default:
				for _, v := range edges(fd) {
					m.Set(fd, v)
					try(root)
				}
			}
			m.Clear(fd)
			try(root)
			if had {
				m.Set(fd, before)
			}
			if !had || fd.Message() == nil {
				continue
			}
			if !fd.IsList() {
				walk(root, m.Get(fd).Message())
				continue
			}
			for j := range m.Get(fd).List().Len() {
				walk(root, m.Get(fd).List().Get(j).Message())
			}
		}
	}
	for _, ev := range []*keytrailv1.KeyEvent{complete(), typical()} {
		walk(ev, ev.ProtoReflect())
	}
	if taken < 2000 || taken > tried/2 {
		t.Errorf("%d of %d taken", taken, tried)
	}
}

func clone(m protoreflect.Message, fd protoreflect.FieldDescriptor) protoreflect.List {
	l := m.NewField(fd).List()
	for i := range m.Get(fd).List().Len() {
		l.Append(m.Get(fd).List().Get(i))
	}
	return l
}

// edges are values of a field that is no message, around all limits of event.proto.
func edges(fd protoreflect.FieldDescriptor) []protoreflect.Value {
	var out []protoreflect.Value
	switch fd.Kind() {
	case protoreflect.StringKind:
		for _, n := range []int{0, 1, 7, 8, 9, 64, 65, 128, 129, 256, 257, 512, 513, 1024, 1025, 2048, 2049, event.MaxSize} {
			out = append(out, protoreflect.ValueOfString(strings.Repeat("x", n)))
		}
		for _, s := range []string{
			"a b", "A", "z9._-", "/", "ä", "株式会社", "a\x00", "a\n", "a\tb", "a\rb", "\x1f", "\x7f", "\x80", "\u0085", "\u2028", "\u202e",
			"\u200b", "\u200f", "12345678\n", "1234567\x7f123456789", "\U000e0001", "\ufffd", "👩\u200d💻", "0123456789é",
		} {
			out = append(out, protoreflect.ValueOfString(s))
		}
	case protoreflect.BytesKind:
		for _, n := range []int{0, 1, 31, 32, 33, 8192, 8193} {
			out = append(out, protoreflect.ValueOfBytes(make([]byte, n)))
		}
	case protoreflect.EnumKind:
		for n := range protoreflect.EnumNumber(720) {
			out = append(out, protoreflect.ValueOfEnum(n))
		}
		out = append(out, protoreflect.ValueOfEnum(-1), protoreflect.ValueOfEnum(math.MaxInt32), protoreflect.ValueOfEnum(math.MinInt32))
	case protoreflect.BoolKind:
		out = append(out, protoreflect.ValueOfBool(false), protoreflect.ValueOfBool(true))
	case protoreflect.Uint32Kind:
		for _, n := range []uint32{0, 1, 2, 127, 128, math.MaxUint32} {
			out = append(out, protoreflect.ValueOfUint32(n))
		}
	case protoreflect.Uint64Kind:
		for _, n := range []uint64{0, 1, 2, 3, 4, 127, 128, math.MaxUint32, math.MaxInt64, math.MaxUint64} {
			out = append(out, protoreflect.ValueOfUint64(n))
		}
	case protoreflect.Int64Kind:
		for _, n := range []int64{
			math.MinInt64, -1, 0, 1, 631152000 - 1, 631152000, 7258118400, 7258118401, 253402300799, math.MaxInt64,
		} {
			out = append(out, protoreflect.ValueOfInt64(n))
		}
	case protoreflect.Int32Kind:
		for _, n := range []int32{math.MinInt32, -1, 0, 1, 127, 128, 999_999_999, 1_000_000_000, math.MaxInt32} {
			out = append(out, protoreflect.ValueOfInt32(n))
		}
	}
	return out
}

// lists are values of a field that is a list: of each edge, of lengths around all limits,
// with repeats and without, in order and not.
func lists(m protoreflect.Message, fd protoreflect.FieldDescriptor) []protoreflect.List {
	make := func(values ...protoreflect.Value) protoreflect.List {
		l := m.NewField(fd).List()
		for _, v := range values {
			l.Append(v)
		}
		return l
	}
	element := func(n int) protoreflect.Value {
		switch fd.Kind() {
		case protoreflect.EnumKind:
			return protoreflect.ValueOfEnum(protoreflect.EnumNumber(100 + n))
		case protoreflect.StringKind:
			return protoreflect.ValueOfString(fmt.Sprintf("v%03d", n))
		}
		e := m.NewField(fd).List().NewElement()
		for _, name := range []protoreflect.Name{"name", "ref", "approver"} {
			if f := e.Message().Descriptor().Fields().ByName(name); f != nil {
				e.Message().Set(f, protoreflect.ValueOfString(fmt.Sprintf("v%03d", n)))
			}
		}
		return e
	}
	var out []protoreflect.List
	for _, v := range edges(fd) {
		out = append(out, make(v), make(element(1), v), make(v, element(1)))
	}
	for _, n := range []int{1, 2, 8, 9, 16, 17, 32, 33, 64, 65} {
		var values []protoreflect.Value
		for i := range n {
			values = append(values, element(i))
		}
		out = append(out, make(values...))
	}
	return append(out, make(), make(element(2), element(1)), make(element(1), element(1)), make(element(1), element(2), element(1)))
}
