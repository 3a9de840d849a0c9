package cloudtrail

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/keytrail/keytrail/proto/event"
	keytrailv1 "github.com/keytrail/keytrail/proto/keytrail/v1"
)

// Limits of event.proto, in bytes.
const (
	maxID           = 256
	maxRef          = 512
	maxDisplay      = 256
	maxMaterialID   = 128
	maxUserAgent    = 1024
	maxErrorMessage = 2048
	maxRelated      = 16
)

// builder makes one event of one record. Identifiers that AWS assigns and that break a
// rule fail the record; what a caller can choose never does, so that nobody keeps a call
// out of the log by an odd user agent or encryption context: it is cut, hashed or left out.
type builder struct {
	r     record
	opt   Options
	ev    *keytrailv1.KeyEvent
	attrs map[string]string
	err   error
}

func (b *builder) fail(format string, args ...any) {
	if b.err == nil {
		b.err = fmt.Errorf(format, args...)
	}
}

// name is an identifier that must fit, at most 512 bytes.
func (b *builder) name(field, s string) string { return b.ident(field, s, maxRef) }

func (b *builder) ident(field, s string, limit int) string {
	switch {
	case len(s) > limit:
		b.fail("%s is %d bytes long; the limit is %d", field, len(s), limit)
	case !isIdentifier(s):
		b.fail("%s holds control or invisible characters", field)
	}
	return s
}

// short is an identifier that is left out when it does not fit.
func (b *builder) short(limit int, s string) string {
	if len(s) > limit || !isIdentifier(s) {
		return ""
	}
	return s
}

// translate makes the event of a record whose operation is known.
func translate(r record, op keytrailv1.Operation, opt Options) (*keytrailv1.KeyEvent, error) {
	b := &builder{r: r, opt: opt, attrs: make(map[string]string), ev: &keytrailv1.KeyEvent{
		SchemaVersion: event.SchemaVersion,
		Operation:     op,
		Outcome:       outcome(r),
	}}
	b.header()
	if str(r.object, "eventSource") == sourceKMS {
		b.key()
	}
	b.actor()
	b.request()
	b.context()
	b.attributes()
	b.raw()
	return b.ev, b.err
}

func (b *builder) header() {
	o := b.r.object
	b.ev.EventId = b.ident("eventID", str(o, "eventID"), maxID)
	if b.ev.EventId == "" {
		b.fail("the record has no eventID")
	}
	account := b.ident("recipientAccountId", str(o, "recipientAccountId"), maxID)
	region := b.ident("awsRegion", str(o, "awsRegion"), 128)
	b.ev.Source = &keytrailv1.Source{
		System:  system(str(o, "eventSource")),
		Account: account,
		Region:  region,
		Adapter: Adapter,
	}
	b.ev.Region = region
	b.ev.Tenant = b.opt.Tenant
	if b.opt.TenantFromAccount {
		b.ev.Tenant = account
		if account == "" {
			b.fail("the record has no recipientAccountId to take the tenant from")
		}
	}
	b.ev.SourceOperation = b.ident("eventName", str(o, "eventName"), maxID)
	if b.ev.SourceOperation == "" {
		b.fail("the record has no eventName")
	}
	b.time(str(o, "eventTime"))
}

// time fills in when it happened. CloudTrail writes UTC with a Z; tools that load its
// records into tables leave the Z out.
func (b *builder) time(s string) {
	for _, layout := range []string{time.RFC3339, "2006-01-02T15:04:05", "2006-01-02 15:04:05"} {
		t, err := time.Parse(layout, s)
		if err != nil {
			continue
		}
		if t.Before(earliest) || t.After(latest) {
			b.fail("eventTime %s is out of bounds", t.UTC().Format(time.RFC3339))
			return
		}
		b.ev.Time = timestamppb.New(t)
		return
	}
	b.fail("eventTime %q is not a time", cut(s, 64))
}

