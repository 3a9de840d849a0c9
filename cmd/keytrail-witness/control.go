package main

import (
	"bytes"
	"context"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"syscall"
	"time"

	"github.com/keytrail/keytrail/proto/checkpoint"
	"github.com/keytrail/keytrail/witness"
)

// A witness that runs has its store open alone. So that logs can be enrolled and removed
// meanwhile it answers the same commands on a Unix socket, DIR/control/socket. Whoever can
// open the directory may use it: the witness's own user, as with the keys.

// maxControl is the largest request and answer on the control socket in bytes: a log list of
// the largest size takes less.
const maxControl = 4 * witness.MaxList

// controlWithin bounds a request on the control socket.
const controlWithin = time.Minute

func (l location) socket() string { return filepath.Join(l.dir, "control", "socket") }

// logJSON is a log on the control socket and in list --json.
type logJSON struct {
	Origin  string   `json:"origin"`
	Keys    []string `json:"vkeys"`
	PerDay  uint32   `json:"qpd,omitempty"`
	Contact string   `json:"contact,omitempty"`
	// Cosigned is what was cosigned last, absent when nothing was.
	Cosigned *cosignedJSON `json:"cosigned,omitempty"`
}

type cosignedJSON struct {
	Size uint64    `json:"size"`
	Root string    `json:"root_hex"`
	Time time.Time `json:"time"`
}

// listing is what a witness says of itself.
type listing struct {
	Keys []string  `json:"witness_vkeys"`
	Logs []logJSON `json:"logs"`
}

// enrolment is a request to enroll logs; Listed says that they come from a list.
type enrolment struct {
	Logs   []logJSON `json:"logs"`
	Listed bool      `json:"listed,omitempty"`
}

// enrolled is the answer: how many logs of a list were new.
type enrolled struct {
	Added int `json:"added"`
}

// removal is a request to remove a log, or one key of it.
type removal struct {
	Origin string `json:"origin"`
	Key    string `json:"vkey,omitempty"`
}

// register is the witness as the commands that manage it see it.
type register interface {
	enroll(ctx context.Context, e enrolment) (enrolled, error)
	remove(ctx context.Context, r removal) error
	list(ctx context.Context) (listing, error)
}

func (o *opened) enroll(ctx context.Context, e enrolment) (enrolled, error) {
	var logs []witness.Log
	for _, j := range e.Logs {
		l := witness.Log{Origin: j.Origin, PerDay: j.PerDay, Contact: j.Contact}
		for _, vkey := range j.Keys {
			k, err := checkpoint.ParseVerifierKey(vkey)
			if err != nil {
				return enrolled{}, err
			}
			l.Keys = append(l.Keys, k)
		}
		logs = append(logs, l)
	}
	if e.Listed {
		added, err := o.EnrollListed(ctx, logs)
		return enrolled{added}, err
	}
	return enrolled{}, o.Enroll(ctx, logs...)
}

func (o *opened) remove(ctx context.Context, r removal) error {
	if r.Key == "" {
		return o.Remove(ctx, r.Origin)
	}
	k, err := checkpoint.ParseVerifierKey(r.Key)
	if err != nil {
		return err
	}
	return o.RemoveKey(ctx, r.Origin, k)
}

func (o *opened) list(context.Context) (listing, error) {
	l := listing{Keys: vkeys(o.Keys()), Logs: []logJSON{}}
	for _, s := range o.Logs() {
		j := toJSON(s.Log)
		if s.Time != 0 {
			j.Cosigned = &cosignedJSON{s.Size, hex.EncodeToString(s.Root[:]), time.Unix(int64(s.Time), 0).UTC()}
		}
		l.Logs = append(l.Logs, j)
	}
	return l, nil
}

func toJSON(l witness.Log) logJSON {
	return logJSON{Origin: l.Origin, Keys: vkeys(l.Keys), PerDay: l.PerDay, Contact: l.Contact}
}

func vkeys(keys []checkpoint.VerifierKey) []string {
	var out []string
	for _, k := range keys {
		out = append(out, k.String())
	}
	return out
}

// errPath means that the directory's path is too long for a socket: some 100 bytes.
var errPath = errors.New("the path is too long for a socket")

