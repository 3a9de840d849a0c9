package tiles

import (
	"bytes"
	"compress/gzip"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io/fs"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"
)

// A request that fails for a reason that passes is made again, after firstWait, then after
// four times as long, up to maxWait: five requests within about five seconds. A server can
// ask for more with Retry-After, up to maxRetryAfter.
const (
	retries       = 4
	firstWait     = 100 * time.Millisecond
	maxWait       = 3 * time.Second
	maxRetryAfter = 30 * time.Second
)

const maxRedirects = 3

// errRedirect is a redirect that is not followed.
var errRedirect = errors.New("redirect not followed")

// web is a log behind a URL prefix.
type web struct {
	prefix  *url.URL // without a slash at the end of its path
	client  *http.Client
	agent   string
	timeout time.Duration
}

func newWeb(u *url.URL, o Options) *web {
	prefix := *u
	prefix.Path, prefix.RawPath = strings.TrimRight(u.Path, "/"), ""
	w := &web{prefix: &prefix, agent: o.UserAgent, timeout: o.Timeout}
	if w.agent == "" {
		w.agent = "keytrail"
	}
	if w.timeout <= 0 {
		w.timeout = DefaultTimeout
	}
	client := http.Client{}
	if o.HTTP != nil {
		client = *o.HTTP
	} else {
		t := http.DefaultTransport.(*http.Transport).Clone()
		t.MaxIdleConnsPerHost = 2 * parallel
		client.Transport = t
	}
	client.CheckRedirect = sameHost
	w.client = &client
	return w
}

// sameHost lets a server tidy up its paths, and nothing else: what is fetched next must be
// as well protected on its way as what was asked for.
func sameHost(req *http.Request, via []*http.Request) error {
	first := via[0].URL
	if req.URL.Scheme != first.Scheme || req.URL.Host != first.Host {
		return fmt.Errorf("%w: to another host", errRedirect)
	}
	if len(via) > maxRedirects {
		return fmt.Errorf("%w: the %dth in a row", errRedirect, len(via))
	}
	return nil
}

func (w *web) String() string { return w.prefix.Redacted() }

// transientError is a failure that may pass.
type transientError struct {
	err error
	// wait is what the server asks for; 0 when it does not say.
	wait time.Duration
}

func (e *transientError) Error() string { return e.err.Error() }
func (e *transientError) Unwrap() error { return e.err }

func (w *web) get(ctx context.Context, path string, limit int) ([]byte, error) {
	wait := firstWait
	for attempt := 0; ; attempt++ {
		b, err := w.try(ctx, path, limit)
		if ctx.Err() != nil {
			return nil, context.Cause(ctx)
		}
		var passes *transientError
		if err == nil || !errors.As(err, &passes) {
			return b, err
		}
		if attempt == retries {
			return nil, fmt.Errorf("%w (tried %d times)", err, attempt+1)
		}
		t := time.NewTimer(max(wait, passes.wait))
		select {
		case <-t.C:
		case <-ctx.Done():
			t.Stop()
			return nil, context.Cause(ctx)
		}
		wait = min(4*wait, maxWait)
	}
}

// try makes one request.
func (w *web) try(ctx context.Context, path string, limit int) ([]byte, error) {
	ctx, cancel := context.WithTimeoutCause(ctx, w.timeout, fmt.Errorf("no whole answer within %v", w.timeout))
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, w.prefix.JoinPath(path).String(), nil)
	if err != nil {
		return nil, err
	}
	req.Header.Set("User-Agent", w.agent)
	req.Header.Set("Accept-Encoding", "identity")
	if strings.HasPrefix(path, "tile/entries/") {
		req.Header.Set("Accept-Encoding", "gzip")
	}
	res, err := w.client.Do(req)
	if err != nil {
		return nil, w.failed(ctx, err)
	}
	defer res.Body.Close()
	if err := checkStatus(res); err != nil {
		return nil, err
	}
	// All of the answer is read before it is unpacked, so that a broken connection is not
	// taken for a broken file. What does not pack well grows a little.
	packed := res.Header.Get("Content-Encoding")
	most := limit
	if packed != "" {
		most += limit/1024 + 1024
	}
	b, err := readAll(res.Body, most)
	switch {
	case errors.Is(err, ErrMalformed):
		return nil, err
	case err != nil:
		return nil, w.failed(ctx, err)
	}
	switch strings.ToLower(packed) {
	case "", "identity":
		return b, nil
	case "gzip": // a server may pack without being asked (tlog-tiles)
		return unpack(b, limit)
	}
	return nil, fmt.Errorf("%w: packed with a coding that was not asked for", ErrMalformed)
}

// failed says whether a request that got no whole answer is worth another one.
func (w *web) failed(ctx context.Context, err error) error {
	if ctx.Err() != nil {
		err = context.Cause(ctx)
	}
	var certificate *tls.CertificateVerificationError
	if errors.Is(err, errRedirect) || errors.As(err, &certificate) {
		return err
	}
	return &transientError{err: err}
}

func checkStatus(res *http.Response) error {
	switch code := res.StatusCode; {
	case code == http.StatusOK:
		return nil
	case code == http.StatusNotFound || code == http.StatusGone:
		return fmt.Errorf("%w: status %d", fs.ErrNotExist, code)
	case code == http.StatusTooManyRequests || code >= 500:
		err := &transientError{err: fmt.Errorf("status %d", code)}
		if s, convErr := strconv.Atoi(res.Header.Get("Retry-After")); convErr == nil && s > 0 {
			err.wait = time.Duration(min(s, int(maxRetryAfter/time.Second))) * time.Second
		}
		return err
	default:
		return fmt.Errorf("status %d", code)
	}
}

// unpack undoes gzip; more than limit bytes are refused as soon as they show.
func unpack(b []byte, limit int) ([]byte, error) {
	z, err := gzip.NewReader(bytes.NewReader(b))
	if err != nil {
		return nil, fmt.Errorf("%w: unpacking: %w", ErrMalformed, err)
	}
	out, err := readAll(z, limit)
	if err != nil && !errors.Is(err, ErrMalformed) {
		return nil, fmt.Errorf("%w: unpacking: %w", ErrMalformed, err)
	}
	return out, err
}
