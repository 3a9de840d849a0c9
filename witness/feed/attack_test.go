package feed_test

import (
	"bytes"
	"errors"
	"net/http"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/keytrail/keytrail/proto/checkpoint"
	"github.com/keytrail/keytrail/proto/consistency"
	"github.com/keytrail/keytrail/witness/feed"
)

// forge has a fake answer with what a test makes of the checkpoint.
func (f *fake) forge(make func(cp checkpoint.Checkpoint) []byte) {
	f.set(func(f *fake) {
		f.answer = func(_ int, rw http.ResponseWriter, _ *http.Request, u *consistency.Bundle) bool {
			_, _ = rw.Write(make(mustParse(u)))
			return true
		}
	})
}

// wantUseless has the third witness of a trio answer size 9, after an honest answer to size
// 5, as a test says. Nothing of it may count, neither beside the others nor for the quorum.
func wantUseless(t *testing.T, problem string, answer func(s *trio, cp checkpoint.Checkpoint) []byte) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		s := newTrio(t, 2)
		f := open(t, s.conf)
		s.cosign(t, f, 5, 6)
		time.Sleep(48 * time.Hour)
		s.w[2].forge(func(cp checkpoint.Checkpoint) []byte { return answer(s, cp) })
		s.cosign(t, f, 9, 4)
		synctest.Wait()
		if st := f.Status()[2]; !strings.Contains(st.Problem, problem) || st.Conflict || st.Size != 5 {
			t.Errorf("its state is %+v, want %q", st, problem)
		}
		time.Sleep(time.Second)
		s.w[1].always(500, "", "")
		wantNoQuorum(t, f, s.log, 10)
		if n := s.w[2].count(); n != 3 {
			t.Errorf("%d requests, want 3", n)
		}
	})
}

// TestAttackOtherOrigin answers with cosignatures of another log's checkpoint that states the
// same tree.
func TestAttackOtherOrigin(t *testing.T) {
	wantUseless(t, "false line of w3", func(s *trio, cp checkpoint.Checkpoint) []byte {
		cp.Origin = "log.test/other"
		return lines(cp, time.Now(), s.w[2].keys...)
	})
}

// TestAttackStaleCheckpoint answers with the cosignatures of an earlier checkpoint.
func TestAttackStaleCheckpoint(t *testing.T) {
	wantUseless(t, "false line of w3", func(s *trio, _ checkpoint.Checkpoint) []byte {
		return lines(s.log.at(5), time.Now(), s.w[2].keys...)
	})
}

// TestAttackWholeNote answers with the whole cosigned checkpoint instead of lines.
func TestAttackWholeNote(t *testing.T) {
	wantUseless(t, "without signature lines", func(s *trio, cp checkpoint.Checkpoint) []byte {
		return append(append(cp.Text(), '\n'), lines(cp, time.Now(), s.w[2].keys...)...)
	})
}

// TestAttackReplay answers with cosignatures of the right checkpoint of another time, as
// whoever keeps old answers can.
func TestAttackReplay(t *testing.T) {
	for name, off := range map[string]time.Duration{"old": -25 * time.Hour, "from the future": 25 * time.Hour} {
		t.Run(name, func(t *testing.T) {
			wantUseless(t, "25h0m0s off this machine's clock", func(s *trio, cp checkpoint.Checkpoint) []byte {
				return lines(cp, time.Now().Add(off), s.w[2].keys...)
			})
		})
	}
	t.Run("without a time", func(t *testing.T) {
		wantUseless(t, "of the time 0", func(s *trio, cp checkpoint.Checkpoint) []byte {
			var b []byte
			for _, k := range s.w[2].keys {
				sig, err := k.Sign(cp, 0)
				if err != nil {
					panic(err)
				}
				b = sig.Append(b)
			}
			return b
		})
	})
	t.Run("at the end of time", func(t *testing.T) {
		wantUseless(t, "off this machine's clock", func(s *trio, cp checkpoint.Checkpoint) []byte {
			sig, err := s.w[2].keys[1].Sign(cp, 1<<63-1)
			if err != nil {
				panic(err)
			}
			return sig.Append(nil)
		})
	})
}

// TestAttackForgedLine answers with a line under a trusted name and key id that the key has
// not made, alone and beside good ones.
func TestAttackForgedLine(t *testing.T) {
	forged := func(s *trio, cp checkpoint.Checkpoint) []byte {
		sig, err := s.w[2].keys[0].Cosign(cp, uint64(time.Now().Unix()))
		if err != nil {
			panic(err)
		}
		sig.Sig[len(sig.Sig)-1] ^= 1
		return sig.Append(nil)
	}
	for name, answer := range map[string]func(s *trio, cp checkpoint.Checkpoint) []byte{
		"alone": forged,
		"before good ones": func(s *trio, cp checkpoint.Checkpoint) []byte {
			return append(forged(s, cp), lines(cp, time.Now(), s.w[2].keys...)...)
		},
		"after good ones": func(s *trio, cp checkpoint.Checkpoint) []byte {
			return append(lines(cp, time.Now(), s.w[2].keys...), forged(s, cp)...)
		},
	} {
		t.Run(name, func(t *testing.T) { wantUseless(t, "false line of w3", answer) })
	}
}