// listenControl opens the control socket. The caller has the store, so that a socket that is
// there already is of a witness that is gone.
func (l location) listenControl() (net.Listener, error) {
	dir := filepath.Dir(l.socket())
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("making the control socket: %w", err)
	}
	// The directory keeps others away, from the socket's first moment on.
	if err := os.Chmod(dir, 0o700); err != nil {
		return nil, fmt.Errorf("making the control socket: %w", err)
	}
	if err := os.Remove(l.socket()); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("making the control socket: %w", err)
	}
	lis, err := net.Listen("unix", l.socket())
	if errors.Is(err, syscall.EINVAL) {
		return nil, fmt.Errorf("making the control socket %s: %w", l.socket(), errPath)
	}
	if err != nil {
		return nil, fmt.Errorf("making the control socket: %w", err)
	}
	return lis, os.Chmod(l.socket(), 0o600)
}

// controlHandler answers on the control socket for r. An error of a command is 422 with
// its text.
func controlHandler(r register, logger *slog.Logger) http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /list", func(rw http.ResponseWriter, req *http.Request) {
		l, err := r.list(req.Context())
		answerControl(rw, l, err)
	})
	mux.HandleFunc("POST /enroll", func(rw http.ResponseWriter, req *http.Request) {
		var e enrolment
		if !readControl(rw, req, &e) {
			return
		}
		done, err := r.enroll(req.Context(), e)
		logger.InfoContext(req.Context(), "enrolling", slog.Int("logs", len(e.Logs)), slog.Bool("list", e.Listed), slog.Any("error", err))
		answerControl(rw, done, err)
	})
	mux.HandleFunc("POST /remove", func(rw http.ResponseWriter, req *http.Request) {
		var q removal
		if !readControl(rw, req, &q) {
			return
		}
		err := r.remove(req.Context(), q)
		logger.InfoContext(req.Context(), "removing", slog.String("origin", q.Origin), slog.String("key", q.Key), slog.Any("error", err))
		answerControl(rw, struct{}{}, err)
	})
	return mux
}

func readControl(rw http.ResponseWriter, req *http.Request, v any) bool {
	dec := json.NewDecoder(http.MaxBytesReader(rw, req.Body, maxControl))
	dec.DisallowUnknownFields()
	if err := dec.Decode(v); err != nil {
		http.Error(rw, err.Error(), http.StatusBadRequest)
		return false
	}
	return true
}

func answerControl(rw http.ResponseWriter, v any, err error) {
	if err != nil {
		http.Error(rw, err.Error(), http.StatusUnprocessableEntity)
		return
	}
	rw.Header().Set("Content-Type", "application/json")
	_ = json.NewEncoder(rw).Encode(v) // The command is gone; what it asked for is done.
}

// running is a witness that runs, seen over its control socket.
type running struct {
	client *http.Client
	socket string
}

// runningAt returns the witness that runs in a directory, false when none answers there.
func runningAt(l location) (*running, bool) {
	conn, err := net.DialTimeout("unix", l.socket(), time.Second)
	if err != nil {
		return nil, false
	}
	_ = conn.Close()
	dial := func(ctx context.Context, _, _ string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, "unix", l.socket())
	}
	return &running{&http.Client{Transport: &http.Transport{DialContext: dial, DisableKeepAlives: true}, Timeout: controlWithin}, l.socket()}, true
}

// do sends a request, and reads the answer into out.
func (r *running) do(ctx context.Context, method, path string, in, out any) error {
	body, err := json.Marshal(in)
	if err != nil {
		return err
	}
	req, err := http.NewRequestWithContext(ctx, method, "http://witness"+path, bytes.NewReader(body))
	if err != nil {
		return err
	}
	resp, err := r.client.Do(req)
	if err != nil {
		return fmt.Errorf("asking the witness that runs: %w", err)
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(io.LimitReader(resp.Body, maxControl))
	if err != nil {
		return fmt.Errorf("asking the witness that runs: %w", err)
	}
	if resp.StatusCode != http.StatusOK {
		return fmt.Errorf("the witness that runs: %s", bytes.TrimSpace(b))
	}
	if err := json.Unmarshal(b, out); err != nil {
		return fmt.Errorf("reading the answer of the witness that runs: %w", err)
	}
	return nil
}

func (r *running) enroll(ctx context.Context, e enrolment) (done enrolled, err error) {
	err = r.do(ctx, "POST", "/enroll", e, &done)
	return done, err
}

func (r *running) remove(ctx context.Context, q removal) error {
	return r.do(ctx, "POST", "/remove", q, &struct{}{})
}

func (r *running) list(ctx context.Context) (l listing, err error) {
	err = r.do(ctx, "GET", "/list", nil, &l)
	return l, err
}
