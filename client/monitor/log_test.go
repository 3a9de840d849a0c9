package monitor_test

import (
	"context"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/test/bufconn"

	"github.com/keytrail/keytrail/client/monitor"
	"github.com/keytrail/keytrail/client/tiles"
	"github.com/keytrail/keytrail/client/tiles/tilestest"
	"github.com/keytrail/keytrail/log"
	"github.com/keytrail/keytrail/log/logtest"
	"github.com/keytrail/keytrail/log/server"
	"github.com/keytrail/keytrail/proto/keytrail/v1/rpc"
	"github.com/keytrail/keytrail/storage/memstore"
)

// realLog is a log of this project with its servers, and the configuration to watch it.
type realLog struct {
	*logtest.Log
	cfg       monitor.Config
	witnesses []*logtest.Witness
}

// startLog starts a log that publishes with both of two witnesses.
func startLog(t *testing.T) *realLog {
	t.Helper()
	d := logtest.NewDir(t)
	r := &realLog{witnesses: []*logtest.Witness{logtest.NewWitness(t, d, "witness.test/1"), logtest.NewWitness(t, d, "witness.test/2")}}
	p := logtest.Policy(t, d, 2, r.witnesses...)
	d.WithPolicy(p)
	r.Log = logtest.Open(t, d, memstore.New())
	srv := server.New(server.Config{Log: r.Log.Log})
	views, err := monitor.WitnessViews(p, logtest.Origin, tiles.Options{})
	if err != nil {
		t.Fatal(err)
	}
	if len(views) != 2 || views[1].Name != "witness w2.1, w2.2" {
		t.Fatalf("each witness has one endpoint for both of its keys: %+v", views)
	}
	r.cfg = monitor.Config{
		Origin: logtest.Origin, Policy: p, Views: views, MaxAge: time.Hour, Dir: filepath.Join(t.TempDir(), "state"),
		Log: open(t, tilestest.Serve(t, srv.HTTP(prometheus.NewRegistry()))), Payloads: serveGRPC(t, srv),
	}
	return r
}

func serveGRPC(t *testing.T, srv *server.Server) rpc.LogServiceClient {
	t.Helper()
	g, lis := srv.GRPC(nil), bufconn.Listen(1<<16)
	served := make(chan error, 1)
	go func() { served <- g.Serve(lis) }()
	conn, err := grpc.NewClient("passthrough:///log.test", grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithContextDialer(func(ctx context.Context, _ string) (net.Conn, error) { return lis.DialContext(ctx) }))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = conn.Close()
		g.Stop()
		if err := <-served; err != nil {
			t.Error(err)
		}
	})
	return rpc.NewLogServiceClient(conn)
}

func (r *realLog) grow(t *testing.T, size uint64) {
	t.Helper()
	for r.DurableSize() < size {
		var events []log.Event
		for n := r.DurableSize(); n < size && len(events) < 1000; n++ {
			events = append(events, logtest.Prepare(t, logtest.Event(int(n), fmt.Sprintf("k%d", n%7))))
		}
		if _, err := r.Append(t.Context(), "", events); err != nil {
			t.Fatal(err)
		}
	}
	r.AwaitPublished(t, size)
}

// TestRealLog watches a log of this project as it grows, with witnesses and payloads, over
// restarts of the monitor.
func TestRealLog(t *testing.T) {
	r := startLog(t)
	for _, size := range []uint64{1, 2, 256, 300, 2000, 2000} {
		if size > r.DurableSize() {
			r.grow(t, size)
		}
		m, err := monitor.Open(r.cfg)
		if err != nil {
			t.Fatal(err)
		}
		got, err := m.Round(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		if len(got.Alarms) > 0 || got.Size != size || got.Payloads != size || got.Newest.IsZero() {
			t.Fatalf("at %d entries: %+v", size, got)
		}
		metricsAt(t, m, size)
		if err := m.Close(); err != nil {
			t.Fatal(err)
		}
	}
}

// metricsAt looks at the collectors after a good round.
func metricsAt(t *testing.T, m *monitor.Monitor, size uint64) {
	t.Helper()
	registry := prometheus.NewPedanticRegistry()
	registry.MustRegister(m.Metrics()...)
	families, err := registry.Gather()
	if err != nil {
		t.Fatal(err)
	}
	got := make(map[string]float64)
	for _, f := range families {
		for _, s := range f.GetMetric() {
			name := strings.TrimPrefix(f.GetName(), "keytrail_monitor_")
			for _, l := range s.GetLabel() {
				name += " " + l.GetValue()
			}
			got[name] = s.GetGauge().GetValue() + s.GetCounter().GetValue()
		}
	}
	for name, want := range map[string]float64{
		"tree_size": float64(size), "payloads_checked": float64(size), "payload_lag": 0, "rounds_total": 1,
		"alarms fork": 0, "alarms_total stale": 0,
	} {
		if v, ok := got[name]; !ok || v != want {
			t.Errorf("metric %s is %v, want %v", name, v, want)
		}
	}
	for _, name := range []string{"last_round_timestamp_seconds", "last_success_timestamp_seconds", "newest_timestamp_seconds"} {
		if ago := float64(time.Now().Unix()) - got[name]; ago < -5 || ago > 600 {
			t.Errorf("metric %s is %v s ago", name, ago)
		}
	}
}

// TestRealLogErased erases payloads before the monitor sees them.
func TestRealLogErased(t *testing.T) {
	r := startLog(t)
	r.grow(t, 100)
	if err := r.Store.ErasePayloads(t.Context(), []uint64{0, 17, 99}); err != nil {
		t.Fatal(err)
	}
	m, err := monitor.Open(r.cfg)
	if err != nil {
		t.Fatal(err)
	}
	defer m.Close()
	got, err := m.Round(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if len(got.Alarms) > 0 || got.Payloads != 100 || got.Counts.Erased != 3 || got.Counts.Records != 97 {
		t.Errorf("%+v", got)
	}
	if _, err := os.Stat(filepath.Join(r.cfg.Dir, "checkpoint")); err != nil {
		t.Error(err)
	}
}
