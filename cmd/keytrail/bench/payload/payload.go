// Package payload makes the events that all systems under test are given: the same bytes,
// made so cheaply that the generator takes little of the cores it shares with them.
//
// Events are patched copies of templates: an event has a fresh id and, where it is a random
// one, a key and text of its own. A Set is read-only and may be shared; a Maker is for one
// goroutine. Nothing here is durable, and nothing is trusted with more than measuring.
package payload

import (
	"bytes"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"slices"
	"strconv"

	"google.golang.org/protobuf/encoding/protowire"

	"github.com/keytrail/keytrail/proto/event"
	keytrailv1 "github.com/keytrail/keytrail/proto/keytrail/v1"
)

// A Set is one kind of payload.
type Set struct {
	// Name says where the events come from.
	Name string
	// SourceBytes is the mean size of the records that the events were translated from, in
	// bytes; 0 of events that are made up.
	SourceBytes float64
	templates   []template
	pool        []byte // random text, of which every made-up event gets a piece
}

// template is an encoded event and where in it a copy differs from the next one.
type template struct {
	proto, json []byte
	inProto     spots
	inJSON      spots
	tenant, key string
	keyIsNumber bool // then the key and its tenant are drawn for each event
}

// spots are offsets; -1 where there is none.
type spots struct {
	id, request, key, tenant, hash int
	filler, fillerLen              int
}

const idDigits = 16 // at the end of an event's id, replaced by its number

// Len is how many different records the set has.
func (s *Set) Len() int { return len(s.templates) }

// EventBytes is the mean size of an encoded event.
func (s *Set) EventBytes() float64 {
	n := 0
	for i := range s.templates {
		n += len(s.templates[i].proto)
	}
	return float64(n) / float64(len(s.templates))
}

// find returns spots of the parts of an event that may differ between copies.
func find(b []byte, ev *keytrailv1.KeyEvent) (spots, error) {
	s := spots{id: -1, request: -1, key: -1, tenant: -1, hash: -1, filler: -1}
	at := bytes.Index(b, []byte(ev.GetEventId()))
	if len(ev.GetEventId()) < idDigits || at < 0 {
		return s, fmt.Errorf("event id %q is too short to be numbered", ev.GetEventId())
	}
	s.id = at + len(ev.GetEventId()) - idDigits
	if r := ev.GetRequestId(); len(r) >= idDigits && r != ev.GetEventId() {
		if at := bytes.Index(b, []byte(r)); at >= 0 {
			s.request = at + len(r) - idDigits
		}
	}
	if raw := ev.GetRaw(); raw != nil && len(raw.GetContent()) == 0 {
		s.hash = bytes.Index(b, raw.GetSha256())
	}
	return s, nil
}

// newTemplate prepares an event that was translated from a real record.
func newTemplate(ev *keytrailv1.KeyEvent) (template, error) {
	b, err := event.Append(nil, ev)
	if err != nil {
		return template{}, err
	}
	t := template{proto: b, tenant: ev.GetTenant(), key: ev.GetKey().GetRef()}
	if t.inProto, err = find(b, ev); err != nil {
		return template{}, err
	}
	return t, t.addJSON(ev)
}

// addJSON writes what a table of a database would hold: the same content, as JSON.
func (t *template) addJSON(ev *keytrailv1.KeyEvent) error {
	fields := map[string]any{
		"event_id": ev.GetEventId(), "request_id": ev.GetRequestId(), "tenant": ev.GetTenant(), "key": ev.GetKey().GetRef(),
		"actor": ev.GetActor().GetId(), "operation": int(ev.GetOperation()), "outcome": int(ev.GetOutcome()), "time": ev.GetTime().GetSeconds(),
	}
	attributes := map[string]string{}
	for _, a := range ev.GetAttributes() {
		attributes[a.GetName()] = a.GetValue()
	}
	for _, a := range ev.GetContext() {
		attributes[a.GetName()] = a.GetValue()
	}
	fields["attributes"] = attributes
	var err error
	if t.json, err = json.Marshal(fields); err != nil {
		return fmt.Errorf("encoding an event as JSON: %w", err)
	}
	// Both forms are as large, as far as text can be added.
	if missing := len(t.proto) - len(t.json) - len(`,"rest":""`); missing > 0 {
		fields["rest"] = string(bytes.Repeat([]byte("x"), missing))
		if t.json, err = json.Marshal(fields); err != nil {
			return fmt.Errorf("encoding an event as JSON: %w", err)
		}
	}
	t.inJSON, err = find(t.json, ev)
	t.inJSON.hash = -1
	if at := bytes.Index(t.json, []byte(`"rest":"`)); at >= 0 {
		t.inJSON.filler = at + len(`"rest":"`)
		t.inJSON.fillerLen = bytes.IndexByte(t.json[t.inJSON.filler:], '"')
	}
	return err
}

