package keychain

// FindingName is how Counts names a kind of finding, given as protobuf does.
var FindingName = findingName
