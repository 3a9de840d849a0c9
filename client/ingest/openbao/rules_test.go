package openbao_test

import (
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/keytrail/keytrail/proto/event"
	keytrailv1 "github.com/keytrail/keytrail/proto/keytrail/v1"
	"github.com/keytrail/keytrail/proto/lifecycle"
)

// TestCreationOfExisting: the answer to creating a key that exists is the key. Each row is
// a change to the answer of a true creation that proves it was none.
func TestCreationOfExisting(t *testing.T) {
	made := sampleLines(t, "audit.ndjson", 102)[0]
	ev := one(t, byNamespace(), made)
	if ev.GetNoEffect() || ev.GetKey().GetVersion() != "1" || ev.GetKey().GetOrigin() != keytrailv1.KeyOrigin_KEY_ORIGIN_GENERATED {
		t.Fatalf("a true creation: %v", ev)
	}
	answer := func(name string, v any) func(map[string]any) {
		return func(m map[string]any) { part(m, "response", "data")[name] = v }
	}
	for name, change := range map[string]func(m map[string]any){
		"further version":        answer("latest_version", 2),
		"trimmed":                answer("min_available_version", 1),
		"old version given up":   answer("min_decryption_version", 2),
		"deletion allowed":       answer("deletion_allowed", true),
		"soft-deleted":           answer("soft_deleted", true),
		"backed up":              answer("backup_info", map[string]any{"version": 1}),
		"imported":               answer("imported_key", true),
		"exportable, not asked":  answer("exportable", true),
		"derived, not asked":     answer("derived", true),
		"rotation, not asked":    answer("auto_rotate_period", 3600),
		"other type":             answer("type", "hmac-sha256:0000"),
		"created the day before": answer("keys", map[string]any{"1": 1795235539}),
		"created the day before, asymmetric": answer("keys", map[string]any{
			"1": map[string]any{"creation_time": "2026-11-21T04:32:19.5Z"},
		}),
		"the server says so": func(m map[string]any) { part(m, "response")["warnings"] = []any{`key payments-pan already existed`} },
	} {
		ev := one(t, byNamespace(), edit(t, made, change))
		if !ev.GetNoEffect() || ev.GetKey().GetVersion() != "" || ev.GetOutcome() != keytrailv1.Outcome_OUTCOME_SUCCESS {
			t.Errorf("%s: no_effect %v, version %q", name, ev.GetNoEffect(), ev.GetKey().GetVersion())
		}
	}
	for name, change := range map[string]func(m map[string]any){
		"exportable, asked": func(m map[string]any) {
			part(m, "request", "data")["exportable"] = true
			part(m, "response", "data")["exportable"] = true
		},
		"exportable, asked as a string": func(m map[string]any) {
			part(m, "request", "data")["exportable"] = "hmac-sha256:01"
			part(m, "response", "data")["exportable"] = true
		},
		"type hashed in one place only": answer("type", "aes256-gcm96"),
		"created in the same second":    answer("keys", map[string]any{"1": 1795321939}),
	} {
		if ev := one(t, byNamespace(), edit(t, made, change)); ev.GetNoEffect() {
			t.Errorf("%s: no proof, yet no_effect", name)
		}
	}
}

