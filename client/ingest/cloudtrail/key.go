package cloudtrail

import (
	"slices"
	"strconv"
	"strings"

	keytrailv1 "github.com/keytrail/keytrail/proto/keytrail/v1"
)

// arn is the name of a KMS key or alias: arn:PARTITION:kms:REGION:ACCOUNT:key/ID.
type arn struct {
	partition, region, account, kind, id string
}

func parseARN(s string) (arn, bool) {
	p := strings.SplitN(s, ":", 6)
	if len(p) != 6 || p[0] != "arn" || p[2] != "kms" {
		return arn{}, false
	}
	kind, id, ok := strings.Cut(p[5], "/")
	if !ok || id == "" || kind != "key" && kind != "alias" {
		return arn{}, false
	}
	return arn{partition: p[1], region: p[3], account: p[4], kind: kind, id: id}, true
}

func isKeyARN(s string) bool {
	a, ok := parseARN(s)
	return ok && a.kind == "key"
}

func isAlias(s string) bool {
	a, ok := parseARN(s)
	return strings.HasPrefix(s, "alias/") || ok && a.kind == "alias"
}

// names reports that what a caller wrote (key id or ARN) names the key of that ARN.
func names(given, ref string) bool {
	return given != "" && (given == ref || strings.HasSuffix(ref, ":key/"+given))
}

// resources are the key ARNs and the alias ARNs of the record's resources, in order. The
// type is not asked: older records lack it, and newer ones give AWS::KMS::Key to aliases
// too.
func resources(r record) (keys, aliases []string) {
	list, _ := r.object["resources"].([]any)
	for _, e := range list {
		s := first(str(e, "ARN"), str(e, "arn"))
		a, ok := parseARN(s)
		switch {
		case !ok:
		case a.kind == "key":
			keys = append(keys, s)
		case a.kind == "alias":
			aliases = append(aliases, s)
		}
	}
	return keys, aliases
}

// expand completes a bare key id or alias name to an ARN where the record leaves no doubt:
// KMS takes bare names for keys of the caller's own account in the region of the call
// only, so region, account and partition must be those of the caller, and the record must
// not have been written for another account. Otherwise the name stays as it is.
func expand(name string, r record) string {
	region, account := str(r.object, "awsRegion"), str(r.object, "userIdentity", "accountId")
	recipient := str(r.object, "recipientAccountId")
	caller := strings.SplitN(str(r.object, "userIdentity", "arn"), ":", 6)
	switch {
	case name == "" || strings.Contains(name, ":"):
		return name
	case region == "" || account == "" || len(caller) != 6 || caller[4] != account,
		recipient != "" && recipient != account:
		return name
	case strings.HasPrefix(name, "alias/"):
		return "arn:" + caller[1] + ":kms:" + region + ":" + account + ":" + name
	case strings.Contains(name, "/"):
		return name
	}
	return "arn:" + caller[1] + ":kms:" + region + ":" + account + ":key/" + name
}

// metadata is the description of a key that CreateKey answers with.
func metadata(r record) any { return get(r.object, "responseElements", "keyMetadata") }

// keyOrigin is the source's word for where the key's material comes from.
func keyOrigin(r record) string {
	return first(str(metadata(r), "origin"), str(r.object, "requestParameters", "origin"),
		str(r.object, "serviceEventDetails", "keyOrigin"))
}

// key fills in the key concerned and the related ones.
func (b *builder) key() {
	keys, aliases := resources(b.r)
	request := b.r.object["requestParameters"]
	ref, related := b.chooseKey(keys, aliases)
	if ref == "" {
		return
	}
	if len(ref) > maxRef || !isIdentifier(ref) {
		// Callers choose what they ask for: such a name is no reason to lose the event.
		if slices.Contains(keys, ref) {
			b.fail("the key's ARN is longer than %d bytes or holds control characters", maxRef)
		}
		return
	}
	k := &keytrailv1.Key{Ref: ref}
	b.ev.Key = k
	for _, given := range []string{str(request, "aliasName"), str(request, "keyId"), str(request, "destinationKeyId")} {
		if isAlias(given) && given != ref && len(given) <= maxRef && isIdentifier(given) {
			k.Alias = given
			break
		}
	}
	k.MaterialId = b.short(maxMaterialID, first(
		str(b.r.object, "additionalEventData", "keyMaterialId"),
		str(b.r.object, "additionalEventData", "destinationKeyMaterialId"),
		str(b.r.object, "responseElements", "keyMaterialId"),
		str(b.r.object, "serviceEventDetails", "keyMaterialId"),
		str(b.r.object, "serviceEventDetails", "currentKeyMaterialId"),
		str(request, "keyMaterialId"),
		str(metadata(b.r), "currentKeyMaterialId")))
	b.describe(k)
	b.keyTimes(k)
	b.ev.RelatedKeys = related
}