// TestAttackOneKeyForTwo has a witness answer with good lines of another one's keys, so that
// one cosigner would count as two.
func TestAttackOneKeyForTwo(t *testing.T) {
	wantUseless(t, "none of a key that the policy has for it", func(s *trio, cp checkpoint.Checkpoint) []byte {
		return lines(cp, time.Now(), s.w[0].keys...)
	})
}

// TestAttackSameNameOtherKey has a stranger's key bear the witness's name.
func TestAttackSameNameOtherKey(t *testing.T) {
	stranger, err := checkpoint.NewSignerKey("w3.test", checkpoint.TypeMLDSA44, make([]byte, 32))
	if err != nil {
		t.Fatal(err)
	}
	wantUseless(t, "none of a key that the policy has for it", func(_ *trio, cp checkpoint.Checkpoint) []byte {
		return lines(cp, time.Now(), stranger)
	})
}

// TestAttackManyLines answers with more lines than a note may have, good ones among them.
func TestAttackManyLines(t *testing.T) {
	wantUseless(t, "without signature lines: checkpoint: more than 100", func(s *trio, cp checkpoint.Checkpoint) []byte {
		return bytes.Repeat(lines(cp, time.Now(), s.w[2].keys[0]), 101)
	})
}

// TestRepeatedAndUnknownLines has an answer with lines of strangers and with every line
// twice: each key counts once, and strangers not at all.
func TestRepeatedAndUnknownLines(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newTrio(t, 2)
		f := open(t, s.conf)
		s.w[2].forge(func(cp checkpoint.Checkpoint) []byte {
			all := slices.Concat(s.w[0].keys, s.w[2].keys, s.w[2].keys)
			return lines(cp, time.Now(), all...)
		})
		s.cosign(t, f, 5, 6)
		s.w[0].always(429, "3600", "")
		s.cosign(t, f, 6, 4)
		if st := f.Status()[2]; st.Problem != "" || st.Size != 6 {
			t.Errorf("its state is %+v", st)
		}
	})
}

// TestClockOff accepts times that are off by less than a day.
func TestClockOff(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newTrio(t, 3)
		f := open(t, s.conf)
		for i, off := range []time.Duration{-23 * time.Hour, 0, 23 * time.Hour} {
			s.w[i].forge(func(cp checkpoint.Checkpoint) []byte { return lines(cp, time.Now().Add(off), s.w[i].keys...) })
		}
		s.cosign(t, f, 5, 6)
	})
}

// TestClockJumps has the clocks of log and witnesses a year apart, one way and the other:
// there is no quorum while they are, and half a minute after they agree again there is one.
func TestClockJumps(t *testing.T) {
	for _, years := range []int{-1, 1} {
		synctest.Test(t, func(t *testing.T) {
			s := newTrio(t, 2)
			f := open(t, s.conf)
			for i := range s.w {
				s.w[i].forge(func(cp checkpoint.Checkpoint) []byte {
					return lines(cp, time.Now().AddDate(years, 0, 0), s.w[i].keys...)
				})
			}
			size := uint64(5)
			for end := time.Now().Add(time.Hour); time.Now().Before(end); size++ {
				e := wantNoQuorum(t, f, s.log, size)
				if wait := time.Until(e.RetryAt); wait > 30*time.Second {
					t.Fatalf("it is tried again in %v", wait)
				}
				time.Sleep(time.Until(e.RetryAt) + time.Millisecond)
			}
			for i := range s.w {
				s.w[i].mend()
			}
			time.Sleep(30 * time.Second)
			s.cosign(t, f, size, 6)
		})
	}
}

// TestOneFaultyWitnessStopsNothing has a witness claim a larger tree without proof. Start
// reports the claim, which is for people to judge; Cosign goes on without the witness.
func TestOneFaultyWitnessStopsNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newTrio(t, 2)
		f := open(t, s.conf)
		liar := s.w[1]
		liar.monitor = newLog(t, "fork").at(5).Text() // unsigned
		liar.always(409, "", "1000000\n")
		err := s.start(t, f, 4)
		if e, ok := errors.AsType[*feed.AheadError](err); !ok || e.Note != nil {
			t.Errorf("the start ends with %v", err)
		}
		for size := uint64(5); size < 10; size++ {
			s.cosign(t, f, size, 4)
		}
		if f.Proof() != nil {
			t.Errorf("the proof is %v", f.Proof())
		}
	})
}
