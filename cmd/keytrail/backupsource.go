package main

import (
	"context"
	"crypto/tls"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"path/filepath"

	"google.golang.org/grpc"

	"github.com/keytrail/keytrail/client"
	"github.com/keytrail/keytrail/client/backup"
	"github.com/keytrail/keytrail/client/tiles"
	"github.com/keytrail/keytrail/cmd/internal/cli"
	"github.com/keytrail/keytrail/log"
	"github.com/keytrail/keytrail/log/logdir"
	"github.com/keytrail/keytrail/log/recovery"
	"github.com/keytrail/keytrail/proto/checkpoint"
	"github.com/keytrail/keytrail/proto/keytrail/v1/rpc"
	"github.com/keytrail/keytrail/proto/tile"
	"github.com/keytrail/keytrail/storage"
	"github.com/keytrail/keytrail/storage/pebblestore"
)

// backupSource is what a backup is made from: a server, or the store of a stopped log.
type backupSource struct {
	log     *tiles.Log
	service backup.Service
	// unpublished returns how many entries the log has acknowledged and cannot publish.
	unpublished func(context.Context) (uint64, error)
	// predecessor is what the server says of it; empty for a directory, which has the file.
	predecessor string
	close       func() error
}

// openBackupSource opens the store in a log's directory, or the server that has it open.
func (a *app) openBackupSource(ctx context.Context, f *backupFlags, d *logdir.Dir) (*backupSource, error) {
	if d != nil {
		s, err := pebblestore.Open(d.Store(), pebblestore.Options{ReadOnly: true})
		switch {
		case err == nil:
			return fromStore(s, d.Path), nil
		case errors.Is(err, storage.ErrCorrupt):
			return nil, cli.Hint(err, "run keytrail fsck --dir %s; a damaged log is no source of a backup", d.Path)
		case !errors.Is(err, storage.ErrLocked):
			return nil, err
		}
	}
	return a.fromServer(ctx, f, d)
}

// fromServer reads from a server, at the configured addresses when no others are given.
func (a *app) fromServer(ctx context.Context, f *backupFlags, d *logdir.Dir) (*backupSource, error) {
	server, url := a.server, f.url
	if d != nil && !f.serverGiven {
		server = d.Config.GRPC
	}
	if d != nil && url == "" {
		url = "http://" + d.Config.HTTP
		if d.Config.TLS.Cert != "" {
			url = "https://" + d.Config.HTTP
		}
	}
	var opts tiles.Options
	if a.tls != (client.TLS{}) {
		cfg, err := a.tls.Config()
		if err != nil {
			return nil, err
		}
		opts.HTTP = webClient(cfg)
	}
	l, err := tiles.Open(url, opts)
	if err != nil {
		return nil, cli.Usage("--url: %v", err)
	}
	c, err := client.Dial(server, a.tls)
	if err != nil {
		return nil, err
	}
	src := &backupSource{log: l, service: c, close: c.Close}
	info, err := c.GetLogInfo(ctx, &rpc.GetLogInfoRequest{})
	if err != nil {
		return nil, errors.Join(err, c.Close())
	}
	src.predecessor = string(info.GetPredecessor())
	src.unpublished = func(ctx context.Context) (uint64, error) {
		info, err := c.GetLogInfo(ctx, &rpc.GetLogInfoRequest{})
		if err != nil || info.GetPublicationProblem() == "" {
			return 0, err // what is on its way is no backlog
		}
		return info.GetDurableSize() - info.GetPublishedSize(), nil
	}
	return src, nil
}

func webClient(cfg *tls.Config) *http.Client {
	t := http.DefaultTransport.(*http.Transport).Clone()
	t.TLSClientConfig = cfg
	t.MaxIdleConnsPerHost = 16
	return &http.Client{Transport: t}
}

