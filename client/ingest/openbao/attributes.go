package openbao

import (
	"slices"
	"strconv"
	"strings"
	"unicode"
	"unicode/utf8"

	keytrailv1 "github.com/keytrail/keytrail/proto/keytrail/v1"
)

// Limits of free text in an event, in bytes.
const (
	maxMessage   = 2048
	maxUserAgent = 1024
	maxAttribute = 2048
)

// facts adds what the event has no field for. Names are the server's, with "request_" in
// front of those that the caller asked for.
func (c *call) facts() {
	rec := c.rec
	kind, _, accessor := rec.mount()
	c.attrs.add("mount_accessor", accessor)
	c.attrs.add("mount_type", kind)
	c.attrs.add("namespace_id", rec.Request.Namespace.ID)
	if c.vars["secret"] == "" {
		c.attrs.add("path", rec.Request.Path)
	}
	c.attrs.add("client_certificate_serial_number", rec.Request.CertSerial)
	if rec.Auth.DisplayName != "" || rec.Auth.EntityID != "" {
		c.attrs.add("token_type", rec.Auth.TokenType)
	}
	c.attrs.addInt("remaining_uses", rec.Auth.RemainingUses)
	if rec.Auth.PolicyResults != nil {
		var names []string
		for _, g := range rec.Auth.PolicyResults.GrantingPolicies {
			names = append(names, strings.TrimPrefix(namespaceName(g.NamespaceID, g.NamespacePath)+"/"+g.Name, "/"))
		}
		c.attrs.addList("granting_policies", names)
	}
	if rec.Response != nil {
		c.attrs.addList("warnings", rec.Response.Warnings)
		if rec.Response.WrapInfo != nil {
			c.attrs.add("wrapped", "true")
			c.attrs.addInt("wrap_ttl", rec.Response.WrapInfo.TTL)
		}
	}
	if c.batch.someInvalid {
		c.attrs.add("valid", "false")
	}
	c.settings()
}

// settings adds the numbers and booleans that describe a key or the store. Everything
// else in data is hashed or the caller's.
func (c *call) settings() {
	got, asked := c.rec.responseData(), c.rec.Request.Data
	if c.engine.name == "" || c.engine.name == "cubbyhole" {
		return
	}
	for _, name := range []string{
		"allow_plaintext_backup", "auto_rotate_period", "convergent_encryption", "deletion_allowed", "derived",
		"exportable", "imported_key", "latest_version", "min_available_version", "min_decryption_version",
		"min_encryption_version", "soft_deleted", "supports_decryption", "supports_derivation",
		"supports_encryption", "supports_signing", "valid", "http_status_code", "disable_upsert", "size",
		"sealed", "progress", "t", "n", "term", "complete",
	} {
		c.attrs.add(name, got.scalar(name))
	}
	if c.key == "" && c.op == keytrailv1.Operation_OPERATION_ACCESS_UNWRAP {
		c.attrs.add("key_version", got.scalar("key_version"))
	}
	for _, name := range []string{
		"allow_plaintext_backup", "auto_rotate_period", "convergent_encryption", "deletion_allowed", "derived",
		"exportable", "key_version", "min_available_version", "min_decryption_version", "min_encryption_version",
		"partial_failure_response_code", "secret_shares", "secret_threshold", "num_uses", "rate",
	} {
		c.attrs.add("request_"+name, asked.scalar(name))
	}
}

// attributes are names and values without repeats: the first of a name stays.
type attributes struct {
	list []*keytrailv1.Attribute
}

// add adds one if it has a value. The value is free text of one line: control characters
// become spaces and what is too long is cut.
func (a *attributes) add(name, value string) {
	value = cut(oneLine(value), maxAttribute)
	if value == "" || slices.ContainsFunc(a.list, func(have *keytrailv1.Attribute) bool { return have.Name == name }) {
		return
	}
	a.list = append(a.list, &keytrailv1.Attribute{Name: name, Value: value})
}

func (a *attributes) addInt(name string, n int64) {
	if n != 0 {
		a.add(name, strconv.FormatInt(n, 10))
	}
}

func (a *attributes) addList(name string, values []string) {
	a.add(name, strings.Join(values, ", "))
}

// sorted returns them as an event must have them.
func (a *attributes) sorted() []*keytrailv1.Attribute {
	slices.SortFunc(a.list, func(x, y *keytrailv1.Attribute) int { return strings.Compare(x.Name, y.Name) })
	return a.list
}

// cutMark ends text that was cut.
const cutMark = "…"

// cut shortens text to a number of bytes, at the edge of a character, and marks it.
func cut(s string, limit int) string {
	if len(s) <= limit {
		return s
	}
	end := limit - len(cutMark)
	for !utf8.RuneStart(s[end]) {
		end--
	}
	return s[:end] + cutMark
}

// oneLine replaces what free text of one line may not hold.
func oneLine(s string) string {
	return strings.Map(func(r rune) rune {
		switch {
		case unicode.Is(unicode.Cc, r), r == 0x2028, r == 0x2029:
			return ' '
		case unicode.Is(unicode.Bidi_Control, r):
			return unicode.ReplacementChar
		}
		return r
	}, s)
}
