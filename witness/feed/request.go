package feed

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/keytrail/keytrail/proto/checkpoint"
	"github.com/keytrail/keytrail/proto/consistency"
)

// maxAnswer is the largest answer that is read, in bytes: an Ed25519 and an ML-DSA-44 line
// take 4 KB; a monitoring endpoint's checkpoint adds the log's own lines.
const maxAnswer = 128 << 10

// usualSize is more than most requests and answers take, in bytes.
const usualSize = 16 << 10

// maxClock is how far the time of a cosignature may be off this machine's clock.
const maxClock = 24 * time.Hour

// userAgent names the program to the operators of witnesses.
const userAgent = "keytrail"

// kind says what follows from a failure.
type kind int

const (
	// outage: nothing usable came back; asked again soon, then less and less often.
	outage kind = iota
	// stranger: the witness does not serve the log; asked again when people had time to enrol it.
	stranger
	// spent: the requests of the day are used up.
	spent
	// contradiction: witness and log cannot both be right; not asked again.
	contradiction
	// notAsked: the reason lies on this side; the witness is as good as before.
	notAsked
)

// failure is why a witness has not cosigned.
type failure struct {
	kind kind
	// outcome is the label of the metric.
	outcome string
	// why is for people; what it repeats of an answer is quoted.
	why string
	// wait is how long the witness asks not to be asked.
	wait time.Duration
}

func fail(k kind, outcome, format string, args ...any) *failure {
	return &failure{kind: k, outcome: outcome, why: fmt.Sprintf(format, args...)}
}

// newClient returns a client that follows no redirect: whoever can redirect requests could
// otherwise answer for a witness with what another one says.
func newClient(t http.RoundTripper) *http.Client {
	if t == nil {
		t = &http.Transport{
			Proxy:                  http.ProxyFromEnvironment,
			ForceAttemptHTTP2:      true,
			MaxIdleConnsPerHost:    2,
			IdleConnTimeout:        2 * time.Minute,
			MaxResponseHeaderBytes: 32 << 10,
			DisableCompression:     true,
			// A request is written, and an answer read, with one system call.
			WriteBufferSize: usualSize,
			ReadBufferSize:  usualSize,
		}
	}
	return &http.Client{
		Transport:     t,
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
}

// reply is an HTTP response with its whole body.
type reply struct {
	status int
	header http.Header
	body   []byte
}

// send sends a request and reads the answer, within the Feed's timeout.
func (f *Feed) send(ctx context.Context, method, to string, body []byte) (*reply, error) {
	ctx, cancel := context.WithTimeout(ctx, f.timeout)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, method, to, bytes.NewReader(body))
	if err != nil {
		return nil, err
	}
	req.Header.Set("User-Agent", userAgent)
	if method == http.MethodPost {
		req.Header.Set("Content-Type", "text/plain; charset=utf-8")
	}
	// Without a value nothing is sent; net/http then sends a request again when a kept
	// connection turns out to be dead. A witness that gets it twice answers 409.
	req.Header["Idempotency-Key"] = nil
	resp, err := f.client.Do(req)
	if err != nil {
		return nil, reason(ctx, err)
	}
	defer resp.Body.Close()
	r := &reply{status: resp.StatusCode, header: resp.Header}
	b := bytes.NewBuffer(make([]byte, 0, min(max(resp.ContentLength, 0), usualSize)+bytes.MinRead))
	_, err = b.ReadFrom(io.LimitReader(resp.Body, maxAnswer+1))
	r.body = b.Bytes()
	if err != nil {
		return nil, fmt.Errorf("reading the answer: %w", reason(ctx, err))
	}
	if len(r.body) > maxAnswer {
		return nil, fmt.Errorf("the answer is larger than %d bytes", maxAnswer)
	}
	return r, nil
}

// reason returns why a request under ctx failed.
func reason(ctx context.Context, err error) error {
	if errors.Is(ctx.Err(), context.DeadlineExceeded) {
		return errors.New("no whole answer in time")
	}
	return plain(err)
}

// plain returns an error of package http or url without the URL, which stands beside it.
func plain(err error) error {
	if e, ok := errors.AsType[*url.Error](err); ok {
		return e.Err
	}
	return err
}

// answer is an answer from which the caller can go on.
type answer struct {
	// cosignatures are those of status 200, one for each member at most.
	cosignatures []cosignature
	// status is 200, 409 or 422.
	status int
	// size is the one of 409; sized is false when the body holds none.
	size  uint64
	sized bool
}

// cosignature is a verified line of a member.
type cosignature struct {
	member *member
	sig    checkpoint.Signature
}

