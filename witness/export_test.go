package witness

// VerifySubtree is verifySubtree, for tests.
var VerifySubtree = verifySubtree
