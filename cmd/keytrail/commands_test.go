package main

import (
	"bytes"
	"strings"
	"testing"
	"unicode"

	"github.com/spf13/cobra"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"

	keytrailv1 "github.com/keytrail/keytrail/proto/keytrail/v1"
	"github.com/keytrail/keytrail/proto/keytrail/v1/rpc"
)

// walk calls fn with every command of ours.
func walk(cmd *cobra.Command, fn func(*cobra.Command)) {
	fn(cmd)
	for _, c := range cmd.Commands() {
		walk(c, fn)
	}
}

func TestEveryCommandExplainsItself(t *testing.T) {
	n := 0
	walk(root(), func(c *cobra.Command) {
		n++
		if c.Short == "" || strings.HasSuffix(c.Short, ".") {
			t.Errorf("%s: short text %q", c.CommandPath(), c.Short)
		}
		if c.HasParent() && !c.Parent().HasParent() && c.GroupID == "" {
			t.Errorf("%s: belongs to no group", c.CommandPath())
		}
		if c.HasSubCommands() && c.HasParent() {
			return // its commands have the examples
		}
		if !strings.Contains(c.Example, c.CommandPath()) {
			t.Errorf("%s: the help has no example of it", c.CommandPath())
		}
		var help bytes.Buffer
		c.SetOut(&help)
		if err := c.Help(); err != nil {
			t.Errorf("%s: %v", c.CommandPath(), err)
		}
		if !strings.Contains(help.String(), "Examples:") {
			t.Errorf("%s: -h shows no example", c.CommandPath())
		}
	})
	if n < 15 {
		t.Errorf("only %d commands were seen", n)
	}
}

// Protobuf's JSON leaves out what is 0; whoever reads the output needs the index also of
// the first entry.
func TestJSONNamesIndexZero(t *testing.T) {
	at := timestamppb.New(timestamppb.Now().AsTime())
	for _, c := range []struct {
		m    proto.Message
		want string // beginning of the line
	}{
		{&rpc.Entry{}, `{"index":"0"}`},
		{&rpc.Entry{Producer: "p"}, `{"index":"0","producer":"p"}`},
		{&rpc.Entry{Index: 7}, `{"index":"7"}`},
		{&rpc.HistoryEvent{Entry: &rpc.Entry{LoggedAt: at}}, `{"entry":{"index":"0","logged_at":`},
		{&rpc.HistoryEvent{Entry: &rpc.Entry{Index: 7}}, `{"entry":{"index":"7"}}`},
		{&rpc.AppendResult{Result: &rpc.AppendResult_Ack{Ack: &rpc.Ack{KeySequence: 1}}}, `{"ack":{"index":"0","key_sequence":"1"}}`},
		{&rpc.AppendResult{Result: &rpc.AppendResult_Error{Error: &rpc.AppendError{Code: 3}}}, `{"error":{"code":3}}`},
		{&rpc.GetLogInfoResponse{}, `{"origin":"","verifier_keys":[],"policy":"","durable_size":"0"`},
	} {
		var b bytes.Buffer
		if err := printProto(&b, c.m); err != nil {
			t.Fatal(err)
		}
		if !strings.HasPrefix(b.String(), c.want) {
			t.Errorf("%T %v: %s", c.m, c.m, b.String())
		}
	}
}

func TestStrangersTextDoesNotSteerTheTerminal(t *testing.T) {
	ev := &keytrailv1.KeyEvent{
		Tenant: "a\x1b[2Jb", Key: &keytrailv1.Key{Ref: "k\u009b31m\u202egnp", Version: "1\n2"}, Actor: &keytrailv1.Actor{Id: "x\x07"},
	}
	var b bytes.Buffer
	if err := (&app{}).printEntry(nil, &b, &rpc.Entry{Body: &rpc.Entry_KeyEvent{KeyEvent: ev}}); err != nil {
		t.Fatal(err)
	}
	for _, r := range strings.TrimSuffix(b.String(), "\n") {
		if r != '\t' && !unicode.IsPrint(r) {
			t.Errorf("%q holds %q", b.String(), r)
		}
	}
}