// post sends one add-checkpoint request.
func (e *endpoint) post(ctx context.Context, cp checkpoint.Checkpoint, u consistency.Bundle) (*answer, *failure) {
	begin := time.Now()
	r, err := e.f.send(ctx, http.MethodPost, e.url+"/add-checkpoint", u.Append(nil))
	now := time.Now()
	if err != nil {
		if ctx.Err() != nil {
			return nil, fail(notAsked, "aborted", "the log stops asking")
		}
		e.f.metrics.requests.WithLabelValues(e.label, "no_answer").Inc()
		return nil, fail(outage, "no_answer", "%v", err)
	}
	e.took(now.Sub(begin))
	a, bad := e.read(cp, r, now)
	outcome := "cosigned"
	switch {
	case bad != nil:
		outcome = bad.outcome
	case a.status != http.StatusOK:
		outcome = strconv.Itoa(a.status)
	}
	e.f.metrics.requests.WithLabelValues(e.label, outcome).Inc()
	return a, bad
}

// read sorts an answer by what follows from it.
func (e *endpoint) read(cp checkpoint.Checkpoint, r *reply, now time.Time) (*answer, *failure) {
	if r.status == http.StatusOK {
		cosignatures, err := parseCosignatures(r.body, e.members, cp, now)
		if err != nil {
			return nil, fail(outage, "bad_answer", "%v", err)
		}
		return &answer{status: r.status, cosignatures: cosignatures}, nil
	}
	said := fmt.Sprintf("answered %d (%.120q)", r.status, bytes.TrimSpace(r.body))
	switch {
	case r.status == http.StatusConflict:
		size, ok := parseSize(r.body)
		return &answer{status: r.status, size: size, sized: ok}, nil
	case r.status == http.StatusUnprocessableEntity:
		return &answer{status: r.status}, nil
	case r.status == http.StatusForbidden, r.status == http.StatusNotFound:
		// Witnesses differ in which of the two says that they do not know the log.
		return nil, fail(stranger, "unknown_log", "does not serve this log: %s", said)
	case r.status == http.StatusTooManyRequests, r.status == http.StatusServiceUnavailable:
		return nil, &failure{kind: outage, outcome: "busy", why: said, wait: retryAfter(r.header, now)}
	case r.status >= 300 && r.status < 400:
		return nil, fail(outage, "redirect", "redirects to %.200q, which is not followed: the policy must name the place itself", r.header.Get("Location"))
	case r.status >= 500:
		return nil, fail(outage, "server_error", "%s", said)
	}
	return nil, fail(outage, "rejected", "%s", said)
}

// parseSize reads the body of a 409: a decimal and a newline (tlog-witness). The content
// type is not looked at; other implementations differ in it.
func parseSize(body []byte) (uint64, bool) {
	digits, ok := strings.CutSuffix(string(body), "\n")
	if !ok {
		return 0, false
	}
	n, err := strconv.ParseUint(digits, 10, 64)
	return n, err == nil && strconv.FormatUint(n, 10) == digits
}

// parseCosignatures reads the body of a 200 and returns the verified lines of members. Lines
// of other keys are ignored (tlog-witness). A line of a member that is not good makes the
// whole answer bad, as signed-note advises, and so does an answer without a good line.
func parseCosignatures(body []byte, members []*member, cp checkpoint.Checkpoint, now time.Time) ([]cosignature, error) {
	sigs, err := checkpoint.ParseSignatures(body)
	if err != nil {
		return nil, fmt.Errorf("answered 200 without signature lines: %w", err)
	}
	var good []cosignature
	for _, m := range members {
		found := false
		for _, s := range sigs {
			if !m.Key.Made(s) {
				continue
			}
			at, err := m.Key.Verify(cp, s)
			if err != nil {
				return nil, fmt.Errorf("answered with a false line of %s: %w", m.Name, err)
			}
			if off := now.Sub(time.Unix(int64(at), 0)).Abs(); at == 0 || off > maxClock {
				return nil, fmt.Errorf("answered with a line of %s of the time %d, %v off this machine's clock", m.Name, at, off.Round(time.Second))
			}
			if !found {
				good = append(good, cosignature{m, s})
			}
			found = true
		}
	}
	if len(good) == 0 {
		return nil, fmt.Errorf("answered with %d lines, none of a key that the policy has for it", len(sigs))
	}
	return good, nil
}

// retryAfter reads the header of that name: seconds or a date (RFC 9110 section 10.2.3). It
// returns 0 when there is none.
func retryAfter(h http.Header, now time.Time) time.Duration {
	v := h.Get("Retry-After")
	if n, err := strconv.ParseUint(v, 10, 32); err == nil {
		return time.Duration(n) * time.Second
	}
	if t, err := http.ParseTime(v); err == nil {
		return t.Sub(now)
	}
	return 0
}
