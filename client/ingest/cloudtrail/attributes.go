package cloudtrail

import (
	"bytes"
	"cmp"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"maps"
	"slices"
	"strconv"
	"strings"

	keytrailv1 "github.com/keytrail/keytrail/proto/keytrail/v1"
)

// attributePaths are the members that become attributes, under their own names. It is a
// list of what is taken and not of what is left out, so that a plaintext, a ciphertext or
// a token has no way in, whatever its name. A path that ends in an object or a list takes
// all of it.
var attributePaths = []string{
	"eventType", "sharedEventID", "vpcEndpointId", "vpcEndpointAccountId",
	"sessionCredentialFromConsole", "addendum", "userIdentity.type", "userIdentity.principalId",
	"userIdentity.inScopeOf", "userIdentity.onBehalfOf.identityStoreArn",
	"tlsDetails.clientProvidedHostHeader", "tlsDetails.keyExchange",

	"requestParameters.pendingWindowInDays", "requestParameters.keyId", "requestParameters.targetKeyId",
	"requestParameters.sourceKeyId", "requestParameters.destinationKeyId", "requestParameters.aliasName",
	"requestParameters.keySpec", "requestParameters.customerMasterKeySpec",
	"requestParameters.origin", "requestParameters.multiRegion", "requestParameters.description",
	"requestParameters.bypassPolicyLockoutSafetyCheck", "requestParameters.policyName",
	"requestParameters.sourceEncryptionAlgorithm",
	"requestParameters.destinationEncryptionAlgorithm",
	"requestParameters.messageType",
	"requestParameters.numberOfBytes", "requestParameters.keyPairSpec", "requestParameters.wrappingAlgorithm",
	"requestParameters.wrappingKeySpec", "requestParameters.validTo", "requestParameters.expirationModel",
	"requestParameters.importType", "requestParameters.keyMaterialDescription", "requestParameters.keyMaterialId",
	"requestParameters.rotationPeriodInDays", "requestParameters.includeKeyMaterial", "requestParameters.replicaRegion", "requestParameters.primaryRegion",
	"requestParameters.grantId", "requestParameters.granteePrincipal", "requestParameters.retiringPrincipal",
	"requestParameters.operations", "requestParameters.name", "requestParameters.dryRun", "requestParameters.tagKeys",
	"requestParameters.customKeyStoreId", "requestParameters.customKeyStoreName", "requestParameters.customKeyStoreType",
	"requestParameters.newCustomKeyStoreName", "requestParameters.cloudHsmClusterId", "requestParameters.clusterId",
	"requestParameters.xksKeyId", "requestParameters.xksProxyUriEndpoint", "requestParameters.xksProxyUriPath",
	"requestParameters.xksProxyConnectivity", "requestParameters.xksProxyVpcEndpointServiceName",

	// CloudHSM and CloudTrail.
	"requestParameters.hsmId", "requestParameters.backupId", "requestParameters.sourceBackupId",
	"requestParameters.hsmType", "requestParameters.mode", "requestParameters.subnetIds",
	"requestParameters.destinationRegion", "requestParameters.availabilityZone", "requestParameters.resourceId",
	"requestParameters.backupRetentionPolicy", "requestParameters.neverExpires", "requestParameters.resourceArn",
	"requestParameters.trailName", "requestParameters.s3BucketName", "requestParameters.kmsKeyId",
	"requestParameters.isMultiRegionTrail", "requestParameters.isOrganizationTrail",
	"requestParameters.includeGlobalServiceEvents", "requestParameters.enableLogFileValidation",
	"requestParameters.cloudWatchLogsLogGroupArn", "requestParameters.eventSelectors",
	"requestParameters.advancedEventSelectors", "requestParameters.eventDataStore",
	"requestParameters.retentionPeriod", "requestParameters.terminationProtectionEnabled",
	"requestParameters.memberAccountId", "requestParameters.delegatedAdminAccountId",

	"responseElements.deletionDate", "responseElements.pendingWindowInDays", "responseElements.grantId",
	"responseElements.customKeyStoreId", "responseElements.trailARN",
	"responseElements.keyMetadata.keyManager", "responseElements.keyMetadata.multiRegion",
	"responseElements.keyMetadata.multiRegionConfiguration.multiRegionKeyType",
	"responseElements.keyMetadata.customKeyStoreId", "responseElements.keyMetadata.cloudHsmClusterId",
	"responseElements.keyMetadata.xksKeyConfiguration.id", "responseElements.keyMetadata.creationDate",
	"responseElements.replicaKeyMetadata.keyState",

	"additionalEventData.customKeyStoreId", "additionalEventData.customKeyStoreName", "additionalEventData.clusterId",
	"additionalEventData.xksKeyId", "additionalEventData.grantId", "additionalEventData.backingKey",
	"additionalEventData.backingKeys", "additionalEventData.backingKeysDeletionStatus",
	"additionalEventData.sourceKeyMaterialId", "additionalEventData.recipient",
	"serviceEventDetails",
}

// tree is attributePaths by names; a path ends where a tree has no branches.
type tree map[string]tree

// attributeTree is built once and never changed.
var attributeTree = newTree(attributePaths)

func newTree(paths []string) tree {
	root := tree{}
	for _, path := range paths {
		at := root
		for name := range strings.SplitSeq(path, ".") {
			if at[name] == nil {
				at[name] = tree{}
			}
			at = at[name]
		}
	}
	return root
}

// take sets the attributes of o that the tree names; prefix is the path of o.
func (b *builder) take(prefix string, o object, t tree) {
	for name, v := range o {
		branch, ok := t[name]
		switch inner, isObject := v.(object); {
		case !ok:
		case len(branch) == 0:
			b.flatten(prefix+name, v)
		case isObject:
			b.take(prefix+name+".", inner, branch)
		}
	}
}

