//go:build !amd64

package checkpoint

// leaveAVX has something to do on amd64 only.
func leaveAVX() {}
