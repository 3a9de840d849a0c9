package view_test

import (
	"context"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"sync"
	"syscall"
	"testing"
	"time"

	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/keytrail/keytrail/log/view"
	keytrailv1 "github.com/keytrail/keytrail/proto/keytrail/v1"
)

// benchLog is a log of a million entries as a busy KMS writes it: 100 tenants, 100,000 keys
// of which some are used much more than others, 5,000 actors.
var benchLog = sync.OnceValue(func() *fakeLog {
	const size = 1_000_000
	rng := rand.New(rand.NewPCG(1, 1))
	keys := rand.NewZipf(rng, 1.1, 10, 99_999)
	l := newFakeLog()
	for i := range size {
		ev := randomEvent(rng, i)
		ev.Time = timestamppb.New(epoch.Add(time.Duration(i) * 10 * time.Millisecond))
		key := keys.Uint64()
		ev.Tenant = fmt.Sprintf("tenant-%d", key%100)
		ev.Key = &keytrailv1.Key{Ref: fmt.Sprintf("arn:aws:kms:eu-central-1:111122223333:key/%08d", key)}
		ev.Actor = &keytrailv1.Actor{Id: fmt.Sprintf("arn:aws:iam::111122223333:role/app-%d", rng.IntN(5000))}
		addDetails(rng, ev)
		l.add(failer{}, ev)
	}
	l.publish(0)
	return l
})

// addDetails gives an event what a KMS tells beside what a view looks at, so that it has the
// size of a real one.
func addDetails(rng *rand.Rand, ev *keytrailv1.KeyEvent) {
	ev.Source = &keytrailv1.Source{System: "aws.kms", Account: "111122223333", Region: "eu-central-1", Adapter: "cloudtrail"}
	ev.SourceOperation = "GenerateDataKeyWithoutPlaintext"
	ev.Key.Version, ev.Key.Algorithm = "1", "SYMMETRIC_DEFAULT"
	ev.Actor.Type, ev.Actor.AuthMethod = keytrailv1.Actor_TYPE_USER, "AssumedRole"
	ev.RequestId = fmt.Sprintf("%016x-%016x", rng.Uint64(), rng.Uint64())
	ev.UserAgent = "aws-sdk-go-v2/1.30.3 os/linux lang/go#1.22.5 md/GOOS#linux md/GOARCH#amd64 api/kms#1.35.3"
	for _, name := range []string{"arn", "bucket", "purpose"} {
		ev.Context = append(ev.Context, &keytrailv1.Context{
			Name: name, Content: &keytrailv1.Context_Value{Value: fmt.Sprintf("arn:aws:s3:::objects-%d", rng.IntN(1000))},
		})
	}
}

// failer reports an error of setting up by panicking.
type failer struct{ testing.TB }

func (failer) Helper()           {}
func (failer) Fatal(args ...any) { panic(fmt.Sprint(args...)) }

// cheapRoot leaves the fake's slow root out of the measurement.
type cheapRoot struct{ *fakeLog }

func (cheapRoot) RootAt(_ context.Context, size uint64) ([32]byte, error) {
	return [32]byte{byte(size)}, nil
}

func BenchmarkBuild(b *testing.B) {
	if testing.Short() {
		b.Skip("builds a view of a million entries")
	}
	l := benchLog()
	b.ReportAllocs()
	began := processorTime(b)
	for b.Loop() {
		dir := b.TempDir()
		v := follow(b, cheapRoot{l}, dir, view.Options{})
		v.stop()
		b.ReportMetric(float64(diskUsage(b, dir))/float64(l.size()), "disk-B/entry")
	}
	entries := float64(l.size()) * float64(b.N)
	b.ReportMetric(entries/b.Elapsed().Seconds(), "entries/s")
	b.ReportMetric(float64(processorTime(b)-began)/entries, "cpu-ns/entry")
}

// processorTime is that of the whole process until now.
func processorTime(b *testing.B) time.Duration {
	var used syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &used); err != nil {
		b.Fatal(err)
	}
	return time.Duration(used.Utime.Nano() + used.Stime.Nano())
}

func diskUsage(b *testing.B, dir string) (size int64) {
	err := filepath.Walk(dir, func(_ string, fi os.FileInfo, err error) error {
		if err == nil && !fi.IsDir() {
			size += fi.Size()
		}
		return err
	})
	if err != nil {
		b.Fatal(err)
	}
	return size
}

func BenchmarkList(b *testing.B) {
	if testing.Short() {
		b.Skip("builds a view of a million entries")
	}
	v := follow(b, cheapRoot{benchLog()}, b.TempDir(), view.Options{})
	const ref = "arn:aws:kms:eu-central-1:111122223333:key/"
	at := func(i int) time.Time { return epoch.Add(time.Duration(i) * 10 * time.Millisecond) }
	denied := []keytrailv1.Outcome{keytrailv1.Outcome_OUTCOME_DENIED}
	destroyed := []keytrailv1.Operation{keytrailv1.Operation_OPERATION_KEY_DESTROY, keytrailv1.Operation_OPERATION_KEY_DESTROY_SCHEDULE}
	for _, q := range []struct {
		name string
		f    view.Filter
	}{
		{"newest", view.Filter{Descending: true}},
		{"tenant", view.Filter{Tenant: "tenant-7"}},
		{"busy-key", view.Filter{Tenant: "tenant-3", KeyRef: ref + "00000003"}},
		{"rare-key", view.Filter{Tenant: "tenant-77", KeyRef: ref + "00099977"}},
		{"key-of-any-tenant", view.Filter{KeyRef: ref + "00000003"}},
		{"actor", view.Filter{Actor: "arn:aws:iam::111122223333:role/app-17"}},
		{"denied-destruction", view.Filter{Tenant: "tenant-7", Operations: destroyed, Outcomes: denied, Descending: true}},
		{"minute", view.Filter{From: at(700_000), To: at(700_100)}},
		{"nothing", view.Filter{Tenant: "tenant-7", Actor: "nobody"}},
	} {
		b.Run(q.name, func(b *testing.B) {
			for b.Loop() {
				if _, err := v.List(b.Context(), q.f, 100, ""); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
	b.Run("history", func(b *testing.B) {
		for b.Loop() {
			if _, err := v.History(b.Context(), "tenant-3", ref+"00000003", 100, ""); err != nil {
				b.Fatal(err)
			}
		}
	})
}
