package cloudtrail_test

import (
	"bytes"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"

	"google.golang.org/protobuf/reflect/protoreflect"

	"github.com/keytrail/keytrail/client/ingest/cloudtrail"
	keytrailv1 "github.com/keytrail/keytrail/proto/keytrail/v1"
)

// one translates one record.
func one(t testing.TB, opt cloudtrail.Options, record string) *keytrailv1.KeyEvent {
	t.Helper()
	s := read(t, opt, []byte(record))
	if len(s.items) != 1 {
		t.Fatalf("got %d events, rejects %v, skips %v; want 1 event", len(s.items), s.rejects, s.skips)
	}
	return s.items[0].Event
}

// base is a record to which a test adds members; "%s" takes them.
const base = `{"eventVersion":"1.11","eventID":"e-1","eventTime":"2026-05-01T10:00:00Z",` +
	`"eventSource":"kms.amazonaws.com","awsRegion":"eu-central-1","recipientAccountId":"000100020003",` +
	`"userIdentity":{"type":"IAMUser","arn":"arn:aws:iam::000100020003:user/maren","accountId":"000100020003"}%s}`

func record(members string) string { return fmt.Sprintf(base, ","+members) }

const ref = "arn:aws:kms:eu-central-1:000100020003:key/0f0e0d0c-0001-4002-8003-000000000001"

func TestKeyOfRecord(t *testing.T) {
	const id = "0f0e0d0c-0001-4002-8003-000000000001"
	const other = "arn:aws:kms:eu-central-1:000700080009:key/0f0e0d0c-0001-4002-8003-000000000002"
	for _, c := range []struct{ name, members, want, alias string }{
		{"resources only", `"eventName":"Decrypt","requestParameters":{},"resources":[{"ARN":"` + ref + `"}]`, ref, ""},
		{"alias resource first", `"eventName":"UpdateAlias","requestParameters":{"aliasName":"alias/a"},"resources":[{"ARN":"arn:aws:kms:eu-central-1:000100020003:alias/a","type":"AWS::KMS::Key"},{"ARN":"` + ref + `","type":"AWS::KMS::Key"}]`, ref, "alias/a"},
		{"bare id", `"eventName":"Encrypt","requestParameters":{"keyId":"` + id + `"}`, ref, ""},
		{"ARN of another account", `"eventName":"Encrypt","requestParameters":{"keyId":"` + other + `"},"errorCode":"AccessDenied"`, other, ""},
		{"bare alias", `"eventName":"Encrypt","requestParameters":{"keyId":"alias/a"},"errorCode":"NotFoundException"`, "arn:aws:kms:eu-central-1:000100020003:alias/a", "alias/a"},
		{"response", `"eventName":"CreateKey","requestParameters":null,"responseElements":{"keyMetadata":{"arn":"` + ref + `"}}`, ref, ""},
		{"service event details", `"eventName":"RotateKey","serviceEventDetails":{"keyId":"` + ref + `"}`, ref, ""},
		{"resources null", `"eventName":"ListKeys","resources":null`, "", ""},
		{"parameters a string", `"eventName":"Encrypt","requestParameters":"keyId"`, "", ""},
		{"another account's record", `"eventName":"Encrypt","requestParameters":{"keyId":"` + id + `"},"userIdentity":{"type":"AWSAccount","accountId":"000700080009"}`, id, ""},
		{"id without end", `"eventName":"Encrypt","requestParameters":{"keyId":"` + strings.Repeat("x", 2000) + `"}`, "", ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			r := record(c.members)
			if strings.Count(r, `"userIdentity"`) == 2 {
				r = strings.Replace(r, `"userIdentity":{"type":"IAMUser","arn":"arn:aws:iam::000100020003:user/maren","accountId":"000100020003"},`, "", 1)
			}
			k := one(t, tenant, r).GetKey()
			if k.GetRef() != c.want || k.GetAlias() != c.alias {
				t.Errorf("got key %q, alias %q; want %q, %q", k.GetRef(), k.GetAlias(), c.want, c.alias)
			}
		})
	}
}

