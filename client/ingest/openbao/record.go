package openbao

import (
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"
)

// record is one line of the log, as far as it is used. The names are those of the
// server's audit format (openbao/openbao internal/audit/format.go). mount_accessor,
// mount_point and namespace.path may be absent, and older servers lack more.
type record struct {
	Time     string        `json:"time"`
	Type     string        `json:"type"`
	Error    string        `json:"error"`
	Auth     authPart      `json:"auth"`
	Request  requestPart   `json:"request"`
	Response *responsePart `json:"response"`

	at   time.Time
	raw  []byte
	file string
	line int
}

type authPart struct {
	ClientToken   string            `json:"client_token"`
	Accessor      string            `json:"accessor"`
	DisplayName   string            `json:"display_name"`
	Policies      []string          `json:"policies"`
	PolicyResults *policyResults    `json:"policy_results"`
	Metadata      map[string]string `json:"metadata"`
	EntityID      string            `json:"entity_id"`
	RemainingUses int64             `json:"remaining_uses"`
	NumUses       int64             `json:"num_uses"`
	TokenType     string            `json:"token_type"`
	TokenTTL      int64             `json:"token_ttl"`
}

type policyResults struct {
	Allowed          *bool        `json:"allowed"`
	GrantingPolicies []policyPart `json:"granting_policies"`
}

type policyPart struct {
	Name          string `json:"name"`
	NamespaceID   string `json:"namespace_id"`
	NamespacePath string `json:"namespace_path"`
}

type requestPart struct {
	ID            string              `json:"id"`
	Operation     string              `json:"operation"`
	MountPoint    string              `json:"mount_point"`
	MountType     string              `json:"mount_type"`
	MountAccessor string              `json:"mount_accessor"`
	MountClass    string              `json:"mount_class"`
	ClientToken   string              `json:"client_token"`
	Namespace     namespacePart       `json:"namespace"`
	Path          string              `json:"path"`
	Data          fields              `json:"data"`
	RemoteAddress string              `json:"remote_address"`
	Headers       map[string][]string `json:"headers"`
	CertSerial    string              `json:"client_certificate_serial_number"`
}

type namespacePart struct {
	ID   string `json:"id"`
	Path string `json:"path"`
}

type responsePart struct {
	Auth          *authPart `json:"auth"`
	MountPoint    string    `json:"mount_point"`
	MountType     string    `json:"mount_type"`
	MountAccessor string    `json:"mount_accessor"`
	MountClass    string    `json:"mount_class"`
	Data          fields    `json:"data"`
	Warnings      []string  `json:"warnings"`
	WrapInfo      *wrapPart `json:"wrap_info"`
}

type wrapPart struct {
	Token string `json:"token"`
	TTL   int64  `json:"ttl"`
}

// parseRecord reads a line's JSON object and checks what every translation needs.
func parseRecord(data []byte) (*record, error) {
	rec := new(record)
	if err := json.Unmarshal(data, rec); err != nil {
		return nil, fmt.Errorf("not an audit record: %w", err)
	}
	switch rec.Type {
	case "request", "response":
	case "":
		return nil, errors.New("not an audit record: no type")
	default:
		return nil, fmt.Errorf("type %q is not read: only request and response are", rec.Type)
	}
	if rec.Request.ID == "" {
		return nil, errors.New("no request.id: the call cannot be told from others")
	}
	// Fractions of a second are cut of their trailing zeros, so times compare only parsed.
	at, err := time.Parse(time.RFC3339Nano, rec.Time)
	if err != nil {
		return nil, errors.New("time is not in RFC 3339")
	}
	rec.at = at.UTC()
	if rec.response() && rec.Response == nil {
		rec.Response = new(responsePart)
	}
	return rec, nil
}

func (r *record) response() bool { return r.Type == "response" }

// responseData is the response's data, empty on a request line.
func (r *record) responseData() fields {
	if r.Response == nil {
		return nil
	}
	return r.Response.Data
}

