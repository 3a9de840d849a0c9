// Package storagetest tests storage engines: a conformance suite that each must pass
// (Test), batches as the log makes them (Builder), and a wrapper that lets operations
// fail (Faults) for the tests of those who use a store.
package storagetest
