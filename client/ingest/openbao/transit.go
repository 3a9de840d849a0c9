package openbao

import (
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	keytrailv1 "github.com/keytrail/keytrail/proto/keytrail/v1"
)

// transitEngine is where keys live. Names of keys have no slash, so a path has a key only
// in the places below; a key may be called "rotate".
func transitEngine() engine {
	return engine{
		name: "transit",
		routes: []route{
			{verbs: "w", pattern: "keys/:key", op: keytrailv1.Operation_OPERATION_KEY_GENERATE, refine: refineGenerate},
			{verbs: "r", pattern: "keys/:key", op: keytrailv1.Operation_OPERATION_META_READ, refine: refineRead},
			{verbs: "d", pattern: "keys/:key", op: keytrailv1.Operation_OPERATION_KEY_DESTROY},
			{verbs: "lr", pattern: "keys", op: keytrailv1.Operation_OPERATION_META_LIST},
			{verbs: "w", pattern: "keys/:key/config", refine: refineConfig},
			{verbs: "w", pattern: "keys/:key/rotate", op: keytrailv1.Operation_OPERATION_KEY_ROTATE, refine: refineRotate},
			{verbs: "w", pattern: "keys/:key/trim", op: keytrailv1.Operation_OPERATION_KEY_DESTROY, refine: refineTrim},
			{verbs: "w", pattern: "keys/:key/import|import_version", op: keytrailv1.Operation_OPERATION_KEY_IMPORT, refine: refineImport},
			{verbs: "d", pattern: "keys/:key/soft-delete", op: keytrailv1.Operation_OPERATION_KEY_DESTROY_SCHEDULE},
			{verbs: "w", pattern: "keys/:key/soft-delete-restore", op: keytrailv1.Operation_OPERATION_KEY_DESTROY_CANCEL},
			{verbs: "w", pattern: "keys/:key/csr", op: keytrailv1.Operation_OPERATION_USE_SIGN},
			{verbs: "w", pattern: "keys/:key/set-certificate", op: keytrailv1.Operation_OPERATION_META_UPDATE},
			{verbs: "w", pattern: "encrypt/:key", op: keytrailv1.Operation_OPERATION_USE_ENCRYPT, refine: refineEncrypt},
			{verbs: "w", pattern: "decrypt/:key", op: keytrailv1.Operation_OPERATION_USE_DECRYPT},
			{verbs: "w", pattern: "rewrap/:key", op: keytrailv1.Operation_OPERATION_USE_REENCRYPT, refine: refineUsed},
			{verbs: "w", pattern: "datakey/:type/:key", op: keytrailv1.Operation_OPERATION_USE_DATAKEY, refine: refineUsed},
			{verbs: "w", pattern: "sign/:key", op: keytrailv1.Operation_OPERATION_USE_SIGN, refine: refineUsed},
			{verbs: "w", pattern: "sign/:key/:hash", op: keytrailv1.Operation_OPERATION_USE_SIGN, refine: refineUsed},
			{verbs: "w", pattern: "verify/:key", op: keytrailv1.Operation_OPERATION_USE_VERIFY, refine: refineVerify},
			{verbs: "w", pattern: "verify/:key/:hash", op: keytrailv1.Operation_OPERATION_USE_VERIFY, refine: refineVerify},
			{verbs: "w", pattern: "hmac/:key", op: keytrailv1.Operation_OPERATION_USE_MAC},
			{verbs: "w", pattern: "hmac/:key/:hash", op: keytrailv1.Operation_OPERATION_USE_MAC},
			{verbs: "r", pattern: "export/:type/:key", op: keytrailv1.Operation_OPERATION_KEY_EXPORT, refine: refineExport},
			{verbs: "r", pattern: "export/:type/:key/:version", op: keytrailv1.Operation_OPERATION_KEY_EXPORT, refine: refineExport},
			{verbs: "r", pattern: "byok-export/:wrap/:key", op: keytrailv1.Operation_OPERATION_KEY_EXPORT, refine: refineExport},
			{verbs: "r", pattern: "byok-export/:wrap/:key/:version", op: keytrailv1.Operation_OPERATION_KEY_EXPORT, refine: refineExport},
			{verbs: "r", pattern: "backup/:key", op: keytrailv1.Operation_OPERATION_KEY_BACKUP},
			{verbs: "w", pattern: "restore/:key", op: keytrailv1.Operation_OPERATION_KEY_RESTORE},
			{verbs: "w", pattern: "restore", op: keytrailv1.Operation_OPERATION_KEY_RESTORE, refine: refineRestore},
			{verbs: "r", pattern: "wrapping_key", op: keytrailv1.Operation_OPERATION_KEY_IMPORT_PREPARE},
			{verbs: "w", pattern: "random", op: keytrailv1.Operation_OPERATION_USE_RANDOM},
			{verbs: "w", pattern: "random/*", op: keytrailv1.Operation_OPERATION_USE_RANDOM},
			{verbs: "w", pattern: "hash", op: keytrailv1.Operation_OPERATION_USE_HASH},
			{verbs: "w", pattern: "hash/:hash", op: keytrailv1.Operation_OPERATION_USE_HASH},
			{verbs: "w", pattern: "config/keys", op: keytrailv1.Operation_OPERATION_META_UPDATE},
			{verbs: "r", pattern: "config/keys", op: keytrailv1.Operation_OPERATION_META_READ},
			{verbs: "w", pattern: "cache-config", op: keytrailv1.Operation_OPERATION_META_UPDATE},
			{verbs: "r", pattern: "cache-config", op: keytrailv1.Operation_OPERATION_META_READ},
		},
		read:  keytrailv1.Operation_OPERATION_OTHER,
		list:  keytrailv1.Operation_OPERATION_OTHER,
		other: keytrailv1.Operation_OPERATION_OTHER,
	}
}

