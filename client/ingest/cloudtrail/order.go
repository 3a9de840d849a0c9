package cloudtrail

import (
	"container/heap"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/keytrail/keytrail/client/ingest"
	keytrailv1 "github.com/keytrail/keytrail/proto/keytrail/v1"
)

// Bounds of what is held back to be put in order: events, and their encoded bytes.
const (
	maxHeld      = 20000
	maxHeldBytes = 16 << 20
)

// held is an event that waits for earlier ones.
type held struct {
	item ingest.Item
	at   time.Time
	rank int
	seq  uint64
	size int
}

// window puts events in the order of their time. CloudTrail delivers them in no order,
// and late: the window reaches over files.
type window struct {
	heap  []held
	bytes int
	seq   uint64
}

func (w *window) add(it ingest.Item) {
	h := held{item: it, at: it.Event.GetTime().AsTime(), rank: rank(it.Event.GetSourceOperation()), seq: w.seq, size: proto.Size(it.Event)}
	w.seq++
	w.bytes += h.size
	heap.Push(w, h)
}

func (w *window) full() bool { return len(w.heap) > maxHeld || w.bytes > maxHeldBytes }

func (w *window) next() ingest.Item {
	h := heap.Pop(w).(held)
	w.bytes -= h.size
	return h.item
}

// rank orders events of one second: nothing happens to a key before it is made, or after
// it is gone.
func rank(name string) int {
	switch name {
	case "CreateKey":
		return 0
	case "DeleteKey":
		return 2
	}
	return 1
}

// Len, Less, Swap, Push and Pop are for container/heap.
func (w *window) Len() int { return len(w.heap) }

func (w *window) Less(i, j int) bool {
	a, b := &w.heap[i], &w.heap[j]
	if !a.at.Equal(b.at) {
		return a.at.Before(b.at)
	}
	if a.rank != b.rank {
		return a.rank < b.rank
	}
	return a.seq < b.seq
}

func (w *window) Swap(i, j int) { w.heap[i], w.heap[j] = w.heap[j], w.heap[i] }

func (w *window) Push(x any) { w.heap = append(w.heap, x.(held)) }

func (w *window) Pop() any {
	last := len(w.heap) - 1
	h := w.heap[last]
	w.heap[last] = held{}
	w.heap = w.heap[:last]
	return h
}

// maxCauses is how many causes are remembered; the oldest are forgotten first.
const maxCauses = 100000

// causeKey names a standing order: a deletion that is scheduled, a rotation that is
// switched on, material that expires.
type causeKey struct {
	account, region, ref, material, effect string
}

type cause struct {
	eventID string
	at      time.Time
}

// causes remembers, for each key, the events behind what KMS later does by itself.
type causes struct {
	known map[causeKey]cause
	order []causeKey
}

// Effects, by the name and kind of the service event.
const (
	effectDelete    = "delete"
	effectExpire    = "expire"
	effectAutomatic = "rotate automatically"
	effectOnDemand  = "rotate on demand"
)

// link notes a cause, or fills in the cause of an effect. Events must come in the order of
// their time. A cause that is not known stays absent.
func (c *causes) link(ev *keytrailv1.KeyEvent) {
	if ev.GetKey() == nil || ev.GetOutcome() != keytrailv1.Outcome_OUTCOME_SUCCESS {
		return
	}
	switch ev.GetSourceOperation() {
	case "ScheduleKeyDeletion":
		c.note(ev, effectDelete)
	case "CancelKeyDeletion":
		c.forget(ev, effectDelete)
	case "EnableKeyRotation":
		c.note(ev, effectAutomatic)
	case "DisableKeyRotation":
		c.forget(ev, effectAutomatic)
	case "RotateKeyOnDemand":
		c.note(ev, effectOnDemand)
	case "ImportKeyMaterial":
		if ev.GetKey().GetCryptoperiodEnd() != nil {
			c.note(ev, effectExpire)
		} else {
			c.forget(ev, effectExpire)
		}
	case "DeleteImportedKeyMaterial":
		c.forget(ev, effectExpire)
	case "DeleteKey":
		c.find(ev, effectDelete)
	case "DeleteExpiredKeyMaterial":
		c.find(ev, effectExpire)
	case "RotateKey":
		c.rotation(ev)
	}
}

// rotation tells an automatic rotation from one on demand. Records from before there were
// rotations on demand do not say.
func (c *causes) rotation(ev *keytrailv1.KeyEvent) {
	for _, a := range ev.GetAttributes() {
		if a.GetName() == "serviceEventDetails.rotationType" && a.GetValue() == "ON_DEMAND" {
			c.find(ev, effectOnDemand)
			return
		}
	}
	c.find(ev, effectAutomatic)
}

// keyOf names the order; the material counts for expiry only, where a key may have several.
func keyOf(ev *keytrailv1.KeyEvent, effect string) causeKey {
	k := causeKey{
		account: ev.GetSource().GetAccount(), region: ev.GetSource().GetRegion(),
		ref: ev.GetKey().GetRef(), effect: effect,
	}
	if effect == effectExpire {
		k.material = ev.GetKey().GetMaterialId()
	}
	return k
}

func (c *causes) note(ev *keytrailv1.KeyEvent, effect string) {
	if c.known == nil {
		c.known = make(map[causeKey]cause)
	}
	k := keyOf(ev, effect)
	if _, ok := c.known[k]; !ok {
		if len(c.order) >= maxCauses {
			delete(c.known, c.order[0])
			c.order = c.order[1:]
		}
		c.order = append(c.order, k)
	}
	c.known[k] = cause{ev.GetEventId(), ev.GetTime().AsTime()}
}

// forget takes the order back. Its place in the queue stays until it is the oldest.
func (c *causes) forget(ev *keytrailv1.KeyEvent, effect string) {
	k := keyOf(ev, effect)
	if _, ok := c.known[k]; ok {
		c.known[k] = cause{}
	}
}

func (c *causes) find(ev *keytrailv1.KeyEvent, effect string) {
	k := keyOf(ev, effect)
	found, ok := c.known[k]
	if !ok && k.material != "" {
		// The import may be older than material ids in records.
		k.material = ""
		found = c.known[k]
	}
	if found.eventID == "" || found.at.After(ev.GetTime().AsTime()) {
		return
	}
	if ev.CausedBy == nil {
		ev.CausedBy = &keytrailv1.Cause{}
	}
	ev.CausedBy.EventId = found.eventID
}
