package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"github.com/transparency-dev/formats/log"
	"github.com/transparency-dev/merkle/rfc6962"
	"github.com/transparency-dev/tessera/api"
	tessera "github.com/transparency-dev/tessera/client"
	"github.com/transparency-dev/tessera/fsck"
	"golang.org/x/mod/sumdb/note"

	"github.com/keytrail/keytrail/client/verify"
	"github.com/keytrail/keytrail/cmd/keytrail/bench/load"
	"github.com/keytrail/keytrail/cmd/keytrail/bench/peer"
	"github.com/keytrail/keytrail/log/logdir"
	"github.com/keytrail/keytrail/proto/policy"
)

// reader is a command that reads a filled log and prints a load.Result.
type reader struct {
	dir, kind string
	entries   uint64
	seconds   float64
	together  bool
}

func readers() []*cobra.Command {
	var cmds []*cobra.Command
	for _, c := range []struct {
		name string
		run  func(reader, context.Context) (load.Result, error)
	}{
		{"proofs", reader.proofs}, {"tessera-proofs", reader.tesseraProofs},
		{"receipts", reader.receipts}, {"tessera-fsck", reader.tesseraFsck},
	} {
		var r reader
		cmd := &cobra.Command{Use: c.name, Hidden: true, Args: cobra.NoArgs, RunE: func(cmd *cobra.Command, _ []string) error {
			res, err := c.run(r, cmd.Context())
			if err != nil {
				return err
			}
			return json.NewEncoder(cmd.OutOrStdout()).Encode(res)
		}}
		f := cmd.Flags()
		f.StringVar(&r.dir, "dir", "", "the log's directory")
		f.StringVar(&r.kind, "kind", "inclusion", "inclusion or consistency")
		f.Uint64Var(&r.entries, "entries", 0, "entries of the log")
		f.Float64Var(&r.seconds, "seconds", 2, "how long")
		f.BoolVar(&r.together, "together", false, "verify receipts together")
		cmds = append(cmds, cmd)
	}
	return cmds
}

// shape is one goroutine a core, with a quarter of the time to warm up.
func (r reader) shape(clients int) load.Shape {
	d := time.Duration(r.seconds * float64(time.Second))
	return load.Shape{Clients: clients, Warm: d / 4, For: d}
}

// proofBatch is how many proofs are counted at once, so that the counting costs nothing.
const proofBatch = 64

// repeat measures what every goroutine does with random numbers below the log's size.
func (r reader) repeat(ctx context.Context, clients int, start func() (func(ctx context.Context, n uint64) error, error)) (load.Result, error) {
	return load.Measure(ctx, r.shape(clients), func(n int) (func(context.Context) (int, error), error) {
		do, err := start()
		if err != nil {
			return nil, err
		}
		rnd := rand.New(rand.NewPCG(uint64(n), 4))
		return func(ctx context.Context) (int, error) {
			for range proofBatch {
				if err := do(ctx, 1+rnd.Uint64N(r.entries-1)); err != nil {
					return 0, err
				}
			}
			return proofBatch, nil
		}, nil
	})
}

// proofs computes proofs in this process, as the server does behind gRPC.
func (r reader) proofs(ctx context.Context) (res load.Result, err error) {
	k, err := peer.OpenKeytrail(ctx, r.dir)
	if err != nil {
		return res, err
	}
	defer func() { err = errors.Join(err, k.Close()) }()
	return r.repeat(ctx, runtime.GOMAXPROCS(0), func() (func(context.Context, uint64) error, error) {
		return func(ctx context.Context, n uint64) (err error) {
			if r.kind == "consistency" {
				_, _, _, err = k.Consistency(ctx, n, 0)
			} else {
				_, _, _, _, err = k.Inclusion(ctx, n, 0)
			}
			return err
		}, nil
	})
}

