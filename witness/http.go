package witness

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math"
	"net/http"
	"strconv"
	"time"
)

// MaxRequests is how many requests to sign are in memory at a time, so that their
// bodies take 64 MiB at most. Further ones are answered with 503.
const MaxRequests = 512

// sizeType is the content type of a 409 (tlog-witness).
const sizeType = "text/x.tlog.size"

const textType = "text/plain; charset=utf-8"

// Handler returns the handler of tlog-witness under one prefix, for submission and
// monitoring alike: POST /add-checkpoint, GET /<hash of origin>/checkpoint and, when the
// witness has an ML-DSA-44 key, POST /sign-subtree. Timeouts are for the http.Server to set.
func (w *Witness) Handler() http.Handler {
	h := &handler{w}
	mux := http.NewServeMux()
	mux.HandleFunc("POST /add-checkpoint", h.timed("add-checkpoint", w.AddCheckpoint))
	if w.signsSubtrees() {
		mux.HandleFunc("POST /sign-subtree", h.timed("sign-subtree", w.SignSubtree))
	}
	mux.HandleFunc("GET /{hash}/checkpoint", h.checkpoint)
	return mux
}

type handler struct{ w *Witness }

// call is a request of tlog-witness: it takes a body and returns signature lines.
type call func(ctx context.Context, body []byte) ([]byte, error)

// timed returns a handler that answers with do and measures it under a name.
func (h *handler) timed(name string, do call) http.HandlerFunc {
	return func(rw http.ResponseWriter, req *http.Request) {
		begin := time.Now()
		code := h.serve(rw, req, do)
		h.w.metrics.answered(name, code, time.Since(begin))
	}
}

// serve answers a request and returns the status.
func (h *handler) serve(rw http.ResponseWriter, req *http.Request, do call) int {
	select {
	case h.w.slots <- struct{}{}:
		defer func() { <-h.w.slots }()
	default:
		rw.Header().Set("Retry-After", "1")
		return answer(rw, http.StatusServiceUnavailable, "too many requests at a time")
	}
	body, err := readAll(http.MaxBytesReader(rw, req.Body, MaxRequest), req.ContentLength)
	if _, ok := errors.AsType[*http.MaxBytesError](err); ok {
		return answer(rw, http.StatusRequestEntityTooLarge, fmt.Sprintf("request is larger than %d bytes", MaxRequest))
	}
	if err != nil {
		return answer(rw, http.StatusBadRequest, "request ends too early")
	}
	lines, err := do(req.Context(), body)
	if err != nil {
		return h.refuse(rw, req, err)
	}
	rw.Header().Set("Content-Type", textType)
	// Without a length net/http would cut lines of this size into chunks.
	rw.Header().Set("Content-Length", strconv.Itoa(len(lines)))
	_, _ = rw.Write(lines) // The client is gone; what was cosigned stays.
	return http.StatusOK
}

// usualRequest is more than most requests take, in bytes.
const usualRequest = 16 << 10

// readAll reads a body of which a length was announced, or not (-1).
func readAll(r io.Reader, length int64) ([]byte, error) {
	b := bytes.NewBuffer(make([]byte, 0, min(max(length, 0), usualRequest)+bytes.MinRead))
	_, err := b.ReadFrom(r)
	return b.Bytes(), err
}

func (h *handler) refuse(rw http.ResponseWriter, req *http.Request, err error) int {
	e, ok := errors.AsType[*RefusalError](err)
	switch {
	case !ok:
		h.w.log.ErrorContext(req.Context(), "answering "+req.Pattern, slog.Any("error", err))
		return answer(rw, status(err), "the witness cannot cosign now; its operator knows why")
	case e.Status == http.StatusConflict:
		rw.Header().Set("Content-Type", sizeType)
		rw.WriteHeader(e.Status)
		fmt.Fprintf(rw, "%d\n", e.Size)
		return e.Status
	case e.RetryAfter > 0:
		rw.Header().Set("Retry-After", strconv.Itoa(int(math.Ceil(e.RetryAfter.Seconds()))))
	}
	return answer(rw, e.Status, e.Reason)
}

// status is the HTTP status code of an error.
func status(err error) int {
	if e, ok := errors.AsType[*RefusalError](err); ok {
		return e.Status
	}
	if errors.Is(err, ErrStopped) {
		return http.StatusServiceUnavailable
	}
	return http.StatusInternalServerError
}

func answer(rw http.ResponseWriter, code int, text string) int {
	http.Error(rw, text, code)
	return code
}

// checkpoint serves what was cosigned last. Caches may keep it for seconds: tlog-witness
// allows an hour, but whoever looks for a fork should not have to wait.
func (h *handler) checkpoint(rw http.ResponseWriter, req *http.Request) {
	note, ok := h.w.Checkpoint(req.PathValue("hash"))
	if !ok {
		http.Error(rw, "nothing was cosigned of a log with this hash of its origin", http.StatusNotFound)
		return
	}
	rw.Header().Set("Content-Type", textType)
	rw.Header().Set("Cache-Control", "public, max-age=5")
	_, _ = rw.Write(note)
}