func TestReEncrypt(t *testing.T) {
	const a, b = ref, "arn:aws:kms:eu-central-1:000100020003:key/0f0e0d0c-0001-4002-8003-000000000002"
	both := `"resources":[{"ARN":"` + a + `"},{"ARN":"` + b + `"}]`
	for _, c := range []struct{ name, request, resources, source, key string }{
		{"by order", `{"destinationKeyId":"alias/x"}`, both, a, b},
		{"by destination", `{"destinationKeyId":"` + a + `"}`, both, b, a},
		{"by source", `{"sourceKeyId":"` + b + `","destinationKeyId":"alias/x"}`, both, b, a},
		{"one key twice", `{"destinationKeyId":"` + a + `"}`, `"resources":[{"ARN":"` + a + `"},{"ARN":"` + a + `"}]`, a, a},
		{"record of the source's owner", `{"sourceKeyId":"` + a + `","destinationKeyId":"` + b + `"}`, `"resources":[{"ARN":"` + a + `"}]`, a, b},
		{"destination only", `{"destinationKeyId":"` + b + `"}`, `"resources":[{"ARN":"` + b + `"}]`, "", b},
		{"denied", `{"destinationKeyId":"` + b + `"}`, `"errorCode":"AccessDenied"`, "", b},
	} {
		t.Run(c.name, func(t *testing.T) {
			ev := one(t, tenant, record(`"eventName":"ReEncrypt","requestParameters":`+c.request+`,`+c.resources))
			source := ""
			for _, k := range ev.GetRelatedKeys() {
				if k.GetRole() != keytrailv1.RelatedKey_ROLE_SOURCE {
					t.Errorf("related key %v", k)
				}
				source = k.GetRef()
			}
			if source != c.source || ev.GetKey().GetRef() != c.key {
				t.Errorf("got %q to %q, want %q to %q", source, ev.GetKey().GetRef(), c.source, c.key)
			}
		})
	}
}

func TestOutcome(t *testing.T) {
	for code, want := range map[string]keytrailv1.Outcome{
		"":                            keytrailv1.Outcome_OUTCOME_SUCCESS,
		"AccessDenied":                keytrailv1.Outcome_OUTCOME_DENIED,
		"AccessDeniedException":       keytrailv1.Outcome_OUTCOME_DENIED,
		"VpceAccessDenied":            keytrailv1.Outcome_OUTCOME_DENIED,
		"UnauthorizedOperation":       keytrailv1.Outcome_OUTCOME_DENIED,
		"Client.UnauthorizedAccess":   keytrailv1.Outcome_OUTCOME_DENIED,
		"NotAuthorizedException":      keytrailv1.Outcome_OUTCOME_DENIED,
		"UnrecognizedClientException": keytrailv1.Outcome_OUTCOME_DENIED,
		"InvalidClientTokenId":        keytrailv1.Outcome_OUTCOME_DENIED,
		"KMSInvalidStateException":    keytrailv1.Outcome_OUTCOME_FAILURE,
		"InvalidGrantTokenException":  keytrailv1.Outcome_OUTCOME_FAILURE,
		"NotFoundException":           keytrailv1.Outcome_OUTCOME_FAILURE,
		"ThrottlingException":         keytrailv1.Outcome_OUTCOME_FAILURE,
		"DryRunOperationException":    keytrailv1.Outcome_OUTCOME_FAILURE,
	} {
		ev := one(t, tenant, record(`"eventName":"Decrypt","readOnly":true,"errorCode":"`+code+`"`))
		if ev.GetOutcome() != want || ev.GetError().GetCode() != code {
			t.Errorf("%q: got %v, error %v; want %v", code, ev.GetOutcome(), ev.GetError(), want)
		}
	}
}

func TestDates(t *testing.T) {
	for _, c := range []struct{ date, want string }{
		{`"Apr 12, 2021 18:58:30 PM"`, "2021-04-12T18:58:30Z"},
		{`"Nov 2, 2021, 11:25:25 PM"`, "2021-11-02T23:25:25Z"},
		{`"Nov 2, 2021, 12:00:00 AM"`, "2021-11-02T00:00:00Z"},
		{`"Jan 1, 2021 8:00:00 PM"`, "2021-01-01T20:00:00Z"},
		{"\"Mar 9, 2026, 7:05:00\u202fPM\"", "2026-03-09T19:05:00Z"},
		{`"2026-03-09T19:05:00Z"`, "2026-03-09T19:05:00Z"},
		{`"2026-03-09T19:05:00.250+01:00"`, "2026-03-09T18:05:00.25Z"},
		{`1773083100.5`, "2026-03-09T19:05:00.5Z"},
		{`1773083100`, "2026-03-09T19:05:00Z"},
		{`"in a while"`, ""},
		{`"Apr 12, 2021 06:58:30 18 PM"`, ""},
		{`1e300`, ""},
		{`null`, ""},
		{`{}`, ""},
	} {
		ev := one(t, tenant, record(`"eventName":"ScheduleKeyDeletion","requestParameters":{"keyId":"`+ref+`","pendingWindowInDays":7},"responseElements":{"deletionDate":`+c.date+`}`))
		got := ""
		if ts := ev.GetKey().GetDestroyTime(); ts != nil {
			got = ts.AsTime().Format("2006-01-02T15:04:05.999Z07:00")
		}
		if got != c.want {
			t.Errorf("%s: got %q, want %q", c.date, got, c.want)
		}
	}
}

