// Package interop tries keytrail with what others wrote: their verifiers read our log,
// their logs ask our witness, their witnesses cosign our checkpoints.
//
// It holds tests only and makes nothing durable outside the tests' directories. It is a
// module of its own because it links Tessera, torchwood and sunlight, which the product
// does not need. Its tests build the programs of both sides and run them as processes on
// loopback; none is skipped. They trust no code of ours to judge ours: where a proof of
// ours is accepted, the code that accepts it comes from elsewhere.
//
// What others do otherwise is written down where it is tested, with the specification's
// word on it. Three things shape the tests:
//
//   - torchwood v0.9.0 and sunlight v0.8.1 know Ed25519 only. A policy that they are to
//     read leaves out the ML-DSA-44 keys, which tlog-policy allows: any one key of a log
//     is enough.
//   - witnessctl, which enrols logs with litewitness, needs a module that the registry
//     does not serve (hence the exclude line in go.mod); the tests write litewitness's
//     database themselves.
//   - sunlight stores in SQLite through cgo: building it needs a C compiler.
package interop