// TestConfig: what a change of settings does depends on which.
func TestConfig(t *testing.T) {
	type data = map[string]any
	line := sampleLines(t, "audit.ndjson", 138)[0]
	for _, row := range []struct {
		name      string
		asked     data
		answer    data
		operation string
		also      []string
		versions  []string
	}{
		{"minimum raised", data{"min_encryption_version": 3}, data{"min_encryption_version": 3, "min_decryption_version": 1, "min_available_version": 0}, "key.deactivate", nil, []string{"1", "2"}},
		{"above trimmed ones", data{"min_decryption_version": 4}, data{"min_encryption_version": 0, "min_decryption_version": 4, "min_available_version": 3}, "key.deactivate", nil, []string{"3"}},
		{"as a string", data{"min_encryption_version": "hmac-sha256:00"}, data{"min_encryption_version": 2, "min_decryption_version": 1, "min_available_version": 0}, "key.deactivate", nil, []string{"1"}},
		{"minimum given up", data{"min_encryption_version": 0}, data{"min_encryption_version": 0, "min_decryption_version": 1, "min_available_version": 0}, "meta.update", nil, nil},
		{"rotation", data{"auto_rotate_period": 3600}, data{"auto_rotate_period": 3600}, "key.rotation_config", nil, nil},
		{"both", data{"auto_rotate_period": 3600, "min_encryption_version": 2}, data{"min_encryption_version": 2, "min_decryption_version": 1, "min_available_version": 0}, "key.deactivate", []string{"key.rotation_config"}, []string{"1"}},
		{"neither", data{"deletion_allowed": true}, data{"deletion_allowed": true}, "meta.update", nil, nil},
		{"refused", data{"min_encryption_version": 9}, data{"error": "hmac-sha256:00"}, "key.deactivate", nil, nil},
	} {
		t.Run(row.name, func(t *testing.T) {
			ev := one(t, byNamespace(), edit(t, line, func(m map[string]any) {
				part(m, "request")["data"] = row.asked
				part(m, "response")["data"] = row.answer
			}))
			got := tell(ev)
			if got.Operation != row.operation || !slices.Equal(got.Versions, row.versions) || !slices.Equal(alsoNames(ev), row.also) {
				t.Errorf("%s, also %v, versions %v", got.Operation, alsoNames(ev), got.Versions)
			}
		})
	}
	// More versions than an event may name: the newest, and it says so.
	many := one(t, byNamespace(), edit(t, line, func(m map[string]any) {
		part(m, "response", "data")["min_encryption_version"] = 1 << 40
	}))
	if v := many.GetKey().GetVersions(); len(v) != 64 || v[63] != "1099511627775" || attribute(many, "versions_cut") != "true" {
		t.Errorf("%d versions", len(v))
	}
}

// TestVersionsNotTold: the latest version in an answer is not the version acted on, and a
// version asked for is not one that was used.
func TestVersionsNotTold(t *testing.T) {
	for line, asked := range map[int]string{104: "", 130: "", 144: "", 228: "9"} {
		ev := one(t, byNamespace(), sampleLines(t, "audit.ndjson", line)...)
		if ev.GetKey().GetVersion() != "" || ev.GetKey().GetVersions() != nil || attribute(ev, "request_key_version") != asked {
			t.Errorf("line %d: %v", line, ev)
		}
	}
}