// What a caller may choose must not keep the call out of the log.
func TestCallersCannotHide(t *testing.T) {
	long := strings.Repeat("ü", 2000)
	ev := one(t, tenant, record(`"eventName":"Decrypt","userAgent":"a\u0000b\u202e`+long+`","errorMessage":"`+long+`","errorCode":"X",`+
		`"requestParameters":{"encryptionContext":{"`+long+`":"1","k":"`+long+`","c\u0007":"2","n":"a\nb","":"3"}},"sourceIPAddress":"`+long+`","requestID":"a\u0001"`))
	if got := ev.GetUserAgent(); !strings.HasPrefix(got, "a\ufffdb\ufffdüü") || len(got) > 1024 {
		t.Errorf("user agent %q", got)
	}
	hashed := 0
	for _, c := range ev.GetContext() {
		if c.GetSha256() != nil {
			hashed++
		}
	}
	if len(ev.GetContext()) != 5 || hashed != 2 {
		t.Errorf("context %v, want 5 pairs, 2 of them with hashed values", ev.GetContext())
	}
}

func TestManyContextPairs(t *testing.T) {
	var pairs []string
	for i := range 100 {
		pairs = append(pairs, fmt.Sprintf(`"k%03d":"%d"`, i, i))
	}
	ev := one(t, tenant, record(`"eventName":"Decrypt","requestParameters":{"encryptionContext":{`+strings.Join(pairs, ",")+`}}`))
	attrs := attributes(ev)
	if len(ev.GetContext()) != 64 || attrs["encryptionContext.omitted"] != "36" {
		t.Errorf("got %d pairs, omitted %q; want 64 and 36", len(ev.GetContext()), attrs["encryptionContext.omitted"])
	}
}

func attributes(ev *keytrailv1.KeyEvent) map[string]string {
	m := make(map[string]string)
	for _, a := range ev.GetAttributes() {
		m[a.GetName()] = a.GetValue()
	}
	return m
}

func TestHashContext(t *testing.T) {
	opt := cloudtrail.Options{Tenant: "t1", HashContext: true}
	for _, it := range read(t, opt, testdata(t, "events.ndjson")).items {
		for _, c := range it.Event.GetContext() {
			if c.GetValue() != "" || len(c.GetSha256()) != 32 {
				t.Errorf("line %d: context %v in clear", it.Line, c)
			}
		}
		for name := range attributes(it.Event) {
			if strings.Contains(name, "constraints") {
				t.Errorf("line %d: attribute %s in clear", it.Line, name)
			}
		}
	}
}

func TestSecretsStayOut(t *testing.T) {
	const secret = "c2VjcmV0IG1hdGVyaWFs"
	opt := cloudtrail.Options{Tenant: "t1", KeepRaw: true}
	for _, name := range []string{"plaintext", "Plaintext", "ciphertextBlob", "importToken", "encryptedKeyMaterial", "keyStorePassword", "grantTokens", "sharedSecret"} {
		ev := one(t, opt, record(`"eventName":"Encrypt","requestParameters":{"`+name+`":"`+secret+`"}`))
		if ev.GetRaw().GetContent() != nil || strings.Contains(ev.String(), secret) {
			t.Errorf("%s came into the event: %v", name, ev)
		}
	}
	ev := one(t, opt, record(`"eventName":"ConnectCustomKeyStore","requestParameters":{"keyStorePassword":"***"}`))
	if ev.GetRaw().GetContent() == nil {
		t.Error("a masked password kept the record out")
	}
}

func TestKeepRaw(t *testing.T) {
	data := testdata(t, "events.ndjson")
	s := read(t, cloudtrail.Options{Tenant: "t1", KeepRaw: true}, data)
	lines := bytes.Split(data, []byte("\n"))
	for _, it := range s.items {
		if !bytes.Equal(it.Event.GetRaw().GetContent(), lines[it.Line-1]) {
			t.Errorf("line %d: the content is not the record as delivered", it.Line)
		}
	}
	big := record(`"eventName":"Encrypt","note":"` + strings.Repeat("x", 40<<10) + `"`)
	if ev := one(t, cloudtrail.Options{Tenant: "t1", KeepRaw: true}, big); ev.GetRaw().GetContent() != nil {
		t.Error("content larger than an event was kept")
	}
}

