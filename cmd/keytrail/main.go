// Command keytrail is the command line of keytrail for everyone but the server: it makes
// logs, appends and imports events, asks a server for entries, histories and proofs,
// verifies them offline, and checks stores. See keytrail -h.
package main

import (
	"os"

	"github.com/keytrail/keytrail/cmd/internal/cli"
)

func main() { os.Exit(cli.Main(root())) }