// refineGenerate: the server answers a creation and the "creation" of a key that exists
// in the same way.
func refineGenerate(c *call) {
	c.origin = keytrailv1.KeyOrigin_KEY_ORIGIN_GENERATED
	if !c.succeeded() {
		return
	}
	if c.noEffect = c.existedBefore(); c.noEffect {
		c.origin = keytrailv1.KeyOrigin_KEY_ORIGIN_UNSPECIFIED
		return
	}
	c.setLatestVersion()
}

// existedBefore says whether the answer to a creation proves that the key was there
// already. Each of these is proof by itself; without any the call counts as a creation.
func (c *call) existedBefore() bool {
	asked, got := c.rec.Request.Data, c.rec.responseData()
	// Values that no creation can give.
	for name, most := range map[string]int64{
		"latest_version": 1, "min_decryption_version": 1, "min_encryption_version": 0, "min_available_version": 0,
	} {
		if n, ok := got.int(name); ok && n > most {
			return true
		}
	}
	if got.isTrue("deletion_allowed") || got.isTrue("soft_deleted") || got.isTrue("imported_key") ||
		got.has("backup_info") || got.has("restore_info") {
		return true
	}
	// Settings that must be asked for, and were not.
	for _, name := range []string{"exportable", "allow_plaintext_backup", "derived", "convergent_encryption"} {
		if got.isTrue(name) && (!asked.has(name) || asked.scalar(name) == "false") {
			return true
		}
	}
	if n, ok := got.int("auto_rotate_period"); ok && n > 0 && !asked.has("auto_rotate_period") {
		return true
	}
	// Another type than the one asked for; both are hashed, or neither.
	want, ok1 := asked.string("type")
	is, ok2 := got.string("type")
	if ok1 && ok2 && hashed(want) == hashed(is) && want != is {
		return true
	}
	if slices.ContainsFunc(c.rec.Response.Warnings, func(w string) bool { return strings.Contains(w, "already exist") }) {
		return true
	}
	return c.createdEarlier(got.object("keys"))
}

// createdEarlier says whether a version is older than any call that ends with this line
// can be. Symmetric versions have Unix seconds, the others an object with a time in it.
func (c *call) createdEarlier(versions fields) bool {
	for v := range versions {
		seconds, ok := versions.int(v)
		created := time.Unix(seconds, 0)
		if o := versions.object(v); !ok && o != nil {
			s, _ := o.string("creation_time")
			t, err := time.Parse(time.RFC3339Nano, s)
			created, ok = t, err == nil
		}
		if ok && c.rec.at.Sub(created) > maxCallDuration {
			return true
		}
	}
	return false
}

// setLatestVersion takes latest_version as the version made: true of create and rotate only.
func (c *call) setLatestVersion() {
	if n, ok := c.rec.responseData().int("latest_version"); ok && n > 0 {
		c.versions = []string{strconv.FormatInt(n, 10)}
	}
}

func refineRotate(c *call) {
	if c.succeeded() {
		c.setLatestVersion()
	}
}

func refineRead(c *call) {
	if c.rec.responseData().isTrue("imported_key") {
		c.origin = keytrailv1.KeyOrigin_KEY_ORIGIN_IMPORTED
	}
}

func refineImport(c *call) { c.origin = keytrailv1.KeyOrigin_KEY_ORIGIN_IMPORTED }

