package interop_test

import (
	"fmt"
	"io"
	"net/http"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/keytrail/keytrail/proto/consistency"
)

// TestSpeed compares keytrail-witness with litewitness: cosigned checkpoints a second, over
// HTTP on loopback, every one on stable storage before the answer. Each log sends one
// request at a time, each for one entry more. Ours verifies and makes two signatures each
// time (Ed25519 and ML-DSA-44), litewitness one. The load comes from this process, which
// has its requests ready. Rounds alternate, so that both meet the machine alike.
//
// It says how fast, and judges nothing, so it runs only when KEYTRAIL_BENCH is set.
func TestSpeed(t *testing.T) {
	if os.Getenv("KEYTRAIL_BENCH") == "" {
		t.Skip("KEYTRAIL_BENCH is not set; this test measures and judges nothing")
	}
	for _, logs := range []int{1, 16} {
		t.Run(fmt.Sprintf("logs=%d", logs), func(t *testing.T) { compareSpeed(t, logs) })
	}
}

// A round is this many cosignatures, and there are so many for each witness.
const (
	perRound = 2048
	rounds   = 3
)

// contender is a witness under load.
type contender struct {
	name string
	url  string
	pid  int
	// One for each round.
	perSecond, cpu []float64
	took           []time.Duration
}

func compareSpeed(t *testing.T, logs int) {
	ours, lite := newWitness(t, "interop.test/ours"), newLitewitness(t, "interop.test/lite")
	var chains [][][]byte
	for i := range logs {
		l := newTree(t, fmt.Sprintf("interop.test/speed/%d", i), "a")
		vkey := l.keys[0].VerifierKey().String()
		ours.enroll(t, vkey, l.keys[1].VerifierKey().String())
		lite.enroll(t, l.keys[0].Name(), vkey)
		chains = append(chains, l.chain(t, rounds*perRound/logs))
	}
	all := []*contender{
		{name: "keytrail-witness", url: ours.url, pid: ours.cmd.Process.Pid},
		{name: "litewitness", url: lite.url, pid: lite.cmd.Process.Pid},
	}
	for round := range rounds {
		for _, c := range all {
			c.run(t, chains, round)
		}
	}
	load, err := os.ReadFile("/proc/loadavg")
	if err != nil {
		t.Fatal(err)
	}
	var table strings.Builder
	for _, c := range all {
		slices.Sort(c.perSecond)
		slices.Sort(c.cpu)
		slices.Sort(c.took)
		fmt.Fprintf(&table, "%-17s %7.0f/s [%.0f-%.0f]  p50 %6.2f ms  p99 %6.2f ms  CPU %.3f ms each\n", c.name,
			c.perSecond[rounds/2], c.perSecond[0], c.perSecond[rounds-1],
			c.took[len(c.took)/2].Seconds()*1e3, c.took[len(c.took)*99/100].Seconds()*1e3, c.cpu[rounds/2])
	}
	t.Logf("%d logs, median of %d rounds of %d cosignatures [range], load average %s\n%sratio of medians %.2f, of CPU %.2f", logs, rounds, perRound, load,
		&table, all[0].perSecond[rounds/2]/all[1].perSecond[rounds/2], all[0].cpu[rounds/2]/all[1].cpu[rounds/2])
}

// chain returns requests for the sizes from 1 to n.
func (l *signedTree) chain(t testing.TB, n int) [][]byte {
	t.Helper()
	var requests [][]byte
	for size := range uint64(n) {
		cp, note := l.at(t, size+1)
		hashes, err := l.Consistency(t.Context(), size, cp.Size)
		if err != nil {
			t.Fatal(err)
		}
		requests = append(requests, (&consistency.Bundle{OldSize: size, Hashes: hashes, Checkpoint: note}).Append(nil))
	}
	return requests
}

// run sends one round, all logs at once.
func (c *contender) run(t *testing.T, chains [][][]byte, round int) {
	t.Helper()
	transport := &http.Transport{MaxIdleConnsPerHost: len(chains)}
	defer transport.CloseIdleConnections()
	client := &http.Client{Transport: transport, Timeout: 30 * time.Second}
	took := make([][]time.Duration, len(chains))
	cpu, begin := processTime(t, c.pid), time.Now()
	var all sync.WaitGroup
	for i, chain := range chains {
		all.Go(func() {
			each := len(chain) / rounds
			for _, body := range chain[round*each : (round+1)*each] {
				sent := time.Now()
				if err := post(client, c.url, body); err != nil {
					t.Errorf("%s: %v", c.name, err)
					return
				}
				took[i] = append(took[i], time.Since(sent))
			}
		})
	}
	all.Wait()
	elapsed := time.Since(begin).Seconds()
	c.perSecond = append(c.perSecond, perRound/elapsed)
	c.cpu = append(c.cpu, (processTime(t, c.pid)-cpu).Seconds()*1e3/perRound)
	c.took = append(c.took, slices.Concat(took...)...)
}

func post(client *http.Client, url string, body []byte) error {
	res, err := client.Post(url+"/add-checkpoint", "", strings.NewReader(string(body)))
	if err != nil {
		return err
	}
	defer res.Body.Close()
	answer, err := io.ReadAll(res.Body)
	if err == nil && (res.StatusCode != http.StatusOK || len(answer) == 0) {
		err = fmt.Errorf("%s: %q", res.Status, answer)
	}
	return err
}

// processTime returns the processor time that a process has used, from Linux's /proc.
func processTime(t *testing.T, pid int) time.Duration {
	t.Helper()
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		t.Fatal(err)
	}
	// Behind the name, which is in brackets, utime and stime are the 12th and 13th.
	fields := strings.Fields(string(stat[strings.LastIndexByte(string(stat), ')')+1:]))
	var ticks int64
	for _, f := range fields[11:13] {
		n, err := strconv.ParseInt(f, 10, 64)
		if err != nil {
			t.Fatal(err)
		}
		ticks += n
	}
	return time.Duration(ticks) * time.Second / 100
}