// TestDialects: older OpenBao and HashiCorp Vault leave out what newer servers write, and
// name some things otherwise.
func TestDialects(t *testing.T) {
	for _, row := range []struct {
		name, line string
		want       told
		source     string
	}{
		{
			"no mount_point",
			`{"time":"2023-01-02T03:04:05Z","type":"response","auth":{"display_name":"root","policies":["root"]},"request":{"id":"1","operation":"update","mount_type":"transit","namespace":{"id":"root"},"path":"kms/pci/encrypt/pan","data":{"plaintext":"hmac-sha256:00"}},"response":{"mount_type":"transit","data":{"ciphertext":"hmac-sha256:01","key_version":3}}}`,
			told{Operation: "use.encrypt", Key: "kms/pci/pan", Actor: "root", Outcome: "success", Tenant: "platform", Versions: []string{"3"}},
			"update transit/encrypt/:name",
		},
		{
			"no mount_point, mount called keys",
			`{"time":"2023-01-02T03:04:05Z","type":"response","auth":{},"request":{"id":"1","operation":"update","mount_type":"transit","path":"keys/keys/pan/rotate"},"response":{"data":{"latest_version":2}}}`,
			told{Operation: "key.rotate", Key: "keys/pan", Outcome: "success", Tenant: "platform", Versions: []string{"2"}},
			"update transit/keys/:name/rotate",
		},
		{
			"no namespace, mount_class or auth",
			`{"time":"2023-01-02T03:04:05Z","type":"response","request":{"id":"1","operation":"read","mount_type":"transit","mount_point":"transit/","path":"transit/keys/pan"},"response":{"data":{"latest_version":2}}}`,
			told{Operation: "meta.read", Key: "transit/pan", Outcome: "success", Tenant: "platform"},
			"read transit/keys/:name",
		},
		{
			"no mount_type: only reserved paths are known",
			`{"time":"2023-01-02T03:04:05Z","type":"response","auth":{"display_name":"root","policies":["root"]},"request":{"id":"1","operation":"update","path":"transit/keys/pan"},"response":{}}`,
			told{Operation: "other", Actor: "root", Outcome: "success", Tenant: "platform"},
			"update :mount/:path",
		},
		{
			"no mount_type, policy",
			`{"time":"2023-01-02T03:04:05Z","type":"response","auth":{"display_name":"root","policies":["root"]},"request":{"id":"1","operation":"update","namespace":{"id":"x1","path":"team/"},"path":"sys/policies/acl/p"},"response":{}}`,
			told{Operation: "access.policy_change", Actor: "root", Outcome: "success", Tenant: "team"},
			"update sys/policies/:path",
		},
		{
			"no mount_type, login",
			`{"time":"2023-01-02T03:04:05Z","type":"response","auth":{"display_name":"github-ann","metadata":{"username":"ann"}},"request":{"id":"1","operation":"update","path":"auth/github/login"},"response":{"auth":{"display_name":"github-ann"}}}`,
			told{Operation: "access.login", Actor: "ann", Outcome: "success", Tenant: "platform"},
			"update auth/:mount/login",
		},
		{
			"mount_point without the namespace",
			`{"time":"2023-01-02T03:04:05Z","type":"response","auth":{},"request":{"id":"1","operation":"delete","mount_type":"transit","mount_point":"transit/","namespace":{"id":"x1","path":"team/"},"path":"transit/keys/pan"},"response":{"mount_running_version":"v1.15.0+builtin.vault"}}`,
			told{Operation: "key.destroy", Key: "team/transit/pan", Outcome: "success", Tenant: "team"},
			"delete transit/keys/:name",
		},
		{
			"namespace and mount of one name",
			`{"time":"2023-01-02T03:04:05Z","type":"response","auth":{},"request":{"id":"1","operation":"delete","mount_type":"transit","mount_point":"transit/transit/","namespace":{"id":"x1","path":"transit/"},"path":"transit/keys/pan"},"response":{}}`,
			told{Operation: "key.destroy", Key: "transit/transit/pan", Outcome: "success", Tenant: "transit"},
			"delete transit/keys/:name",
		},
		{
			"path with the namespace",
			`{"time":"2023-01-02T03:04:05Z","type":"response","auth":{},"request":{"id":"1","operation":"delete","mount_type":"transit","mount_point":"team/transit/","namespace":{"id":"x1","path":"team/"},"path":"team/transit/keys/pan"},"response":{}}`,
			told{Operation: "key.destroy", Key: "team/transit/pan", Outcome: "success", Tenant: "team"},
			"delete transit/keys/:name",
		},
		{
			"unseal share by generate-root, complete",
			`{"time":"2023-01-02T03:04:05Z","type":"response","auth":{},"request":{"id":"1","operation":"update","mount_type":"system","mount_point":"sys/","path":"sys/generate-root/update"},"response":{"data":{"complete":true}}}`,
			told{Operation: "access.credential_create", Outcome: "success", Tenant: "platform"},
			"update sys/generate-root/update",
		},
		{
			"raft snapshot",
			`{"time":"2023-01-02T03:04:05Z","type":"response","auth":{},"request":{"id":"1","operation":"read","mount_type":"system","mount_point":"sys/","path":"sys/storage/raft/snapshot"},"response":{}}`,
			told{Operation: "store.backup", Outcome: "success", Tenant: "platform"},
			"read sys/storage/raft/snapshot",
		},
		{
			"list elided by the device",
			`{"time":"2023-01-02T03:04:05Z","type":"response","auth":{},"request":{"id":"1","operation":"list","mount_type":"transit","mount_point":"transit/","path":"transit/keys/"},"response":{"data":{"keys":12}}}`,
			told{Operation: "meta.list", Outcome: "success", Tenant: "platform"},
			"list transit/keys",
		},
		{
			"export with a version, refused",
			`{"time":"2023-01-02T03:04:05Z","type":"response","auth":{},"request":{"id":"1","operation":"read","mount_type":"transit","mount_point":"transit/","path":"transit/export/signing-key/pan/3"},"response":{"data":{"error":"hmac-sha256:00"}}}`,
			told{Operation: "key.export", Key: "transit/pan", Outcome: "failure", Tenant: "platform", Versions: []string{"3"}},
			"read transit/export/:type/:name/:version",
		},
		{
			"key of the OIDC provider",
			`{"time":"2023-01-02T03:04:05Z","type":"response","auth":{},"request":{"id":"1","operation":"create","mount_type":"identity","mount_point":"identity/","path":"identity/oidc/key/web"},"response":{}}`,
			told{Operation: "key.generate", Key: "identity/oidc/key/web", Outcome: "success", Tenant: "platform"},
			"create identity/oidc/key/:name",
		},
	} {
		t.Run(row.name, func(t *testing.T) {
			ev := one(t, byNamespace(), row.line)
			if diff := cmp.Diff(row.want, tell(ev)); diff != "" {
				t.Errorf("-want +got:\n%s", diff)
			}
			if got := ev.GetSourceOperation(); got != row.source {
				t.Errorf("source operation %q, want %q", got, row.source)
			}
		})
	}
}

