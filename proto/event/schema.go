package event

import (
	"math"

	keytrailv1 "github.com/keytrail/keytrail/proto/keytrail/v1"
)

// kind is how the value of a field is written, and what it may be.
type kind uint8

const (
	unknown   kind = iota // the message has no field of this number
	number                // 1 to the limit
	numeral               // 0 to the limit, and there even when it is 0
	operation             // an operation that has a name

	// From here on a length stands before the value.
	word       // a string of the charset identifier, not empty
	free       // a string of the charset line, not empty
	prose      // a string of the charset text, not empty
	maybe      // a string of the charset line that is there even when it is empty
	system     // a string of a-z 0-9 . _ -, not empty
	digest     // 32 bytes
	blob       // bytes, at least one
	operations // packed operations
	instant    // google.protobuf.Timestamp, 1990 to the limit
	within     // a message
)

// wire is the wire type of a kind.
func (k kind) wire() uint {
	if k < word {
		return 0
	}
	return 2
}

// part is a part of an event that Scan takes note of.
type part uint8

const (
	nothing part = iota
	partEventID
	partTenant
	partSystem
	partAccount
	partRegion
	partKeyRef
	partActorID
	partActorDisplay
	partOperation
	partOutcome
	partTime    // of the event
	partPast    // any time that may not lie ahead of the log's clock
	partFirst   // of an aggregate
	partLast    // of an aggregate
	partCount   // of an aggregate
	partFailed  // of an aggregate
	partName    // of a pair
	partVersion // an element of key.versions
	partDigest  // of the raw record
	partContent // the raw record
)

// rule is what Scan knows of a field.
type rule struct {
	kind kind
	part part
	// list is how many elements the field may have; 0 when it is no list.
	list uint8
	// limit is the length in bytes, the greatest number or the latest time in seconds.
	limit uint64
	of    *message
}

// extra is a rule of a message that concerns several of its fields.
type extra uint8

const (
	none        extra = iota
	otherNamed        // OPERATION_OTHER comes with the source's name
	oneVersion        // not both version and versions
	eitherField       // one of fields 1 and 3, or of fields 1 and 2: see message.either
	oneContent        // not both fields 2 and 3
	inOrder           // what is counted in an aggregate, and its times
)

// message is what Scan knows of a message: fields by number, and a bit for each that is
// required.
type message struct {
	fields   []rule
	required uint64
	extra    extra
	either   uint64
}

const maxUint32 = math.MaxUint32

