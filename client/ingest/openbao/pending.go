package openbao

import (
	"container/list"
	"time"
)

// pending holds the requests that have no response yet, oldest first. The zero value is
// ready for use.
type pending struct {
	order list.List // of *record
	byID  map[string]*list.Element
	bytes int
	// disabling are the ids of requests to disable a device, the last maxDisabling.
	disabling []string
}

// maxDisabling is how many requests to disable a device are told from others.
const maxDisabling = 16

func (p *pending) len() int { return p.order.Len() }

// push holds a request. A second one with the same id is the same line once more and
// takes the place of the first.
func (p *pending) push(rec *record) {
	if p.byID == nil {
		p.byID = make(map[string]*list.Element)
	}
	p.remove(rec.Request.ID)
	p.byID[rec.Request.ID] = p.order.PushBack(rec)
	p.bytes += len(rec.raw)
	if disablesDevice(rec) {
		p.disabling = append(p.disabling[max(0, len(p.disabling)+1-maxDisabling):], rec.Request.ID)
	}
}

// popDisabling removes and returns the oldest request to disable a device that still has
// no response, or nil.
func (p *pending) popDisabling() *record {
	for len(p.disabling) > 0 {
		id := p.disabling[0]
		p.disabling = p.disabling[1:]
		if e, ok := p.byID[id]; ok {
			p.remove(id)
			return e.Value.(*record)
		}
	}
	return nil
}

// remove forgets a request, if it is there.
func (p *pending) remove(id string) {
	e, ok := p.byID[id]
	if !ok {
		return
	}
	delete(p.byID, id)
	p.order.Remove(e)
	p.bytes -= len(e.Value.(*record).raw)
}

// pop removes and returns the oldest; there must be one.
func (p *pending) pop() *record {
	rec := p.order.Front().Value.(*record)
	p.remove(rec.Request.ID)
	return rec
}

func (p *pending) tooMany() bool {
	return p.len() > maxPending || p.bytes > maxPendingBytes
}

// tooOld says whether the oldest has waited longer than a call can take, at the time of
// another line.
func (p *pending) tooOld(now time.Time) bool {
	front := p.order.Front()
	return front != nil && now.Sub(front.Value.(*record).at) > maxCallDuration
}
