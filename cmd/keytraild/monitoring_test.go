package main_test

import (
	"encoding/json"
	"io"
	"net/http"
	"os"
	"os/exec"
	"regexp"
	"strings"
	"testing"

	"github.com/keytrail/keytrail/log/logtest"
	"github.com/keytrail/keytrail/proto/keytrail/v1/rpc"
)

// TestMonitoring: alerting rules and dashboard ask for metrics that the programs have. With
// promtool in PATH the rules are checked and tested too.
func TestMonitoring(t *testing.T) {
	t.Parallel()
	c := newCluster(t, 1)
	c.log.mustStart()
	_, err := dialed(t, c.log.addr["grpc"]).Append(t.Context(), &rpc.AppendRequest{
		Event: logtest.Event(0, "k"), Wait: rpc.Wait_WAIT_WITNESSED,
	})
	if err != nil {
		t.Fatal(err)
	}
	known := metricNames(t, c.log.addr["http"])
	for name := range metricNames(t, c.witnesses[0].addr["http"]) {
		known[name] = true
	}
	for _, file := range []string{"monitoring/alerts.yaml", "monitoring/alerts_test.yaml", "monitoring/grafana.json"} {
		b, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		if strings.HasSuffix(file, ".json") && !json.Valid(b) {
			t.Errorf("%s is not JSON", file)
		}
		asked := 0
		for _, name := range regexp.MustCompile(`\bkeytrail_[a-z_]+`).FindAllString(string(b), -1) {
			asked++
			if name = strings.TrimSuffix(name, "_bucket"); !known[name] {
				t.Errorf("%s asks for %s, which no program has", file, name)
			}
		}
		if asked == 0 {
			t.Errorf("%s asks for no metric", file)
		}
	}
	for _, args := range [][]string{{"check", "rules", "alerts.yaml"}, {"test", "rules", "alerts_test.yaml"}} {
		tool, err := exec.LookPath("promtool")
		if err != nil {
			t.Log("promtool is not in PATH: the rules were not tested")
			break
		}
		cmd := exec.Command(tool, args...)
		cmd.Dir = "monitoring"
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Errorf("promtool %v: %v\n%s", args, err, out)
		}
	}
	c.log.stop()
}

// metricNames are the metrics that a program serves.
func metricNames(t *testing.T, addr string) map[string]bool {
	t.Helper()
	res, err := http.Get("http://" + addr + "/metrics")
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	b, err := io.ReadAll(res.Body)
	if err != nil {
		t.Fatal(err)
	}
	names := make(map[string]bool)
	for line := range strings.Lines(string(b)) {
		if f := strings.Fields(line); len(f) > 2 && f[0] == "#" && f[1] == "TYPE" {
			names[f[2]] = true
		}
	}
	return names
}