// refineEncrypt: an encryption that the server calls "create" made the key it needed.
func refineEncrypt(c *call) {
	refineUsed(c)
	if c.rec.Request.Operation == "create" && c.succeeded() {
		c.also = append(c.also, keytrailv1.Operation_OPERATION_KEY_GENERATE)
		c.origin = keytrailv1.KeyOrigin_KEY_ORIGIN_GENERATED
	}
}

// refineUsed takes the version from the answer, or those of a batch from its items.
func refineUsed(c *call) {
	got := c.rec.responseData()
	if n, ok := got.int("key_version"); ok && n > 0 {
		c.versions = []string{strconv.FormatInt(n, 10)}
		return
	}
	c.versions = c.batch.versions
}

// refineVerify: one path checks signatures and HMACs; the request's fields tell.
func refineVerify(c *call) {
	asked := c.rec.Request.Data
	items, _ := asked.objects("batch_input")
	if asked.has("hmac") || slices.ContainsFunc(items, func(item fields) bool { return item.has("hmac") }) {
		c.op = keytrailv1.Operation_OPERATION_USE_MAC_VERIFY
	}
}

// refineExport: the versions that left are the names in data.keys.
func refineExport(c *call) {
	if t := c.vars["type"]; t == "public-key" || t == "certificate-chain" {
		c.op = keytrailv1.Operation_OPERATION_KEY_READ_PUBLIC
	}
	if wrap := c.vars["wrap"]; wrap != "" {
		c.related = append(c.related, &keytrailv1.RelatedKey{
			Role: keytrailv1.RelatedKey_ROLE_WRAPPING,
			Ref:  c.ref(wrap),
		})
	}
	var versions []int64
	for v := range c.rec.responseData().object("keys") {
		if n, err := strconv.ParseInt(v, 10, 64); err == nil {
			versions = append(versions, n)
		}
	}
	if n, err := strconv.ParseInt(c.vars["version"], 10, 64); err == nil && len(versions) == 0 && n > 0 {
		versions = []int64{n}
	}
	c.versions = c.versionList(versions)
}

// refineRestore: without a name in the path the key is known only to the backup, unless
// the server says which one stood in the way.
func refineRestore(c *call) {
	if m := keyExists.FindStringSubmatch(c.rec.Error); m != nil {
		c.key = m[1]
	}
}

var keyExists = regexp.MustCompile(`key "([A-Za-z0-9_.-]+)" already exists`)

// refineTrim: the versions below min_available_version are gone for good. Those that an
// earlier trim took are among them: the log does not tell them apart.
func refineTrim(c *call) {
	if n, ok := c.rec.responseData().int("min_available_version"); ok && c.succeeded() {
		c.versions = c.versionList(between(1, n))
	}
}

// refineConfig: one path, and what it does depends on the settings in the request. A
// minimum above a version takes the version out of use. The answer holds the minima in
// force; where they leave no version out, the call only reset them.
func refineConfig(c *call) {
	asked, got := c.rec.Request.Data, c.rec.responseData()
	c.op = keytrailv1.Operation_OPERATION_META_UPDATE
	rotation := asked.has("auto_rotate_period")
	if asked.has("min_encryption_version") || asked.has("min_decryption_version") {
		c.op = keytrailv1.Operation_OPERATION_KEY_DEACTIVATE
		available, known := got.int("min_available_version")
		if c.succeeded() && known {
			encrypt, _ := got.int("min_encryption_version")
			decrypt, _ := got.int("min_decryption_version")
			c.versions = c.versionList(between(max(available, 1), max(encrypt, decrypt)))
			if len(c.versions) == 0 {
				c.op = keytrailv1.Operation_OPERATION_META_UPDATE
			}
		}
		if rotation && c.succeeded() {
			c.also = append(c.also, keytrailv1.Operation_OPERATION_KEY_ROTATION_CONFIG)
		}
		return
	}
	if rotation {
		c.op = keytrailv1.Operation_OPERATION_KEY_ROTATION_CONFIG
	}
}

// maxVersions is how many versions an event may name.
const maxVersions = 64

// between lists from (inclusive) to to (exclusive), at most the last maxVersions+1.
func between(from, to int64) []int64 {
	from = max(from, to-maxVersions-1)
	var list []int64
	for n := from; n < to; n++ {
		list = append(list, n)
	}
	return list
}

// versionList sorts versions and keeps the newest of too many, which it says.
func (c *call) versionList(numbers []int64) []string {
	slices.Sort(numbers)
	numbers = slices.Compact(numbers)
	if extra := len(numbers) - maxVersions; extra > 0 {
		numbers = numbers[extra:]
		c.attrs.add("versions_cut", "true")
	}
	var list []string
	for _, n := range numbers {
		list = append(list, strconv.FormatInt(n, 10))
	}
	return list
}
