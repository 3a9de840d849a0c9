package witness_test

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"slices"
	"sync"
	"syscall"
	"testing"
	"time"
)

// BenchmarkAddCheckpoint has logs cosigned by a witness whose store is on a disk, each
// checkpoint with two signatures (Ed25519 and ML-DSA-44) of the log and two of the witness,
// and synced before the answer. It reports cosigned checkpoints per second and percentiles
// of the answers, as the clients see them. A benchmark's operation is one cosignature.
//
//   - call: without HTTP, the same tree again and again;
//   - again: over HTTP, the same tree again and again;
//   - chain: over HTTP, each tree one entry larger, as logs do that publish fast.
//
// Clients are in this process and send over loopback, each on a connection that it keeps.
func BenchmarkAddCheckpoint(b *testing.B) {
	for _, c := range []struct {
		mode          string
		logs, clients int // clients of each log
	}{
		{"call", 1, 1}, {"call", 16, 1},
		{"again", 1, 1}, {"again", 1, 16}, {"again", 16, 1},
		{"chain", 1, 1}, {"chain", 16, 1},
	} {
		b.Run(fmt.Sprintf("%s/logs=%d/clients=%d", c.mode, c.logs, c.clients), func(b *testing.B) {
			each := (b.N + c.logs*c.clients - 1) / (c.logs * c.clients)
			var logs []*testLog
			for i := range c.logs {
				name := fmt.Sprint("log.test/", i)
				logs = append(logs, newLog(b, name, name))
			}
			w := onDisk(b, logs...)
			send := w.overHTTP(b)
			if c.mode == "call" {
				send = func(body []byte) error {
					_, err := w.AddCheckpoint(context.Background(), body)
					return err
				}
			}
			var clients [][][]byte
			for _, l := range logs {
				w.add(b, l.request(b, 0, 100))
				requests := l.requests(b, each, c.mode == "chain")
				for range c.clients {
					clients = append(clients, requests)
				}
			}
			measure(b, clients, send)
		})
	}
}

// requests returns n requests after size 100: each for one entry more, or all the same.
func (l *testLog) requests(b *testing.B, n int, chain bool) [][]byte {
	all := slices.Repeat([][]byte{l.request(b, 100, 100)}, n)
	for i := range all {
		if size := uint64(100 + i); chain {
			all[i] = l.request(b, size, size+1)
		}
	}
	return all
}

// measure lets every client send its requests one after the other.
func measure(b *testing.B, clients [][][]byte, send func([]byte) error) {
	took := make([][]time.Duration, len(clients))
	b.ResetTimer()
	cpu := processorTime(b)
	var wg sync.WaitGroup
	for i, requests := range clients {
		wg.Go(func() {
			for _, body := range requests {
				begin := time.Now()
				if err := send(body); err != nil {
					b.Error(err)
					return
				}
				took[i] = append(took[i], time.Since(begin))
			}
		})
	}
	wg.Wait()
	b.StopTimer()
	cpu = processorTime(b) - cpu
	all := slices.Sorted(slices.Values(slices.Concat(took...)))
	if len(all) == 0 {
		return
	}
	b.ReportMetric(float64(len(all))/b.Elapsed().Seconds(), "cosigned/s")
	b.ReportMetric(all[len(all)/2].Seconds()*1e3, "p50-ms")
	b.ReportMetric(all[len(all)*99/100].Seconds()*1e3, "p99-ms")
	b.ReportMetric(cpu.Seconds()*1e3/float64(len(all)), "cpu-ms/op")
}

// processorTime is what this process has used so far, clients included: unlike the rest it
// hardly depends on what else the machine does.
func processorTime(b *testing.B) time.Duration {
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		b.Fatal(err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// overHTTP serves the witness on loopback and returns how to send it requests.
func (w *testWitness) overHTTP(b *testing.B) func([]byte) error {
	s := httptest.NewServer(w.Handler())
	b.Cleanup(s.Close)
	client := &http.Client{Transport: &http.Transport{
		MaxIdleConnsPerHost: 64, DialContext: new(net.Dialer).DialContext, DisableCompression: true,
	}}
	b.Cleanup(client.CloseIdleConnections)
	return func(body []byte) error {
		r, err := client.Post(s.URL+"/add-checkpoint", "text/plain", bytes.NewReader(body))
		if err != nil {
			return err
		}
		defer r.Body.Close()
		lines, err := io.ReadAll(r.Body)
		if err == nil && r.StatusCode != http.StatusOK {
			err = fmt.Errorf("%s: %s", r.Status, lines)
		}
		return err
	}
}
