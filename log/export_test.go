package log

import "time"

// SetLeisure changes, before Run, how far apart checkpoints are that nobody waits for.
func SetLeisure(l *Log, d time.Duration) { l.pub.leisure = d }
