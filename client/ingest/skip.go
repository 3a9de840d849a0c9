package ingest

import "context"

// Skip is one record that was read and understood and is no event about keys: a call of
// another service, a digest. It is counted, so that nothing disappears unseen.
type Skip struct {
	File string
	// As in Item.
	Line int
	// Reason is a short phrase from a small fixed set; summaries count by it.
	Reason string
}

// Skipper is a Sink that wants to know what was skipped.
type Skipper interface {
	Skip(ctx context.Context, s Skip) error
}

// NoteSkip tells sink of a skipped record if sink is a Skipper.
func NoteSkip(ctx context.Context, sink Sink, s Skip) error {
	if k, ok := sink.(Skipper); ok {
		return k.Skip(ctx, s)
	}
	return nil
}
