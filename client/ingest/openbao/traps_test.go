package openbao_test

import (
	"crypto/sha256"
	"encoding/json"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/encoding/protojson"

	"github.com/keytrail/keytrail/client/ingest/openbao"
	"github.com/keytrail/keytrail/proto/event"
	keytrailv1 "github.com/keytrail/keytrail/proto/keytrail/v1"
)

// pair is the event of a call of audit.ndjson, by its two lines.
func pair(t *testing.T, request, response int) *keytrailv1.KeyEvent {
	t.Helper()
	return one(t, byNamespace(), sampleLines(t, "audit.ndjson", request, response)...)
}

// edit changes a line through its JSON.
func edit(t *testing.T, line string, change func(m map[string]any)) string {
	t.Helper()
	var m map[string]any
	if err := json.Unmarshal([]byte(line), &m); err != nil {
		t.Fatal(err)
	}
	change(m)
	b, err := json.Marshal(m)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

// part is an object in an object.
func part(m map[string]any, path ...string) map[string]any {
	for _, name := range path {
		next, ok := m[name].(map[string]any)
		if !ok {
			next = map[string]any{}
			m[name] = next
		}
		m = next
	}
	return m
}

// TestInterleaved: with parallel clients, pairs do not stand together, and lines are not
// in the order of time.
func TestInterleaved(t *testing.T) {
	c := readClean(t, byNamespace(), []byte(strings.Join(sampleLines(t, "audit.ndjson", seq(425, 744)...), "\n")))
	if len(c.items) != 160 {
		t.Errorf("%d events of 160 calls", len(c.items))
	}
	for _, it := range c.items {
		if it.Event.GetOutcome() != keytrailv1.Outcome_OUTCOME_SUCCESS || it.Event.GetKey() == nil {
			t.Errorf("line %d: %v", it.Line, it.Event)
		}
	}
}

func seq(from, to int) []int {
	var list []int
	for n := from; n <= to; n++ {
		list = append(list, n)
	}
	return list
}

// TestSingles: four kinds of call have one line only.
func TestSingles(t *testing.T) {
	for line, want := range map[int]string{1: "other", 2: "log.enable", 819: "store.seal", 824: "log.disable"} {
		ev := one(t, byNamespace(), sampleLines(t, "audit.ndjson", line)...)
		got := event.OperationName(ev.GetOperation()) + " " + event.OutcomeName(ev.GetOutcome())
		if got != want+" success" {
			t.Errorf("line %d: %s, want %s success", line, got, want)
		}
		if ev.GetEventId() != ev.GetRequestId() {
			t.Errorf("line %d: event id %s", line, ev.GetEventId())
		}
	}
	// A device that somebody calls "test" is not the probe.
	enable := edit(t, sampleLines(t, "audit.ndjson", 2)[0], func(m map[string]any) { part(m, "request")["path"] = "sys/audit/test" })
	if got := one(t, byNamespace(), enable).GetOperation(); got != keytrailv1.Operation_OPERATION_LOG_ENABLE {
		t.Errorf("device of the name test: %v", got)
	}
}

// TestDisabledAndEnabled: the request that ended the log comes before the probe with which
// it goes on.
func TestDisabledAndEnabled(t *testing.T) {
	c := readClean(t, byNamespace(), sample(t, "audit.ndjson"))
	var lines []int
	for _, it := range c.items[len(c.items)-7:] {
		lines = append(lines, it.Line)
	}
	if !slices.Equal(lines, []int{824, 825, 826, 828, 830, 832, 834}) {
		t.Errorf("events of lines %v", lines)
	}
	// Another device's disabling is answered, and is one event.
	one(t, byNamespace(), sampleLines(t, "audit.ndjson", 749, 750)...)
}

// TestFailures: where the outcome stands, in its many places.
func TestFailures(t *testing.T) {
	for _, row := range []struct {
		name          string
		lines         [2]int
		outcome, code string
		message       string
	}{
		{"denied, both lines with error", [2]int{111, 112}, "denied", "permission_denied", "permission denied"},
		{"denied without an actor", [2]int{391, 392}, "denied", "permission_denied", "permission denied"},
		{"only response.data.error", [2]int{127, 128}, "failure", "failed", ""},
		{"only response.data.error, in clear", [2]int{357, 358}, "failure", "failed", "cannot set min encryption version of 5, latest key version is 1"},
		{"both, the inner in clear", [2]int{343, 344}, "failure", "invalid_request", "invalid ciphertext: version is too new"},
		{"only the top", [2]int{227, 228}, "failure", "failed", "requested version for signing is higher than the latest key version"},
		{"invalid request", [2]int{139, 140}, "failure", "invalid_request", "invalid request"},
		{"login with a wrong password", [2]int{385, 386}, "failure", "invalid_credentials", "invalid credentials"},
		{"login of an unknown user", [2]int{387, 388}, "failure", "failed", ""},
		{"read of nothing", [2]int{205, 206}, "failure", "not_found", ""},
		{"unsupported path", [2]int{419, 420}, "failure", "not_found", "unsupported path"},
		{"unsupported operation", [2]int{817, 818}, "failure", "unsupported_operation", "unsupported operation"},
		{"deletion without an answer", [2]int{153, 154}, "success", "", ""},
		{"restore without an answer", [2]int{287, 288}, "success", "", ""},
		{"signature that does not verify", [2]int{221, 222}, "success", "", ""},
	} {
		t.Run(row.name, func(t *testing.T) {
			ev := pair(t, row.lines[0], row.lines[1])
			got := []string{event.OutcomeName(ev.GetOutcome()), ev.GetError().GetCode(), ev.GetError().GetMessage()}
			if diff := cmp.Diff([]string{row.outcome, row.code, row.message}, got); diff != "" {
				t.Errorf("-want +got:\n%s", diff)
			}
		})
	}
	if v := attribute(pair(t, 221, 222), "valid"); v != "false" {
		t.Errorf("valid is %q", v)
	}
	// A secret that holds a field "error" among others is not an error.
	secret := edit(t, sampleLines(t, "audit.ndjson", 378)[0], func(m map[string]any) {
		part(m, "request")["operation"] = "read"
		part(m, "response")["data"] = map[string]any{"error": "hmac-sha256:00", "user": "hmac-sha256:01"}
	})
	if got := one(t, byNamespace(), secret).GetOutcome(); got != keytrailv1.Outcome_OUTCOME_SUCCESS {
		t.Errorf("secret with a field error: %v", got)
	}
}

// TestSplitErrors: several errors come as one text.
func TestSplitErrors(t *testing.T) {
	line := edit(t, sampleLines(t, "audit.ndjson", 112)[0], func(m map[string]any) {
		m["error"] = "2 errors occurred:\n\t* permission denied\n\t* invalid token\n\n"
		delete(part(m, "auth"), "policy_results")
	})
	ev := one(t, byNamespace(), line)
	if ev.GetOutcome() != keytrailv1.Outcome_OUTCOME_DENIED || ev.GetError().GetMessage() != "permission denied; invalid token" {
		t.Errorf("%v %v", ev.GetOutcome(), ev.GetError())
	}
	// The words alone, inside another message, are no denial.
	line = edit(t, line, func(m map[string]any) { m["error"] = "open /vault/x: permission denied" })
	if ev := one(t, byNamespace(), line); ev.GetOutcome() != keytrailv1.Outcome_OUTCOME_FAILURE {
		t.Errorf("%v", ev.GetOutcome())
	}
}

func TestBatches(t *testing.T) {
	failed := func(n uint64) *uint64 { return &n }
	for _, row := range []struct {
		name    string
		lines   [2]int
		outcome string
		count   uint64
		failed  *uint64
		version string
	}{
		{"encrypt", [2]int{109, 110}, "success", 3, failed(0), "1"},
		{"rewrap", [2]int{243, 244}, "success", 2, failed(0), "2"},
		{"decrypt", [2]int{245, 246}, "success", 2, failed(0), ""},
		{"sign, one of three failed", [2]int{229, 230}, "partial", 3, failed(1), "1"},
		{"decrypt, HTTP 400: how many failed is hashed", [2]int{247, 248}, "failure", 3, nil, ""},
		{"decrypt, the caller's own code: some succeeded", [2]int{249, 250}, "partial", 3, nil, ""},
	} {
		t.Run(row.name, func(t *testing.T) {
			ev := pair(t, row.lines[0], row.lines[1])
			if got := event.OutcomeName(ev.GetOutcome()); got != row.outcome {
				t.Errorf("outcome %s, want %s", got, row.outcome)
			}
			a := ev.GetAggregate()
			if a.GetCount() != row.count || !cmp.Equal(a.Failed, row.failed) {
				t.Errorf("aggregate %v", a)
			}
			if got := ev.GetKey().GetVersion(); got != row.version {
				t.Errorf("version %q, want %q", got, row.version)
			}
		})
	}
	if got := pair(t, 105, 106).GetAggregate(); got != nil {
		t.Errorf("a single encryption has aggregate %v", got)
	}
	all := edit(t, sampleLines(t, "audit.ndjson", 230)[0], func(m map[string]any) {
		bad := map[string]any{"error": "hmac-sha256:00", "key_version": 0}
		part(m, "response", "data")["batch_results"] = []any{bad, bad, bad}
	})
	if got := one(t, byNamespace(), all).GetOutcome(); got != keytrailv1.Outcome_OUTCOME_FAILURE {
		t.Errorf("a batch whose items all failed: %v", got)
	}
	mixed := edit(t, sampleLines(t, "audit.ndjson", 110)[0], func(m map[string]any) {
		items := part(m, "response", "data")["batch_results"].([]any)
		items[1].(map[string]any)["key_version"] = 12
		items[2].(map[string]any)["key_version"] = 2
	})
	if got := one(t, byNamespace(), mixed).GetKey(); got.GetVersion() != "" || !slices.Equal(got.GetVersions(), []string{"1", "2", "12"}) {
		t.Errorf("versions of a batch with three: %q %q", got.GetVersion(), got.GetVersions())
	}
}

// TestKeyNames: the mount's type and point give the key, not the look of the path.
func TestKeyNames(t *testing.T) {
	for _, row := range []struct {
		name      string
		lines     [2]int
		key       string
		operation string
		source    string
	}{
		{"nested mount", [2]int{345, 346}, "globex/kms/pci/payments-pan", "key.rotate", "update transit/keys/:name/rotate"},
		{"nested namespace", [2]int{373, 374}, "acme/emea/transit/emea-vat", "key.generate", "update transit/keys/:name"},
		{"root namespace", [2]int{5, 6}, "transit/legacy-master", "use.encrypt", "update transit/encrypt/:name"},
		{"kv path that looks like transit", [2]int{377, 378}, "", "other", "create kv/:path"},
		{"key called rotate", [2]int{181, 182}, "acme/transit/rotate", "key.rotate", "update transit/keys/:name/rotate"},
		{"upper case", [2]int{201, 202}, "acme/transit/Export.v2", "meta.read", "read transit/keys/:name"},
		{"lower case is another", [2]int{203, 204}, "acme/transit/export.v2", "meta.read", "read transit/keys/:name"},
		{"denied read without mount_accessor", [2]int{355, 356}, "globex/kms/pci/payments-pan", "key.backup", "read transit/backup/:name"},
		{"hash in the path", [2]int{213, 214}, "acme/transit/invoice-signing", "use.sign", "update transit/sign/:name/:hash"},
		{"byok-export: the second name", [2]int{331, 332}, "acme/transit/ledger-dr", "key.export", "read transit/byok-export/:wrap/:name"},
		{"existing key named by the error", [2]int{289, 290}, "acme/transit/ledger", "key.restore", "update transit/restore"},
		{"restore without a name", [2]int{295, 296}, "", "key.restore", "update transit/restore"},
		{"mount setting", [2]int{277, 278}, "", "meta.update", "update transit/config/keys"},
		{"list", [2]int{183, 184}, "", "meta.list", "list transit/keys"},
		{"system of a namespace", [2]int{13, 14}, "", "store.mount", "update sys/mounts/:path"},
		{"auth method", [2]int{27, 28}, "", "access.user_create", "create auth/userpass/users/:name"},
	} {
		t.Run(row.name, func(t *testing.T) {
			ev := pair(t, row.lines[0], row.lines[1])
			got := []string{ev.GetKey().GetRef(), event.OperationName(ev.GetOperation()), ev.GetSourceOperation()}
			if diff := cmp.Diff([]string{row.key, row.operation, row.source}, got); diff != "" {
				t.Errorf("-want +got:\n%s", diff)
			}
		})
	}
	related := pair(t, 331, 332).GetRelatedKeys()
	if len(related) != 1 || related[0].GetRef() != "acme/transit/invoice-signing" {
		t.Errorf("byok-export: related %v", related)
	}
}

// TestRemount: the path changes, the accessor stays and joins the two.
func TestRemount(t *testing.T) {
	before, after := pair(t, 767, 768), pair(t, 773, 774)
	if before.GetKey().GetRef() != "globex/scratch/s1" || after.GetKey().GetRef() != "globex/moved/s1" {
		t.Errorf("refs %s, %s", before.GetKey().GetRef(), after.GetKey().GetRef())
	}
	if a := attribute(before, "mount_accessor"); a == "" || a != attribute(after, "mount_accessor") {
		t.Errorf("accessors %q, %q", a, attribute(after, "mount_accessor"))
	}
}

// TestContainers: keys die with their mount or namespace without a line; the event of
// the container has the beginning of their refs.
func TestContainers(t *testing.T) {
	for lines, want := range map[[2]int]string{{775, 776}: "globex/moved", {783, 784}: "initech"} {
		if got := attribute(pair(t, lines[0], lines[1]), "container"); got != want {
			t.Errorf("lines %v: container %q, want %q", lines, got, want)
		}
	}
}

func TestActors(t *testing.T) {
	for _, row := range []struct {
		name  string
		lines [2]int
		want  *keytrailv1.Actor
	}{
		{"userpass", [2]int{101, 102}, &keytrailv1.Actor{
			Id: "7b09d093-290b-8988-91c1-ede18dda58da.5GWRy5", Display: "kms-admin", AuthMethod: "userpass",
			Type: keytrailv1.Actor_TYPE_USER, Account: "acme",
		}},
		{"approle", [2]int{105, 106}, &keytrailv1.Actor{
			Id: "eba13b73-8ddb-a18b-8fb4-825d8762951d.5GWRy5", Display: "payments-service", AuthMethod: "approle",
			Type: keytrailv1.Actor_TYPE_WORKLOAD, Account: "acme",
		}},
		{"approle used in another tenant, denied", [2]int{353, 354}, &keytrailv1.Actor{
			Id: "eba13b73-8ddb-a18b-8fb4-825d8762951d.5GWRy5", Display: "payments-service", AuthMethod: "approle",
			Type: keytrailv1.Actor_TYPE_WORKLOAD, Account: "acme",
		}},
		{"userpass of the root namespace in another", [2]int{369, 370}, &keytrailv1.Actor{
			Id: "f8b18f27-b966-9eca-43f6-33c73a7fb2f2", Display: "platform-operator", AuthMethod: "userpass",
			Type: keytrailv1.Actor_TYPE_USER, Account: "root",
		}},
		{"root token", [2]int{373, 374}, &keytrailv1.Actor{Display: "root", AuthMethod: "token", Account: "root"}},
		{"token with a name", [2]int{397, 398}, &keytrailv1.Actor{Display: "token-nightly", AuthMethod: "token", Account: "acme"}},
		{"login", [2]int{83, 84}, &keytrailv1.Actor{
			Id: "7b09d093-290b-8988-91c1-ede18dda58da.5GWRy5", Display: "kms-admin", AuthMethod: "userpass",
			Type: keytrailv1.Actor_TYPE_USER, Account: "acme",
		}},
		{"failed login", [2]int{385, 386}, nil},
		{"expired token", [2]int{417, 418}, nil},
		{"wrapping token", [2]int{263, 264}, nil},
	} {
		t.Run(row.name, func(t *testing.T) {
			got := pair(t, row.lines[0], row.lines[1]).GetActor()
			if diff := cmp.Diff(protojson.Format(row.want), protojson.Format(got)); diff != "" {
				t.Errorf("-want +got:\n%s", diff)
			}
		})
	}
	if got := attribute(pair(t, 385, 386), "claimed_user"); got != "kms-admin" {
		t.Errorf("claimed user %q", got)
	}
	// The secret id's metadata are the client's own words.
	spoofed := edit(t, sampleLines(t, "audit.ndjson", 106)[0], func(m map[string]any) { part(m, "auth", "metadata")["username"] = "kms-admin" })
	if got := one(t, byNamespace(), spoofed).GetActor().GetDisplay(); got != "payments-service" {
		t.Errorf("spoofed name: %q", got)
	}
	// "a-b" and "a/b" look alike in a display name, so it tells neither.
	hyphen := edit(t, sampleLines(t, "audit.ndjson", 354)[0], func(m map[string]any) { part(m, "auth")["display_name"] = "a-b-auth-approle" })
	if got := one(t, byNamespace(), hyphen).GetActor().GetAccount(); got != "" {
		t.Errorf("ambiguous namespace: %q", got)
	}
}

// TestPrefixDevice: a prefix in front, accessors in clear, lists without their entries.
func TestPrefixDevice(t *testing.T) {
	log := sample(t, "audit-second-prefixed.log")
	c := readClean(t, byNamespace(), log)
	if len(c.items) < 17 {
		t.Errorf("%d events of 34 lines", len(c.items))
	}
	main := byID(readClean(t, byNamespace(), sample(t, "audit.ndjson")))
	for _, it := range c.items {
		if attribute(it.Event, "probe") != "" {
			continue
		}
		same := main[it.Event.GetEventId()]
		if diff := cmp.Diff(tell(same), tell(it.Event)); diff != "" {
			t.Errorf("line %d (-main device +this):\n%s", it.Line, diff)
		}
		if it.Event.GetActor() != nil && it.Event.GetActor().GetSession() == "" {
			t.Errorf("line %d: no session", it.Line)
		}
	}
	first, _, _ := strings.Cut(string(log), "\n")
	sum := sha256.Sum256([]byte(strings.TrimPrefix(first, "@cee: ")))
	if got := c.items[0].Event.GetRaw().GetSha256(); string(got) != string(sum[:]) {
		t.Error("the hash is not that of the JSON object alone")
	}
	braces := "{app} [x]: " + sampleLines(t, "audit.ndjson", 102)[0]
	if got := one(t, byNamespace(), braces).GetOperation(); got != keytrailv1.Operation_OPERATION_KEY_GENERATE {
		t.Errorf("prefix with braces: %v", got)
	}
}

// TestAutorotate: a rotation without a line is not made up; the versions seen tell.
func TestAutorotate(t *testing.T) {
	c := readClean(t, byNamespace(), sample(t, "autorotate-gap.ndjson"))
	var latest []string
	for _, it := range c.items {
		if it.Event.GetOperation() == keytrailv1.Operation_OPERATION_KEY_ROTATE {
			t.Errorf("line %d: rotation", it.Line)
		}
		if v := attribute(it.Event, "latest_version"); v != "" {
			latest = append(latest, v)
		}
	}
	if latest = slices.Compact(latest); !slices.Equal(latest, []string{"1", "2"}) {
		t.Errorf("latest versions %q", latest)
	}
}

// TestTime: fractions are cut of trailing zeros, so text order is not time order.
func TestTime(t *testing.T) {
	line := sampleLines(t, "audit.ndjson", 102)[0]
	for text, want := range map[string]time.Time{
		"2026-11-22T04:32:19Z":           time.Date(2026, 11, 22, 4, 32, 19, 0, time.UTC),
		"2026-11-22T04:32:19.1Z":         time.Date(2026, 11, 22, 4, 32, 19, 100_000_000, time.UTC),
		"2026-11-22T04:32:19.10350619Z":  time.Date(2026, 11, 22, 4, 32, 19, 103_506_190, time.UTC),
		"2026-11-22T04:32:19.657134613Z": time.Date(2026, 11, 22, 4, 32, 19, 657_134_613, time.UTC),
		"2026-11-22T05:32:19.5+01:00":    time.Date(2026, 11, 22, 4, 32, 19, 500_000_000, time.UTC),
	} {
		ev := one(t, byNamespace(), edit(t, line, func(m map[string]any) { m["time"] = text }))
		if got := ev.GetTime().AsTime(); !got.Equal(want) {
			t.Errorf("%s is %s", text, got)
		}
	}
}

// TestNothingHashed: no HMAC gets into an event, so a change of salt changes none, and
// two keys or actors never differ by a salt.
func TestNothingHashed(t *testing.T) {
	for _, name := range []string{"audit.ndjson", "audit-second-prefixed.log", "autorotate-gap.ndjson"} {
		for _, it := range readClean(t, byNamespace(), sample(t, name)).items {
			if s := protojson.Format(it.Event); strings.Contains(s, "hmac-sha256:") {
				t.Errorf("%s line %d: %s", name, it.Line, s)
			}
		}
	}
	before, after := pair(t, 217, 218), pair(t, 829, 830) // the salt changed at line 825
	if before.GetActor().GetId() != after.GetActor().GetId() || before.GetKey().GetRef() != after.GetKey().GetRef() {
		t.Errorf("before %v, after %v", before, after)
	}
}

// TestWrapping: the answer is not in the line of a wrapped call, and who unwraps it is
// not known.
func TestWrapping(t *testing.T) {
	wrapped, unwrap := pair(t, 261, 262), pair(t, 263, 264)
	if attribute(wrapped, "wrapped") != "true" || wrapped.GetKey().GetVersion() != "" {
		t.Errorf("wrapped: %v", wrapped)
	}
	if unwrap.GetOperation() != keytrailv1.Operation_OPERATION_ACCESS_UNWRAP || attribute(unwrap, "key_version") != "2" {
		t.Errorf("unwrap: %v", unwrap)
	}
}

// TestHeaders: headers are logged once they are registered.
func TestHeaders(t *testing.T) {
	ev := pair(t, 383, 384)
	if ev.GetCorrelationId() != "ticket-CHG0031337" || ev.GetUserAgent() != "payments/4.2" || ev.GetSourceIp() != "10.20.8.21" {
		t.Errorf("%q %q %q", ev.GetCorrelationId(), ev.GetUserAgent(), ev.GetSourceIp())
	}
	if ev := pair(t, 217, 218); ev.GetUserAgent() != "" || ev.GetCorrelationId() != "" {
		t.Errorf("before registration: %v", ev)
	}
	long := edit(t, sampleLines(t, "audit.ndjson", 384)[0], func(m map[string]any) {
		part(m, "request", "headers")["user-agent"] = []any{strings.Repeat("é", 2000) + "\r\n"}
	})
	if ua := one(t, byNamespace(), long).GetUserAgent(); len(ua) > 1024 || !strings.HasSuffix(ua, "é…") {
		t.Errorf("long user agent is %d bytes", len(ua))
	}
}

// TestClearFields: a mount may be tuned to show a key's type; elsewhere it is absent.
func TestClearFields(t *testing.T) {
	if got := pair(t, 333, 334).GetKey().GetAlgorithm(); got != "aes256-gcm96" {
		t.Errorf("tuned mount: algorithm %q", got)
	}
	if got := pair(t, 101, 102).GetKey().GetAlgorithm(); got != "" {
		t.Errorf("algorithm %q out of a hash", got)
	}
	if got := pair(t, 337, 338).GetKey().GetSize(); got != 256 {
		t.Errorf("size of a 32-byte key: %d bits", got)
	}
}

// TestTenants: fixed, or from the namespace; the root namespace has none of its own.
func TestTenants(t *testing.T) {
	lines := sampleLines(t, "audit.ndjson", 374)
	if got := one(t, openbao.Options{Tenant: "bank"}, lines...).GetTenant(); got != "bank" {
		t.Errorf("fixed tenant: %q", got)
	}
	if got := one(t, byNamespace(), lines...).GetTenant(); got != "acme/emea" {
		t.Errorf("tenant of a nested namespace: %q", got)
	}
	c := read(t, openbao.Options{TenantFromNamespace: true}, sample(t, "audit.ndjson"))
	if len(c.rejects) == 0 || !strings.Contains(c.rejects[0].Reason, "no tenant") {
		t.Errorf("root namespace without a tenant: %d rejects", len(c.rejects))
	}
	for _, it := range c.items {
		if strings.HasPrefix(it.Event.GetTenant(), "platform") || it.Event.GetTenant() == "" {
			t.Errorf("line %d: tenant %q", it.Line, it.Event.GetTenant())
		}
	}
}
