package peer

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/keytrail/keytrail/log"
	"github.com/keytrail/keytrail/log/index"
	"github.com/keytrail/keytrail/log/ledger"
	"github.com/keytrail/keytrail/log/logdir"
	"github.com/keytrail/keytrail/log/prove"
	"github.com/keytrail/keytrail/log/view"
	"github.com/keytrail/keytrail/proto/policy"
	"github.com/keytrail/keytrail/storage/pebblestore"
)

// Keytrail is a log in this process, made of what keytraild makes it of: store, index,
// ledger, policy, publisher and views all work.
type Keytrail struct {
	*log.Log
	stop []func() error // in the order of stopping
}

// openKeytrail makes a log and opens it.
func openKeytrail(ctx context.Context, dir string) (*Keytrail, error) {
	if _, err := logdir.Init(dir, "bench.invalid/log"); err != nil {
		return nil, err
	}
	return OpenKeytrail(ctx, dir)
}

// OpenKeytrail opens the log in a directory.
func OpenKeytrail(ctx context.Context, dir string) (k *Keytrail, err error) {
	d, err := logdir.Load(dir)
	if err != nil {
		return nil, err
	}
	k = &Keytrail{}
	defer func() {
		if err != nil {
			err = errors.Join(err, k.Close())
		}
	}()
	store, err := pebblestore.Open(d.Store(), pebblestore.Options{})
	if err != nil {
		return nil, err
	}
	k.stop = append(k.stop, store.Close)
	led, err := ledger.Open(d.Ledger(), d.Config.Origin)
	if err != nil {
		return k, err
	}
	k.stop = append([]func() error{led.Close}, k.stop...)
	x, err := index.Open(d.Index(), index.Options{})
	if err != nil {
		return k, err
	}
	k.stop = append([]func() error{x.Close}, k.stop...)
	nodes, err := prove.OpenNodes(d.Nodes(), nil)
	if err != nil {
		return k, err
	}
	k.stop = append([]func() error{nodes.Close}, k.stop...)
	trust, err := policy.Parse([]byte(d.Policy))
	if err != nil {
		return k, fmt.Errorf("reading the log's policy: %w", err)
	}
	k.Log, err = log.Open(ctx, log.Config{
		Origin: d.Config.Origin, Signers: d.Signers, Store: store, Index: x, Nodes: nodes, Ledger: led, Policy: trust,
		MinInterval: d.Config.MinInterval, Refresh: d.Config.Refresh, MaxPending: d.Config.MaxPending,
	})
	if err != nil {
		return k, err
	}
	v, err := view.Open(ctx, d.Views(), k.Log, view.Options{})
	if err != nil {
		return k, err
	}
	stopLog, stopViews := k.run(v)
	k.stop = append([]func() error{stopLog, stopViews, v.Close}, k.stop...)
	return k, nil
}

// run runs the log and its views; the log is to be stopped first.
func (k *Keytrail) run(v *view.View) (stopLog, stopViews func() error) {
	start := func(run func(context.Context) error) func() error {
		ctx, cancel := context.WithCancel(context.Background())
		ended := make(chan error, 1)
		go func() { ended <- run(ctx) }()
		return func() error {
			cancel()
			if err := <-ended; !errors.Is(err, context.Canceled) {
				return err
			}
			return nil
		}
	}
	return start(k.Run), start(v.Run)
}

// Record implements Recorder. It takes the way that the server takes with an event.
func (k *Keytrail) Record(ctx context.Context, event []byte) error {
	prepared, ok := log.PrepareEncoded(slices.Clone(event), time.Now())
	if !ok {
		return errors.New("the event is not one that the log takes as it is")
	}
	results, err := k.Append(ctx, "", []log.Event{prepared})
	if err != nil {
		return err
	}
	return results[0].Err
}

// Close implements Recorder.
func (k *Keytrail) Close() error {
	var err error
	for _, stop := range k.stop {
		err = errors.Join(err, stop())
	}
	return err
}