// TestEveryOperationIsNamed: no call of the sample run is without the server's own name
// for it, and none of those names holds one of the operator's.
func TestEveryOperationIsNamed(t *testing.T) {
	for _, it := range readClean(t, byNamespace(), sample(t, "audit.ndjson")).items {
		name := it.Event.GetSourceOperation()
		operation, path, ok := strings.Cut(name, " ")
		if !ok || path == "" || !slices.Contains([]string{"create", "read", "update", "delete", "list"}, operation) {
			t.Errorf("line %d (%s): %q", it.Line, event.OperationName(it.Event.GetOperation()), name)
		}
		for _, word := range []string{"payments", "ledger", "acme", "globex", "kms-admin", "scratch", "initech", "vaulted"} {
			if strings.Contains(name, word) {
				t.Errorf("line %d: %q", it.Line, name)
			}
		}
	}
}

// TestFindings: the events of the sample run add up to the lives that its keys had. What
// is odd in them is what the log really holds: a key born before the log, one that came
// back by a restore without its name, and one whose mount was moved.
func TestFindings(t *testing.T) {
	folds := make(map[string]*lifecycle.Fold)
	var got []string
	for _, it := range readClean(t, byNamespace(), sample(t, "audit.ndjson")).items {
		ref := it.Event.GetKey().GetRef()
		if folds[ref] == nil {
			folds[ref] = new(lifecycle.Fold)
		}
		for _, f := range folds[ref].Apply(it.Event) {
			if odd := ref + " " + f.GetKind().String(); !slices.Contains(got, odd) {
				got = append(got, odd)
			}
		}
	}
	want := []string{
		"transit/legacy-master KIND_NO_BIRTH",
		"acme/transit/ledger KIND_USE_AFTER_DESTROY",
		"globex/moved/s1 KIND_NO_BIRTH",
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("-want +got:\n%s", diff)
	}
	versions := folds["acme/transit/payments-pan"].State().GetVersions()
	if len(versions) != 3 || versions[0].GetState() != keytrailv1.KeyState_KEY_STATE_DESTROYED {
		t.Errorf("payments-pan: %v", versions)
	}
}
