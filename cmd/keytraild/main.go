// Command keytraild is the log server: it opens a log's directory, takes key events over
// gRPC, and publishes signed checkpoints. See keytraild -h.
package main

import (
	"os"

	"github.com/keytrail/keytrail/cmd/internal/cli"
)

func main() { os.Exit(cli.Main(command())) }