const (
	maxPairs          = 64
	maxAttributeName  = 128
	maxAttributeValue = 2048
	maxContextName    = 256
	maxContextValue   = 1024
)

// attributes fills in further facts. When there are more than an event may hold, those
// that come first by name are kept, and one attribute says how many are not.
func (b *builder) attributes() {
	b.take("", b.r.object, attributeTree)
	request := b.r.object["requestParameters"]
	b.tags(request)
	b.policy(str(request, "policy"))
	if !b.opt.HashContext {
		b.flatten("requestParameters.constraints", get(request, "constraints"))
	}
	maps.DeleteFunc(b.attrs, b.told)
	names := slices.Sorted(maps.Keys(b.attrs))
	if len(names) > maxPairs {
		const more = "omitted"
		b.attrs[more] = strconv.Itoa(len(names) - maxPairs + 1)
		names = append(names[:maxPairs-1], more)
		slices.Sort(names)
	}
	for _, name := range names {
		b.ev.Attributes = append(b.ev.Attributes, &keytrailv1.Attribute{Name: name, Value: b.attrs[name]})
	}
}

// told reports an attribute that names a key which the event names already.
func (b *builder) told(name, value string) bool {
	k := b.ev.GetKey()
	switch name[strings.LastIndexByte(name, '.')+1:] {
	case "keyId", "targetKeyId", "sourceKeyId", "destinationKeyId":
		about := func(r *keytrailv1.RelatedKey) bool { return names(value, r.GetRef()) }
		return names(value, k.GetRef()) || value == k.GetAlias() || slices.ContainsFunc(b.ev.RelatedKeys, about)
	case "aliasName":
		return value == k.GetAlias()
	case "keyMaterialId", "currentKeyMaterialId":
		return value == k.GetMaterialId()
	}
	return false
}

func (b *builder) set(name, value string) {
	if value != "" && len(name) <= maxAttributeName && isIdentifier(name) {
		b.attrs[name] = cut(value, maxAttributeValue)
	}
}

// flatten sets one attribute for each scalar in v; a list of scalars is one, with commas.
// It stops when it has seen more values than an event has room for.
func (b *builder) flatten(name string, v any) {
	left := 2 * maxPairs
	b.flattenUpTo(&left, name, v)
}

func (b *builder) flattenUpTo(left *int, name string, v any) {
	if *left--; *left < 0 || len(name) > maxAttributeName {
		return
	}
	if s, ok := scalar(v); ok {
		b.set(name, s)
		return
	}
	switch v := v.(type) {
	case object:
		for _, k := range slices.Sorted(maps.Keys(v)) {
			b.flattenUpTo(left, name+"."+k, v[k])
		}
	case []any:
		var line []string
		for i, e := range v {
			if s, ok := scalar(e); ok {
				line = append(line, s)
			} else {
				b.flattenUpTo(left, name+"."+strconv.Itoa(i), e)
			}
		}
		b.set(name, strings.Join(line, ","))
	}
}

// tags sets one attribute a tag.
func (b *builder) tags(request any) {
	list, _ := get(request, "tags").([]any)
	for _, t := range list {
		if key := first(str(t, "tagKey"), str(t, "key")); key != "" {
			b.set("requestParameters.tags."+key, first(str(t, "tagValue"), str(t, "value")))
		}
	}
}

// policy sets a key policy without its white space, or its hash when it is too long: half
// a policy says something else than the whole.
func (b *builder) policy(policy string) {
	var compact bytes.Buffer
	if policy == "" {
		return
	}
	if err := json.Compact(&compact, []byte(policy)); err == nil && compact.Len() <= maxAttributeValue {
		b.set("requestParameters.policy", compact.String())
		return
	}
	b.set("requestParameters.policy.sha256", hexSHA256(policy))
}

func hexSHA256(s string) string {
	sum := sha256.Sum256([]byte(s))
	return hex.EncodeToString(sum[:])
}

// context fills in the encryption context. Of a ReEncrypt it is the destination's; the
// names of the source's have "sourceEncryptionContext." before them.
//
// Callers choose names and values. A value that does not fit, or all of them when the
// options say so, are hashed; a name that does not fit is "sha256:" and its hash.
func (b *builder) context() {
	request := b.r.object["requestParameters"]
	pairs := make(map[string]string)
	add := func(prefix string, v any) {
		o, _ := v.(object)
		for k, e := range o {
			if s, ok := scalar(e); ok {
				pairs[prefix+k] = s
			}
		}
	}
	add("", get(request, "encryptionContext"))
	add("", get(request, "destinationEncryptionContext"))
	add("sourceEncryptionContext.", get(request, "sourceEncryptionContext"))
	for name, value := range pairs {
		c := &keytrailv1.Context{Name: name}
		if name == "" || len(name) > maxContextName || !isIdentifier(name) {
			c.Name = "sha256:" + hexSHA256(name)
		}
		if b.opt.HashContext || len(value) > maxContextValue || clean(value) != value {
			sum := sha256.Sum256([]byte(value))
			c.Content = &keytrailv1.Context_Sha256{Sha256: sum[:]}
		} else {
			c.Content = &keytrailv1.Context_Value{Value: value}
		}
		b.ev.Context = append(b.ev.Context, c)
	}
	slices.SortFunc(b.ev.Context, func(x, y *keytrailv1.Context) int { return cmp.Compare(x.Name, y.Name) })
	if n := len(b.ev.Context) - maxPairs; n > 0 {
		b.ev.Context = b.ev.Context[:maxPairs]
		b.attrs["encryptionContext.omitted"] = strconv.Itoa(n)
	}
}