// chooseKey picks the key concerned. The record's resources come first: a Decrypt names
// its key nowhere else.
func (b *builder) chooseKey(keys, aliases []string) (ref string, related []*keytrailv1.RelatedKey) {
	request, response := b.r.object["requestParameters"], b.r.object["responseElements"]
	relate := func(role keytrailv1.RelatedKey_Role, ref string) {
		known := func(k *keytrailv1.RelatedKey) bool { return k.Role == role && k.Ref == ref }
		if ref != "" && len(ref) <= maxRef && isIdentifier(ref) && len(related) < maxRelated &&
			!slices.ContainsFunc(related, known) {
			related = append(related, &keytrailv1.RelatedKey{Role: role, Ref: ref})
		}
	}
	if b.ev.Operation == keytrailv1.Operation_OPERATION_USE_REENCRYPT {
		source, destination := reEncryptKeys(keys, request)
		relate(keytrailv1.RelatedKey_ROLE_SOURCE, expand(source, b.r))
		return expand(destination, b.r), related
	}
	for _, s := range keys {
		if ref == "" {
			ref = s
		} else if s != ref {
			relate(keytrailv1.RelatedKey_ROLE_UNSPECIFIED, s)
		}
	}
	given := first(str(request, "targetKeyId"), str(request, "keyId"), str(b.r.object, "serviceEventDetails", "keyId"))
	for _, s := range []string{str(response, "keyId"), str(metadata(b.r), "arn"), given} {
		if ref == "" && isKeyARN(s) {
			ref = s
		}
	}
	if ref == "" {
		ref = expand(first(given, str(response, "keyId"), str(metadata(b.r), "keyId")), b.r)
	}
	if ref == "" && len(aliases) > 0 {
		ref = aliases[0]
	}
	if ref == "" {
		ref = expand(str(request, "aliasName"), b.r)
	}
	relate(keytrailv1.RelatedKey_ROLE_REPLICA, str(response, "replicaKeyMetadata", "arn"))
	if config := get(metadata(b.r), "multiRegionConfiguration"); str(config, "multiRegionKeyType") == "REPLICA" {
		relate(keytrailv1.RelatedKey_ROLE_SOURCE, str(config, "primaryKey", "arn"))
	}
	return ref, related
}

// reEncryptKeys tells the two keys of a ReEncrypt apart. Its resources hold the source and
// then the destination; a record for the owner of one of them may hold that one only. When
// both are one key it stands there once or twice.
func reEncryptKeys(keys []string, request any) (source, destination string) {
	from, to := str(request, "sourceKeyId"), str(request, "destinationKeyId")
	for _, k := range keys {
		if names(from, k) {
			source = k
		}
		if names(to, k) {
			destination = k
		}
	}
	switch {
	case len(keys) >= 2 && source == "" && destination == "":
		source, destination = keys[0], keys[1]
	case len(keys) >= 2 && source == "":
		source = other(keys, destination)
	case len(keys) >= 2 && destination == "":
		destination = other(keys, source)
	}
	if destination == "" {
		destination = to
	}
	if source == "" {
		source = from
	}
	if len(keys) == 1 && isAlias(destination) && source != keys[0] {
		// The alias's key and the source may be this one or another: the record does not tell.
		destination = keys[0]
	}
	if destination == "" && len(keys) > 0 {
		destination = keys[0]
	}
	return source, destination
}

func other(keys []string, not string) string {
	if keys[0] != not {
		return keys[0]
	}
	return keys[1]
}

// describe fills in what the record says of the key itself.
func (b *builder) describe(k *keytrailv1.Key) {
	request, response, meta := b.r.object["requestParameters"], b.r.object["responseElements"], metadata(b.r)
	spec := first(str(meta, "keySpec"), str(meta, "customerMasterKeySpec"))
	if spec == "" && str(b.r.object, "eventName") == "CreateKey" {
		spec = first(str(request, "keySpec"), str(request, "customerMasterKeySpec"))
	}
	k.Size = specSize(spec)
	k.Algorithm = b.short(64, first(spec, str(request, "encryptionAlgorithm"), str(request, "destinationEncryptionAlgorithm"),
		str(request, "signingAlgorithm"), str(request, "macAlgorithm"), str(request, "keyAgreementAlgorithm")))
	k.Purpose = b.short(128, first(str(meta, "keyUsage"), str(request, "keyUsage")))
	k.StateAfter = b.short(64, first(str(response, "keyState"), str(meta, "keyState")))
	switch keyOrigin(b.r) {
	case "AWS_KMS":
		k.Origin = keytrailv1.KeyOrigin_KEY_ORIGIN_GENERATED
	case "AWS_CLOUDHSM":
		k.Origin = keytrailv1.KeyOrigin_KEY_ORIGIN_GENERATED
		k.ProtectionLevel = keytrailv1.ProtectionLevel_PROTECTION_LEVEL_HSM
	case "EXTERNAL":
		k.Origin = keytrailv1.KeyOrigin_KEY_ORIGIN_IMPORTED
	case "EXTERNAL_KEY_STORE":
		k.Origin = keytrailv1.KeyOrigin_KEY_ORIGIN_EXTERNAL
		k.ProtectionLevel = keytrailv1.ProtectionLevel_PROTECTION_LEVEL_EXTERNAL
	}
}

// specSize is the size that the name of a key spec tells, in bits; 0 if it tells none.
func specSize(spec string) uint32 {
	for _, prefix := range []string{"RSA_", "HMAC_", "ECC_NIST_P"} {
		if digits, ok := strings.CutPrefix(spec, prefix); ok {
			// Not a number: the spec tells no size.
			n, _ := strconv.ParseUint(digits, 10, 16)
			return uint32(n)
		}
	}
	return 0
}
