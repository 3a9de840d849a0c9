package event

import (
	"fmt"
	"strings"

	keytrailv1 "github.com/keytrail/keytrail/proto/keytrail/v1"
)

// names is a vocabulary in its short form; built once, never changed.
type names struct {
	short map[int32]string
	value map[string]int32
}

// The names are derived from the generated tables, so that the .proto file stays the one
// place where an operation is named.
var (
	operationNames = newNames(keytrailv1.Operation_name, "OPERATION_", ".")
	outcomeNames   = newNames(keytrailv1.Outcome_name, "OUTCOME_", "_")
)

// newNames shortens PREFIX_KEY_DESTROY to "key" + sep + "destroy". Both forms are values.
func newNames(enum map[int32]string, prefix, sep string) names {
	n := names{make(map[int32]string, len(enum)), make(map[string]int32, 2*len(enum))}
	for v, full := range enum {
		short := strings.ToLower(strings.TrimPrefix(full, prefix))
		short = strings.Replace(short, "_", sep, 1)
		n.short[v] = short
		n.value[short], n.value[full] = v, v
	}
	return n
}

func (n names) known(v int32) bool {
	_, ok := n.short[v]
	return ok && v != 0
}

// OperationName is the short name of an operation, as "key.destroy_schedule"; "other",
// "unspecified", and for numbers outside the vocabulary "operation(999)".
func OperationName(op keytrailv1.Operation) string {
	if s, ok := operationNames.short[int32(op)]; ok {
		return s
	}
	return fmt.Sprintf("operation(%d)", int32(op))
}

// ParseOperation reads the short name of an operation or the name of its enum value
// ("OPERATION_KEY_DESTROY_SCHEDULE"). "unspecified" is no operation.
func ParseOperation(name string) (keytrailv1.Operation, error) {
	v, ok := operationNames.value[name]
	if !ok || v == 0 {
		return 0, fmt.Errorf("unknown operation %q", name)
	}
	return keytrailv1.Operation(v), nil
}

// Class is the part of an operation's short name before the dot: "key", "use", "access",
// "meta", "store", "log", "ceremony"; "" for the operations without one.
func Class(op keytrailv1.Operation) string {
	class, _, ok := strings.Cut(operationNames.short[int32(op)], ".")
	if !ok {
		return ""
	}
	return class
}

// OutcomeName is the short name of an outcome, as "success"; "unspecified", and for
// numbers outside the vocabulary "outcome(9)".
func OutcomeName(o keytrailv1.Outcome) string {
	if s, ok := outcomeNames.short[int32(o)]; ok {
		return s
	}
	return fmt.Sprintf("outcome(%d)", int32(o))
}

// ParseOutcome reads the short name of an outcome or the name of its enum value
// ("OUTCOME_SUCCESS"). "unspecified" is no outcome.
func ParseOutcome(name string) (keytrailv1.Outcome, error) {
	v, ok := outcomeNames.value[name]
	if !ok || v == 0 {
		return 0, fmt.Errorf("unknown outcome %q", name)
	}
	return keytrailv1.Outcome(v), nil
}