// fromStore reads from a store.
func fromStore(s storage.Store, dir string) *backupSource {
	return &backupSource{
		log: tiles.Files(filepath.Join(dir, "store"), func(ctx context.Context, path string) ([]byte, error) {
			return renderFile(ctx, s, path)
		}),
		service: storedService{s},
		unpublished: func(ctx context.Context) (uint64, error) {
			head, err := s.Head(ctx)
			if err != nil {
				return 0, err
			}
			note, err := s.Cell(ctx, log.CheckpointCell)
			if err != nil {
				return 0, err
			}
			cp, _, err := checkpoint.ParseNote(note)
			return head.Size - min(head.Size, cp.Size), err
		},
		close: s.Close,
	}
}

// renderFile makes a file of tlog-tiles from a store.
func renderFile(ctx context.Context, s storage.Store, path string) ([]byte, error) {
	if path == "checkpoint" {
		return s.Cell(ctx, log.CheckpointCell)
	}
	ref, err := tile.ParsePath(path)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, fs.ErrNotExist)
	}
	if !ref.Entries {
		return s.Tile(ctx, ref.Level, ref.Index, ref.Width)
	}
	start := ref.Index * tile.Width
	var b []byte
	err = s.Leaves(ctx, start, start+uint64(ref.Width), func(_ uint64, leaf []byte) error {
		b = append(binary.BigEndian.AppendUint16(b, uint16(len(leaf))), leaf...)
		return nil
	})
	return b, err
}

// storedService answers from a store as a server does.
type storedService struct{ store storage.Store }

// payloadsAtOnce is how many payloads are read at a time, at most 8 MiB.
const payloadsAtOnce = 256

func (s storedService) ReadPayloads(ctx context.Context, req *rpc.ReadPayloadsRequest, _ ...grpc.CallOption) (grpc.ServerStreamingClient[rpc.ReadPayloadsResponse], error) {
	return &storedPayloads{ctx: ctx, store: s.store, next: req.GetStart(), end: req.GetEnd()}, nil
}

type storedPayloads struct {
	grpc.ServerStreamingClient[rpc.ReadPayloadsResponse]
	ctx       context.Context
	store     storage.Store
	next, end uint64
}

func (r *storedPayloads) Recv() (*rpc.ReadPayloadsResponse, error) {
	if r.next >= r.end {
		return nil, io.EOF
	}
	res := &rpc.ReadPayloadsResponse{Start: r.next}
	stop := min(r.next+payloadsAtOnce, r.end)
	err := r.store.Payloads(r.ctx, r.next, stop, func(_ uint64, p []byte) error {
		res.Payloads = append(res.Payloads, append([]byte(nil), p...))
		return nil
	})
	r.next = stop
	return res, err
}

func (s storedService) ListErased(ctx context.Context, req *rpc.ListErasedRequest, _ ...grpc.CallOption) (grpc.ServerStreamingClient[rpc.ListErasedResponse], error) {
	return &storedErasures{ctx: ctx, store: s.store, next: req.GetStart(), end: req.GetEnd()}, nil
}

type storedErasures struct {
	grpc.ServerStreamingClient[rpc.ListErasedResponse]
	ctx       context.Context
	store     storage.Store
	next, end uint64
}

func (r *storedErasures) Recv() (*rpc.ListErasedResponse, error) {
	if r.next >= r.end {
		return nil, io.EOF
	}
	res := &rpc.ListErasedResponse{Next: min(r.next+1<<16, r.end)}
	err := r.store.Payloads(r.ctx, r.next, res.Next, func(i uint64, p []byte) error {
		if p == nil {
			res.Indexes = append(res.Indexes, i)
		}
		return nil
	})
	r.next = res.Next
	return res, err
}

// predecessorOf returns the final statement that a source or a directory has.
func predecessorOf(src *backupSource, d *logdir.Dir) (string, error) {
	if d == nil {
		return src.predecessor, nil
	}
	b, err := recovery.Predecessor(d.Path)
	return string(b), err
}