// The tables say once more, for encoded events, what Validate says: TestScanEdges and
// FuzzScan hold the two together.
var (
	eventTable = message{required: 1<<1 | 1<<2 | 1<<3 | 1<<4 | 1<<5 | 1<<7 | 1<<10, extra: otherNamed, fields: []rule{
		1:  {kind: number, limit: SchemaVersion},
		2:  {kind: word, limit: maxEventID, part: partEventID},
		3:  {kind: within, of: &sourceTable},
		4:  {kind: word, limit: maxTenant, part: partTenant},
		5:  {kind: instant, limit: maxProtobufUnix, part: partTime},
		6:  {kind: instant, limit: maxProtobufUnix, part: partPast},
		7:  {kind: operation, part: partOperation},
		8:  {kind: word, limit: 256},
		9:  {kind: operations},
		10: {kind: number, limit: uint64(keytrailv1.Outcome_OUTCOME_PENDING), part: partOutcome},
		11: {kind: number, limit: 1},
		12: {kind: within, of: &errorTable},
		13: {kind: within, of: &keyTable},
		14: {kind: within, of: &relatedKeyTable, list: maxRelatedKeys},
		15: {kind: within, of: &actorTable},
		16: {kind: within, of: &causeTable},
		17: {kind: word, limit: 128},
		18: {kind: word, limit: 128},
		19: {kind: word, limit: 128},
		20: {kind: word, limit: 256},
		21: {kind: word, limit: 256},
		22: {kind: word, limit: 256},
		23: {kind: free, limit: 1024},
		24: {kind: within, of: &tlsTable},
		25: {kind: within, of: &justificationTable},
		26: {kind: within, of: &approvalTable, list: maxApprovals},
		27: {kind: within, of: &contextTable, list: maxPairs},
		28: {kind: within, of: &aggregateTable},
		29: {kind: within, of: &sourceSequenceTable},
		30: {kind: within, of: &rawTable},
		31: {kind: within, of: &sourceSignatureTable},
		32: {kind: within, of: &attributeTable, list: maxPairs},
	}}
	sourceTable = message{required: 1 << 1, fields: []rule{
		1: {kind: system, limit: maxSystem, part: partSystem},
		2: {kind: word, limit: maxAccount, part: partAccount},
		3: {kind: word, limit: maxRegion, part: partRegion},
		4: {kind: word, limit: maxAdapter},
	}}
	errorTable = message{fields: []rule{
		1: {kind: word, limit: 256},
		2: {kind: prose, limit: 2048},
	}}
	keyTable = message{required: 1 << 1, extra: oneVersion, fields: []rule{
		1:  {kind: word, limit: maxRef, part: partKeyRef},
		2:  {kind: word, limit: maxVersion},
		3:  {kind: word, limit: maxVersion, list: maxVersions, part: partVersion},
		4:  {kind: word, limit: maxMaterialID},
		5:  {kind: word, limit: maxRef},
		6:  {kind: word, limit: 64},
		7:  {kind: number, limit: maxUint32},
		8:  {kind: word, limit: 128},
		9:  {kind: number, limit: uint64(keytrailv1.ProtectionLevel_PROTECTION_LEVEL_EXTERNAL)},
		10: {kind: number, limit: uint64(keytrailv1.KeyOrigin_KEY_ORIGIN_DERIVED)},
		11: {kind: word, limit: 64},
		12: {kind: word, limit: 64},
		13: {kind: instant, limit: maxProtobufUnix},
		14: {kind: instant, limit: maxPlannedUnix},
	}}
	relatedKeyTable = message{required: 1 << 2, fields: []rule{
		1: {kind: number, limit: uint64(keytrailv1.RelatedKey_ROLE_REPLICA)},
		2: {kind: word, limit: maxRef},
		3: {kind: word, limit: maxVersion},
	}}
	actorTable = message{extra: eitherField, either: 1<<1 | 1<<3, fields: []rule{
		1: {kind: word, limit: 512, part: partActorID},
		2: {kind: number, limit: uint64(keytrailv1.Actor_TYPE_PROVIDER)},
		3: {kind: free, limit: 256, part: partActorDisplay},
		4: {kind: word, limit: 128},
		5: {kind: numeral, limit: 1},
		6: {kind: word, limit: 256},
		7: {kind: word, limit: 256},
		8: {kind: word, limit: 512, list: maxDelegation},
	}}
	causeTable = message{extra: eitherField, either: 1<<1 | 1<<2, fields: []rule{
		1: {kind: word, limit: maxEventID},
		2: {kind: word, limit: maxRule},
	}}
	tlsTable = message{fields: []rule{
		1: {kind: word, limit: 64},
		2: {kind: word, limit: 64},
	}}
	justificationTable = message{fields: []rule{
		1: {kind: word, limit: 128},
		2: {kind: prose, limit: 2048},
		3: {kind: word, limit: 256},
	}}
	approvalTable = message{required: 1 << 1, fields: []rule{
		1: {kind: word, limit: 512},
		2: {kind: instant, limit: maxProtobufUnix, part: partPast},
		3: {kind: word, limit: 256},
	}}
	contextTable = message{required: 1 << 1, extra: oneContent, fields: []rule{
		1: {kind: word, limit: 256, part: partName},
		2: {kind: maybe, limit: 1024},
		3: {kind: digest},
	}}
	aggregateTable = message{required: 1 << 1, extra: inOrder, fields: []rule{
		1: {kind: number, limit: math.MaxUint64, part: partCount},
		2: {kind: numeral, limit: math.MaxUint64, part: partFailed},
		3: {kind: instant, limit: maxProtobufUnix, part: partFirst},
		4: {kind: instant, limit: maxProtobufUnix, part: partLast},
	}}
	sourceSequenceTable = message{fields: []rule{
		1: {kind: number, limit: math.MaxUint64},
		2: {kind: number, limit: math.MaxUint64},
	}}
	rawTable = message{required: 1<<1 | 1<<2, fields: []rule{
		1: {kind: word, limit: 128},
		2: {kind: digest, part: partDigest},
		3: {kind: blob, limit: MaxSize, part: partContent},
	}}
	sourceSignatureTable = message{required: 1 << 3, fields: []rule{
		1: {kind: word, limit: 64},
		2: {kind: word, limit: 256},
		3: {kind: blob, limit: maxSignature},
	}}
	attributeTable = message{required: 1 << 1, fields: []rule{
		1: {kind: word, limit: 128, part: partName},
		2: {kind: free, limit: 2048},
	}}
)

// knownOperations has true for each operation with a name, OPERATION_UNSPECIFIED left out.
var knownOperations = newKnown(keytrailv1.Operation_name)

func newKnown(enum map[int32]string) []bool {
	last := int32(0)
	for v := range enum {
		last = max(last, v)
	}
	known := make([]bool, last+1)
	for v := range enum {
		known[v] = v != 0
	}
	return known
}