// Maker makes events of a set.
type Maker struct {
	set    *Set
	rnd    *rand.PCG
	worker uint64
	n      uint64
	keys   uint64
	// hotEvery, when not 0, gives every so-manieth event to key 0.
	hotEvery uint64
}

// New returns a maker whose events no maker with another number makes. Made-up events are
// about so many keys.
func (s *Set) New(worker, keys int) *Maker {
	return &Maker{set: s, worker: uint64(worker), keys: uint64(max(1, keys)), rnd: rand.NewPCG(uint64(worker), 0x9e3779b97f4a7c15)}
}

// Hot gives every so-manieth event to key 0, besides those that chance gives it.
func (m *Maker) Hot(every int) { m.hotEvery = uint64(max(0, every)) }

// next picks the next event: its template, its number, and chance for the rest of it.
func (m *Maker) next() (t *template, id, chance uint64) {
	chance = m.rnd.Uint64()
	t = &m.set.templates[chance%uint64(len(m.set.templates))]
	m.n++
	return t, m.worker<<40 | m.n, chance
}

// AppendField appends the next event as a field of a protobuf message.
func (m *Maker) AppendField(dst []byte, num protowire.Number) []byte {
	t, id, chance := m.next()
	dst = protowire.AppendTag(dst, num, protowire.BytesType)
	dst = protowire.AppendVarint(dst, uint64(len(t.proto)))
	at := len(dst)
	dst = append(dst, t.proto...)
	m.patch(dst[at:], t, &t.inProto, id, chance)
	return dst
}

// Append appends the next event, encoded.
func (m *Maker) Append(dst []byte) []byte {
	t, id, chance := m.next()
	at := len(dst)
	dst = append(dst, t.proto...)
	m.patch(dst[at:], t, &t.inProto, id, chance)
	return dst
}

// Row appends the next event as JSON, and returns what a database would index of it.
func (m *Maker) Row(dst []byte) (body []byte, tenant, key string) {
	t, id, chance := m.next()
	at := len(dst)
	dst = append(dst, t.json...)
	k := m.patch(dst[at:], t, &t.inJSON, id, chance)
	if !t.keyIsNumber {
		return dst, t.tenant, t.key
	}
	return dst, TenantOf(k), KeyRef(k)
}

// patch makes a copy of a template an event of its own, and returns its key's number.
func (m *Maker) patch(b []byte, t *template, s *spots, id, chance uint64) (key uint64) {
	hex(b[s.id:s.id+idDigits], id)
	if s.request >= 0 {
		hex(b[s.request:s.request+idDigits], chance)
	}
	if s.hash >= 0 {
		for i := range 4 {
			raw8(b[s.hash+8*i:], m.rnd.Uint64())
		}
	}
	if s.filler >= 0 && m.set.pool != nil {
		at := chance >> 8 % uint64(len(m.set.pool)-s.fillerLen)
		copy(b[s.filler:s.filler+s.fillerLen], m.set.pool[at:])
	}
	if !t.keyIsNumber {
		return 0
	}
	key = (chance >> 20) % m.keys
	if m.hotEvery > 0 && m.n%m.hotEvery == 0 {
		key = 0
	}
	decimal(b[s.key:s.key+keyDigits], key)
	b[s.tenant] = "0123456789abcdef"[key%16]
	return key
}

// hex writes a number as lower-case hexadecimal digits over b.
func hex(b []byte, n uint64) {
	for i := len(b) - 1; i >= 0; i-- {
		b[i] = "0123456789abcdef"[n&15]
		n >>= 4
	}
}

func raw8(b []byte, n uint64) {
	for i := range 8 {
		b[i] = byte(n >> (8 * i))
	}
}

func decimal(b []byte, n uint64) {
	for i := range slices.Backward(b) {
		b[i] = byte('0' + n%10)
		n /= 10
	}
}

// KeyRef is the reference of a made-up event's key.
func KeyRef(key uint64) string {
	n := strconv.FormatUint(key, 10)
	return keyPrefix + "00000000"[:keyDigits-len(n)] + n
}

// TenantOf is the tenant that a made-up event's key belongs to.
func TenantOf(key uint64) string { return tenantPrefix + string("0123456789abcdef"[key%16]) }
