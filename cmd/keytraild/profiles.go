package main

import (
	"fmt"
	"net"
	"net/http"
	"net/http/pprof"
	"os"
	"time"
)

// profiles serves Go's CPU, allocation and goroutine profiles on a Unix socket that only
// this user may open, until stop. A profile names functions and sizes, no content; taking
// one costs some per cent of the processor, so no network reaches it.
func profiles(socket string) (stop func() error, err error) {
	lis, err := net.Listen("unix", socket)
	if err != nil {
		return nil, fmt.Errorf("serving profiles: %w", err)
	}
	if err := os.Chmod(socket, 0o600); err != nil {
		_ = lis.Close()
		return nil, fmt.Errorf("serving profiles: %w", err)
	}
	mux := http.NewServeMux()
	mux.HandleFunc("GET /profile", pprof.Profile)
	for _, name := range []string{"allocs", "goroutine", "heap"} {
		mux.Handle("GET /"+name, pprof.Handler(name))
	}
	s := &http.Server{Handler: mux, ReadHeaderTimeout: 5 * time.Second}
	go func() { _ = s.Serve(lis) }() // ends with stop; profiles are no reason to end the log
	return s.Close, nil
}
