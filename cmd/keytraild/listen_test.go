package main

import (
	"errors"
	"io"
	"net"
	"testing"

	"github.com/prometheus/client_golang/prometheus"
)

// TestLimitListener: what comes beyond the limit is closed at once, and a place that was
// left is taken again.
func TestLimitListener(t *testing.T) {
	inner, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	refused := prometheus.NewCounter(prometheus.CounterOpts{Name: "refused"})
	l := limitTo(inner, 2, refused)
	defer l.Close()
	taken := make(chan net.Conn)
	go func() {
		defer close(taken)
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			taken <- c
		}
	}()
	dial := func() net.Conn {
		c, err := net.Dial("tcp", l.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { c.Close() })
		return c
	}
	dial()
	first := <-taken
	dial()
	second := <-taken
	if _, err := dial().Read(make([]byte, 1)); !errors.Is(err, io.EOF) {
		t.Errorf("a third connection reads %v, want its end", err)
	}
	r := prometheus.NewRegistry()
	r.MustRegister(refused)
	families, err := r.Gather()
	if err != nil {
		t.Fatal(err)
	}
	if n := families[0].GetMetric()[0].GetCounter().GetValue(); n != 1 {
		t.Errorf("%v connections counted as refused, want 1", n)
	}
	first.Close()
	first.Close() // gives its place back once
	dial()
	third := <-taken
	if _, err := dial().Read(make([]byte, 1)); !errors.Is(err, io.EOF) {
		t.Errorf("a third connection reads %v, want its end", err)
	}
	second.Close()
	third.Close()
}
