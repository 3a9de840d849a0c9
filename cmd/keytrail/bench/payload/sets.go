package payload

import (
	"bytes"
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"time"

	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/keytrail/keytrail/client/ingest"
	"github.com/keytrail/keytrail/client/ingest/cloudtrail"
	"github.com/keytrail/keytrail/client/ingest/openbao"
	"github.com/keytrail/keytrail/proto/event"
	keytrailv1 "github.com/keytrail/keytrail/proto/keytrail/v1"
)

const (
	keyPrefix    = "arn:bench:eu-central-1:111122223333:key/"
	keyDigits    = 8
	tenantPrefix = "tenant-"
	poolSize     = 8 << 20
)

// Random returns made-up events of size bytes each, encoded, most of them random text.
func Random(size int) (*Set, error) {
	rnd := rand.New(rand.NewPCG(1, 2))
	raw := make([]byte, poolSize*3/4)
	for i := range raw {
		raw[i] = byte(rnd.Uint32())
	}
	s := &Set{Name: "random", pool: base64.RawStdEncoding.AppendEncode(nil, raw)}
	filler := size
	for {
		ev := made(strings.Repeat("x", filler))
		b, err := event.Append(nil, ev)
		if err != nil {
			return nil, err
		}
		if len(b) > size && filler > 0 {
			filler -= len(b) - size
			continue
		}
		t := template{proto: b, keyIsNumber: true}
		if t.inProto, err = find(b, ev); err != nil {
			return nil, err
		}
		t.inProto.filler, t.inProto.fillerLen = bytes.Index(b, []byte("xxxx")), filler
		if err := t.addJSON(ev); err != nil {
			return nil, err
		}
		t.inJSON.filler, t.inJSON.fillerLen = bytes.Index(t.json, []byte("xxxx")), filler
		for b, at := range map[*[]byte]*spots{&t.proto: &t.inProto, &t.json: &t.inJSON} {
			at.key = bytes.Index(*b, []byte(keyPrefix)) + len(keyPrefix)
			at.tenant = bytes.Index(*b, []byte(tenantPrefix)) + len(tenantPrefix)
		}
		s.templates = []template{t}
		return s, nil
	}
}

func made(filler string) *keytrailv1.KeyEvent {
	return &keytrailv1.KeyEvent{
		SchemaVersion: 1,
		EventId:       strings.Repeat("0", 24),
		Source:        &keytrailv1.Source{System: "bench", Account: "111122223333", Region: "eu-central-1"},
		Tenant:        TenantOf(0),
		Time:          timestamppb.New(time.Unix(1_767_225_600, 0)),
		Operation:     keytrailv1.Operation_OPERATION_USE_DECRYPT,
		Outcome:       keytrailv1.Outcome_OUTCOME_SUCCESS,
		Key:           &keytrailv1.Key{Ref: KeyRef(0)},
		Actor:         &keytrailv1.Actor{Id: "arn:bench:iam::111122223333:role/service-17", Type: keytrailv1.Actor_TYPE_WORKLOAD},
		SourceIp:      "10.20.30.40",
		RequestId:     strings.Repeat("1", 16),
		Attributes:    []*keytrailv1.Attribute{{Name: "filler", Value: filler}},
	}
}

// CloudTrail returns events translated from real CloudTrail records; raw keeps the records
// in the events. samples is a directory with aws-cloudtrail/*.ndjson; records that come with
// the repository (fallback) are read where it is missing.
func CloudTrail(samples, fallback string, raw bool) (*Set, error) {
	imp, err := cloudtrail.New(cloudtrail.Options{Tenant: "bench", KeepRaw: raw})
	if err != nil {
		return nil, err
	}
	file, err := firstOf(filepath.Join(samples, "aws-cloudtrail", "attack-run-kms-events.ndjson"), filepath.Join(fallback, "cloudtrail", "events.ndjson"))
	if err != nil {
		return nil, err
	}
	name := "CloudTrail"
	if raw {
		name += " with the record kept"
	}
	return translated(name, imp, file)
}

// OpenBao is the same for OpenBao's audit log.
func OpenBao(samples, fallback string) (*Set, error) {
	file, err := firstOf(filepath.Join(samples, "openbao", "audit.ndjson"), filepath.Join(fallback, "openbao", "audit.ndjson"))
	if err != nil {
		return nil, err
	}
	return translated("OpenBao", openbao.New(openbao.Options{Tenant: "bench"}), file)
}

// firstOf returns the first of two files that is there.
func firstOf(names ...string) (string, error) {
	for _, name := range names {
		if _, err := os.Stat(name); err == nil {
			return name, nil
		}
	}
	return "", fmt.Errorf("reading sample records: none of %s: %w", strings.Join(names, ", "), fs.ErrNotExist)
}

// collector is what an importer's events go to.
type collector struct {
	set *Set
}

// Item implements ingest.Sink.
func (c *collector) Item(_ context.Context, it ingest.Item) error {
	t, err := newTemplate(it.Event)
	if err != nil {
		return err
	}
	c.set.templates = append(c.set.templates, t)
	return nil
}

// Reject implements ingest.Sink.
func (c *collector) Reject(_ context.Context, r ingest.Reject) error {
	return fmt.Errorf("reading %s, line %d: %s", r.File, r.Line, r.Reason)
}

// translated reads a file of records.
func translated(name string, imp ingest.Importer, file string) (*Set, error) {
	data, err := os.ReadFile(file)
	if err != nil {
		return nil, fmt.Errorf("reading sample records: %w", err)
	}
	c := &collector{set: &Set{Name: name}}
	ctx := context.Background()
	if err := errors.Join(imp.Read(ctx, file, bytes.NewReader(data), c), imp.Flush(ctx, c)); err != nil {
		return nil, fmt.Errorf("reading sample records: %w", err)
	}
	if c.set.Len() == 0 {
		return nil, fmt.Errorf("reading sample records: %s holds none", file)
	}
	c.set.SourceBytes = float64(len(data)) / float64(c.set.Len())
	return c.set, nil
}
