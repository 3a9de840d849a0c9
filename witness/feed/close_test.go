package feed_test

import (
	"context"
	"errors"
	"net"
	"net/http"
	"net/http/httptest"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/keytrail/keytrail/witness/feed"
)

// TestClose closes feeds in every state. The bubble ends only when no goroutine is left.
func TestClose(t *testing.T) {
	for name, do := range map[string]func(*testing.T, *trio, *feed.Feed){
		"unused":  func(*testing.T, *trio, *feed.Feed) {},
		"idle":    func(t *testing.T, s *trio, f *feed.Feed) { s.cosign(t, f, 1, 6) },
		"hanging": func(t *testing.T, s *trio, f *feed.Feed) { s.w[0].slow(time.Hour); s.cosign(t, f, 1, 4) },
		"looking for a proof": func(t *testing.T, s *trio, f *feed.Feed) {
			s.w[0].always(422, "", "")
			s.cosign(t, f, 1, 4)
			synctest.Wait()
		},
		"in Cosign": func(t *testing.T, s *trio, f *feed.Feed) {
			s.w[0].slow(time.Hour)
			s.w[1].slow(time.Hour)
			go func() {
				if _, err := f.Cosign(context.Background(), s.log.at(1), s.log.note(t, 1)); !errors.Is(err, feed.ErrClosed) {
					t.Errorf("Cosign ends with %v", err)
				}
			}()
			synctest.Wait()
		},
		"in Start": func(t *testing.T, s *trio, f *feed.Feed) {
			s.w[0].slow(time.Hour)
			s.w[1].slow(time.Hour)
			go func() {
				if err := f.Start(context.Background(), s.log.at(1), s.log.note(t, 1)); !errors.Is(err, feed.ErrClosed) {
					t.Errorf("Start ends with %v", err)
				}
			}()
			synctest.Wait()
		},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s := newTrio(t, 2)
				s.conf.Timeout = time.Hour
				f := open(t, s.conf)
				do(t, s, f)
				took(t, "closing", 0, f.Close)
				if _, err := f.Cosign(context.Background(), s.log.at(9), s.log.note(t, 9)); !errors.Is(err, feed.ErrClosed) {
					t.Errorf("after Close Cosign says %v", err)
				}
				if err := f.Start(context.Background(), s.log.at(9), s.log.note(t, 9)); !errors.Is(err, feed.ErrClosed) {
					t.Errorf("after Close Start says %v", err)
				}
				for _, st := range f.Status() {
					if st.Problem != "" && !st.Conflict {
						t.Errorf("closing left %+v", st)
					}
				}
			})
		})
	}
}

// TestCloseConnections counts the connections that witnesses have open after Close.
func TestCloseConnections(t *testing.T) {
	l, w := newLog(t, ""), newFake(t, "w")
	var opened, left atomic.Int32
	s := httptest.NewUnstartedServer(w)
	s.Config.ConnState = func(_ net.Conn, state http.ConnState) {
		switch state {
		case http.StateNew:
			opened.Add(1)
			left.Add(1)
		case http.StateClosed:
			left.Add(-1)
		default:
		}
	}
	s.Start()
	defer s.Close()
	w.url = s.URL
	p := testPolicy(t, l, 1, w.party)
	f := open(t, feed.Config{Policy: p, Tree: l})
	for size := uint64(1); size < 5; size++ {
		wantCosigned(t, f, l, p, size, 2)
	}
	if n := opened.Load(); n != 1 {
		t.Errorf("four requests took %d connections, want 1", n)
	}
	f.Close()
	eventually(t, "all connections are closed", func() bool { return left.Load() == 0 })
}
