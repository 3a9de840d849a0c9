// Command keytrail-witness cosigns the checkpoints of transparency logs, for any log that
// speaks C2SP tlog-witness. See keytrail-witness -h.
package main

import (
	"os"

	"github.com/keytrail/keytrail/cmd/internal/cli"
)

func main() { os.Exit(cli.Main(command())) }