func TestTenantFromAccount(t *testing.T) {
	opt := cloudtrail.Options{TenantFromAccount: true}
	if got := one(t, opt, record(`"eventName":"Encrypt"`)).GetTenant(); got != "000100020003" {
		t.Errorf("tenant %q", got)
	}
	s := read(t, opt, []byte(strings.Replace(record(`"eventName":"Encrypt"`), `"recipientAccountId":"000100020003",`, "", 1)))
	if len(s.rejects) != 1 {
		t.Errorf("got %d rejects, want 1 for a record without an account", len(s.rejects))
	}
	for _, bad := range []cloudtrail.Options{{}, {Tenant: "t", TenantFromAccount: true}, {Tenant: "a\nb"}, {Tenant: strings.Repeat("x", 129)}} {
		if _, err := cloudtrail.New(bad); err == nil {
			t.Errorf("options %+v were taken", bad)
		}
	}
}

// Every string of an event stands in its record, save a fixed vocabulary.
func TestNothingInvented(t *testing.T) {
	files := map[string][]byte{"events.ndjson": testdata(t, "events.ndjson")}
	for _, name := range []string{"vendor-examples.ndjson", "attack-run-kms-events.ndjson"} {
		t.Run(name, func(t *testing.T) { files[name] = sample(t, name) })
	}
	for name, data := range files {
		lines := bytes.Split(data, []byte("\n"))
		for _, it := range read(t, tenant, data).items {
			var rec map[string]any
			if err := json.Unmarshal(lines[it.Line-1], &rec); err != nil {
				t.Fatal(err)
			}
			told := make(map[string]bool)
			collect(rec, told)
			for path, s := range eventStrings("", it.Event.ProtoReflect()) {
				if !told[s] && !derived(path, s, told, data) {
					t.Errorf("%s line %d: %s is %q, which the record does not say", name, it.Line, path, s)
				}
			}
		}
	}
}

// collect takes the scalars of a record, as strings, and lists of them joined.
func collect(v any, into map[string]bool) {
	switch v := v.(type) {
	case map[string]any:
		for k, e := range v {
			into[k] = true
			collect(e, into)
		}
	case []any:
		var joined []string
		for _, e := range v {
			collect(e, into)
			joined = append(joined, fmt.Sprint(e))
		}
		into[strings.Join(joined, ",")] = true
	default:
		into[fmt.Sprint(v)] = true
	}
}

// derived says which strings may be put together or fixed.
func derived(path, s string, told map[string]bool, file []byte) bool {
	part := func(keep func(string) bool) bool { return slices.ContainsFunc(slices.Collect(maps.Keys(told)), keep) }
	switch path {
	case ".tenant", ".source.adapter", ".raw.media_type":
		return true
	case ".source.system":
		return s == "aws.kms" || s == "aws.cloudhsm" || s == "aws.cloudtrail"
	case ".caused_by.rule":
		return told["AUTOMATIC"]
	case ".caused_by.event_id":
		return bytes.Contains(file, []byte(s))
	case ".actor.session":
		return part(func(p string) bool { return strings.HasSuffix(p, ":"+s) })
	case ".context.name":
		name, ok := strings.CutPrefix(s, "sourceEncryptionContext.")
		return ok && told[name]
	case ".key.ref", ".related_keys.ref":
		// A bare name, completed with region and account.
		return part(func(p string) bool {
			return len(p) > 8 && (strings.HasSuffix(s, "key/"+p) || strings.HasPrefix(p, "alias/") && strings.HasSuffix(s, p))
		})
	case ".attributes.name":
		// A path of names; numbers count elements of lists.
		for _, name := range strings.FieldsFunc(s, func(r rune) bool { return r == '.' }) {
			if !told[name] && strings.Trim(name, "0123456789") != "" {
				return false
			}
		}
		return true
	case ".attributes.value":
		return part(func(p string) bool {
			var compact bytes.Buffer
			return json.Compact(&compact, []byte(p)) == nil && compact.String() == s
		})
	}
	return false
}

// eventStrings yields the path and value of every string field that is set.
func eventStrings(path string, m protoreflect.Message) func(yield func(string, string) bool) {
	return func(yield func(string, string) bool) {
		m.Range(func(fd protoreflect.FieldDescriptor, v protoreflect.Value) bool {
			here := path + "." + string(fd.Name())
			each := func(v protoreflect.Value) bool {
				switch fd.Kind() {
				case protoreflect.StringKind:
					return yield(here, v.String())
				case protoreflect.MessageKind:
					for p, s := range eventStrings(here, v.Message()) {
						if !yield(p, s) {
							return false
						}
					}
				}
				return true
			}
			if fd.IsList() {
				for i := range v.List().Len() {
					if !each(v.List().Get(i)) {
						return false
					}
				}
				return true
			}
			return each(v)
		})
	}
}

func TestDeterministic(t *testing.T) {
	data := testdata(t, "events.ndjson")
	first := lines(t, read(t, tenant, data).items)
	for range 5 {
		if !bytes.Equal(first, lines(t, read(t, tenant, data).items)) {
			t.Fatal("the same records gave other events")
		}
	}
}
