// Package arch holds the tests that keep the project in its shape: which way imports
// point, what the offline verifier may link, which names stand at the top, and that every
// package says what it is. It has no code of its own and nothing imports it.
//
// A failure names the file or package and the rule. When the rule is what is wrong, change
// it here, in the same commit as the code that needs it, and say why.
package arch