func (b *builder) request() {
	o := b.r.object
	b.ev.RequestId = b.short(maxID, str(o, "requestID"))
	b.ev.SourceIp = b.short(maxID, str(o, "sourceIPAddress"))
	b.ev.UserAgent = cut(str(o, "userAgent"), maxUserAgent)
	b.ev.Service = b.short(128, service(b.r))
	version := b.short(64, str(o, "tlsDetails", "tlsVersion"))
	cipher := b.short(64, str(o, "tlsDetails", "cipherSuite"))
	if version != "" || cipher != "" {
		b.ev.Tls = &keytrailv1.TLS{Version: version, Cipher: cipher}
	}
	code := b.short(maxID, str(o, "errorCode"))
	message := cutText(str(o, "errorMessage"), maxErrorMessage)
	if code != "" || message != "" {
		b.ev.Error = &keytrailv1.Error{Code: code, Message: message}
	}
	if serviceEvent(b.r) && str(o, "serviceEventDetails", "rotationType") == "AUTOMATIC" {
		b.ev.CausedBy = &keytrailv1.Cause{Rule: "automatic rotation"}
	}
}

var errTooLarge = errors.New("the event is larger than an event may be")

// raw adds the record itself, or its hash only when the options say so, when the event
// would become too large, or when the record holds a member that may be a secret.
func (b *builder) raw() {
	sum := sha256.Sum256(b.r.raw)
	b.ev.Raw = &keytrailv1.Raw{MediaType: "application/json", Sha256: sum[:]}
	if b.err != nil {
		return
	}
	if b.opt.KeepRaw && len(b.r.raw) < event.MaxSize && !holdsSecret(b.r.object) {
		b.ev.Raw.Content = bytes.Clone(b.r.raw)
		if proto.Size(b.ev) <= event.MaxSize {
			return
		}
		b.ev.Raw.Content = nil
	}
	if proto.Size(b.ev) > event.MaxSize {
		b.err = errTooLarge
	}
}

// secretNames are members that KMS's own records leave out or mask, in lower case.
var secretNames = map[string]bool{
	"plaintext": true, "ciphertext": true, "ciphertextblob": true, "ciphertextforrecipient": true,
	"privatekeyplaintext": true, "privatekeyciphertextblob": true, "importtoken": true,
	"encryptedkeymaterial": true, "sharedsecret": true, "message": true, "mac": true, "signature": true,
	"keystorepassword": true, "password": true, "granttoken": true, "granttokens": true,
	"rawsecretaccesskey": true, "secretaccesskey": true, "sessiontoken": true,
}

// holdsSecret looks for such members, in case one was neither left out nor masked.
func holdsSecret(v any) bool {
	switch v := v.(type) {
	case object:
		for name, e := range v {
			if e != nil && secretNames[strings.ToLower(name)] && !masked(e) || holdsSecret(e) {
				return true
			}
		}
	case []any:
		return slices.ContainsFunc(v, holdsSecret)
	}
	return false
}

// masked reports that CloudTrail put something else in a secret's place.
func masked(v any) bool {
	s, ok := v.(string)
	return ok && (strings.HasPrefix(s, "HIDDEN_DUE_TO_SECURITY_REASONS") || strings.Trim(s, "*") == "")
}

// invisible reports characters that no identifier may hold; see package proto/event.
func invisible(r rune) bool {
	return unicode.In(r, unicode.Cc, unicode.Cf, unicode.Zl, unicode.Zp)
}

func isIdentifier(s string) bool {
	for i := 0; i < len(s); i++ {
		if s[i] < 0x20 || s[i] > 0x7e {
			return strings.IndexFunc(s[i:], invisible) < 0
		}
	}
	return true
}

// clean puts U+FFFD for every character that a line of text may not hold.
func clean(s string) string {
	if isIdentifier(s) {
		return s
	}
	return strings.Map(func(r rune) rune {
		if invisible(r) {
			return unicode.ReplacementChar
		}
		return r
	}, s)
}

// cut is one line of text of at most limit bytes, whole characters.
func cut(s string, limit int) string { return truncate(clean(s), limit) }

// cutText is cut for texts that may hold line feeds and tabs.
func cutText(s string, limit int) string {
	return truncate(strings.Map(func(r rune) rune {
		if r != '\n' && r != '\t' && invisible(r) {
			return unicode.ReplacementChar
		}
		return r
	}, s), limit)
}

func truncate(s string, limit int) string {
	if len(s) <= limit {
		return s
	}
	for limit > 0 && !utf8.RuneStart(s[limit]) {
		limit--
	}
	return s[:limit]
}