// tesseraSize is the size of a log of Tessera's, from its verified checkpoint.
func tesseraSize(ctx context.Context, dir string) (*log.Checkpoint, tessera.FileFetcher, note.Verifier, error) {
	f := tessera.FileFetcher{Root: filepath.Join(dir, "log")}
	vkey, err := os.ReadFile(filepath.Join(dir, "vkey"))
	if err != nil {
		return nil, f, nil, fmt.Errorf("reading the key: %w", err)
	}
	v, err := note.NewVerifier(strings.TrimSpace(string(vkey)))
	if err != nil {
		return nil, f, nil, fmt.Errorf("reading the key: %w", err)
	}
	cp, _, _, err := tessera.FetchCheckpoint(ctx, f.ReadCheckpoint, v, peer.Origin)
	if err != nil {
		return nil, f, nil, fmt.Errorf("reading the checkpoint: %w", err)
	}
	return cp, f, v, nil
}

// tesseraProofs builds proofs with a builder for each goroutine, which it asks again and again.
func (r reader) tesseraProofs(ctx context.Context) (load.Result, error) {
	cp, f, _, err := tesseraSize(ctx, r.dir)
	if err != nil {
		return load.Result{}, err
	}
	return r.repeat(ctx, runtime.GOMAXPROCS(0), func() (func(context.Context, uint64) error, error) {
		b, err := tessera.NewProofBuilder(ctx, cp.Size, f.ReadTile)
		if err != nil {
			return nil, fmt.Errorf("making a proof builder: %w", err)
		}
		return func(ctx context.Context, n uint64) (err error) {
			if r.kind == "consistency" {
				_, err = b.ConsistencyProof(ctx, n, cp.Size)
			} else {
				_, err = b.InclusionProof(ctx, n)
			}
			return err
		}, nil
	})
}

// tesseraFsck checks a log of Tessera's.
func (r reader) tesseraFsck(ctx context.Context) (load.Result, error) {
	cp, f, v, err := tesseraSize(ctx, r.dir)
	if err != nil {
		return load.Result{}, err
	}
	begin, before := time.Now(), load.CPU()
	c := fsck.New(peer.Origin, v, f, bundleHashes, fsck.Opts{N: uint(runtime.GOMAXPROCS(0))})
	if err := c.Check(ctx); err != nil {
		return load.Result{}, fmt.Errorf("checking: %w", err)
	}
	return load.Result{Events: int(cp.Size), All: int(cp.Size), Seconds: time.Since(begin).Seconds(), CPU: load.CPU() - before}, nil
}

func bundleHashes(bundle []byte) ([][]byte, error) {
	var b api.EntryBundle
	if err := b.UnmarshalText(bundle); err != nil {
		return nil, err
	}
	hashes := make([][]byte, len(b.Entries))
	for i, e := range b.Entries {
		hashes[i] = rfc6962.DefaultHasher.HashLeaf(e)
	}
	return hashes, nil
}

// receiptCount is how many receipts of one checkpoint are verified in turn.
const receiptCount = 5000

// receipts verifies receipts of random entries, on one core.
func (r reader) receipts(ctx context.Context) (load.Result, error) {
	k, err := peer.OpenKeytrail(ctx, r.dir)
	if err != nil {
		return load.Result{}, err
	}
	rnd := rand.New(rand.NewPCG(7, 8))
	all := make([][]byte, min(receiptCount, int(r.entries)))
	for i := range all {
		if all[i], err = k.Receipt(ctx, rnd.Uint64N(r.entries)); err != nil {
			return load.Result{}, errors.Join(err, k.Close())
		}
	}
	if err := k.Close(); err != nil {
		return load.Result{}, err
	}
	d, err := logdir.Load(r.dir)
	if err != nil {
		return load.Result{}, err
	}
	p, err := policy.Parse([]byte(d.Policy))
	if err != nil {
		return load.Result{}, fmt.Errorf("reading the log's policy: %w", err)
	}
	check := func(receipt []byte) error {
		_, err := verify.Receipt(receipt, p)
		return err
	}
	if v := verify.NewVerifier(p); r.together {
		check = func(receipt []byte) error {
			_, err := v.CheckReceipt(receipt)
			return err
		}
	}
	i := 0
	return load.Measure(ctx, r.shape(1), func(int) (func(context.Context) (int, error), error) {
		return func(context.Context) (int, error) {
			i++
			return 1, check(all[i%len(all)])
		}, nil
	})
}