// mount returns type, class and accessor of the mount. A response may name them where
// its request does not.
func (r *record) mount() (kind, class, accessor string) {
	kind, class, accessor = r.Request.MountType, r.Request.MountClass, r.Request.MountAccessor
	if resp := r.Response; resp != nil {
		kind, class, accessor = or(kind, resp.MountType), or(class, resp.MountClass), or(accessor, resp.MountAccessor)
	}
	return kind, class, accessor
}

// unhashed says that the line holds tokens or other secrets in clear: the device has
// log_raw, or a mount was tuned to show them.
func (r *record) unhashed() bool {
	tokens := []string{r.Auth.ClientToken, r.Request.ClientToken}
	if resp := r.Response; resp != nil {
		if resp.Auth != nil {
			tokens = append(tokens, resp.Auth.ClientToken)
		}
		if resp.WrapInfo != nil {
			tokens = append(tokens, resp.WrapInfo.Token)
		}
	}
	if slices.ContainsFunc(tokens, func(t string) bool { return t != "" && !hashed(t) }) {
		return true
	}
	return r.Request.Data.secretInClear() || r.responseData().secretInClear()
}

// fields is an object of the log whose names depend on the call. Strings in it are
// mostly HMACs; numbers and booleans are in clear, unless the caller sent them as strings.
type fields map[string]json.RawMessage

// text is a string in clear, or "".
func (f fields) text(name string) string {
	s, ok := f.string(name)
	if !ok || hashed(s) {
		return ""
	}
	return s
}

// string is a string as it stands, hashed or not.
func (f fields) string(name string) (string, bool) {
	raw := f[name]
	if len(raw) == 0 || raw[0] != '"' {
		return "", false
	}
	var s string
	if json.Unmarshal(raw, &s) != nil {
		return "", false
	}
	return s, true
}

// int is a whole number of at least zero.
func (f fields) int(name string) (int64, bool) {
	n, err := strconv.ParseInt(string(f[name]), 10, 64)
	return n, err == nil && n >= 0
}

func (f fields) isTrue(name string) bool { return string(f[name]) == "true" }

func (f fields) has(name string) bool {
	raw, ok := f[name]
	return ok && string(raw) != "null"
}

// objects is a list of objects; ok is false when it is anything else.
func (f fields) objects(name string) (list []fields, ok bool) {
	raw := f[name]
	if len(raw) == 0 || raw[0] != '[' || json.Unmarshal(raw, &list) != nil {
		return nil, false
	}
	return list, true
}

// object is an object, or nil.
func (f fields) object(name string) fields {
	raw := f[name]
	if len(raw) == 0 || raw[0] != '{' {
		return nil
	}
	var o fields
	if json.Unmarshal(raw, &o) != nil {
		return nil
	}
	return o
}

// scalar is a number or boolean as it stands in the log, or "".
func (f fields) scalar(name string) string {
	raw := string(f[name])
	if raw == "true" || raw == "false" {
		return raw
	}
	if raw == "" || !strings.ContainsRune("-0123456789", rune(raw[0])) {
		return ""
	}
	return raw
}

// secretInClear says whether a field that holds key material, plaintext or a credential
// is there and not hashed.
func (f fields) secretInClear() bool {
	for _, name := range []string{
		"plaintext", "password", "secret_id", "private_key", "backup", "token", "client_token",
		"secret", "secret_key", "key", "keys_base64", "root_token", "unlock_key", "id",
	} {
		if f.text(name) != "" {
			return true
		}
	}
	for _, name := range []string{"batch_input", "batch_results"} {
		items, _ := f.objects(name)
		if slices.ContainsFunc(items, func(item fields) bool { return item.text("plaintext") != "" }) {
			return true
		}
	}
	return false
}

// hashed says whether a value is the HMAC that the device puts in the place of a string.
func hashed(s string) bool { return strings.HasPrefix(s, "hmac-sha256:") }

// or returns the first of two strings that is not empty.
func or(a, b string) string {
	if a != "" {
		return a
	}
	return b
}
