package view

import "testing"

// FuzzToken: a token reads only in the one form in which it was made.
func FuzzToken(f *testing.F) {
	question := []byte("list")
	f.Add(token{next: 7, size: 100}.encode(question))
	f.Add(token{next: 0, size: 1}.encode(question))
	f.Add("AQAA")
	f.Fuzz(func(t *testing.T, s string) {
		tok, err := parseToken(s, question)
		if err != nil {
			return
		}
		if again := tok.encode(question); again != s {
			t.Errorf("%q reads as the token %q", s, again)
		}
		if _, err := parseToken(s, []byte("another")); err == nil {
			t.Error("token of another question was taken")
		}
	})
}
