package openbao

import (
	keytrailv1 "github.com/keytrail/keytrail/proto/keytrail/v1"
)

// pkiEngine makes and uses keys that the log does not name: key_id is hashed.
func pkiEngine() engine {
	return engine{
		name: "pki",
		routes: []route{
			{verbs: "w", pattern: "root|intermediate|keys|issuers/generate/*", op: keytrailv1.Operation_OPERATION_KEY_GENERATE, refine: refineGeneratedPKI},
			{verbs: "w", pattern: "root/rotate/:type", op: keytrailv1.Operation_OPERATION_KEY_GENERATE, refine: refineGeneratedPKI},
			{verbs: "w", pattern: "keys/import", op: keytrailv1.Operation_OPERATION_KEY_IMPORT, refine: refineImport},
			{verbs: "w", pattern: "config/ca", op: keytrailv1.Operation_OPERATION_KEY_IMPORT, refine: refineImport},
			{verbs: "w", pattern: "issuers/import/:type", op: keytrailv1.Operation_OPERATION_KEY_IMPORT, refine: refineImport},
			{verbs: "w", pattern: "issue/:name", op: keytrailv1.Operation_OPERATION_USE_SIGN, refine: refineIssued},
			{verbs: "w", pattern: "issuer/:issuer/issue/:name", op: keytrailv1.Operation_OPERATION_USE_SIGN, refine: refineIssued},
			{verbs: "w", pattern: "sign|sign-verbatim/:name", op: keytrailv1.Operation_OPERATION_USE_SIGN},
			{verbs: "w", pattern: "sign-verbatim", op: keytrailv1.Operation_OPERATION_USE_SIGN},
			{verbs: "w", pattern: "issuer/:issuer/sign|sign-verbatim/:name", op: keytrailv1.Operation_OPERATION_USE_SIGN},
			{verbs: "w", pattern: "issuer/:issuer/sign-verbatim|sign-intermediate|sign-self-issued|sign-revocation-list", op: keytrailv1.Operation_OPERATION_USE_SIGN},
			{verbs: "w", pattern: "root/sign-intermediate|sign-self-issued", op: keytrailv1.Operation_OPERATION_USE_SIGN},
			{verbs: "w", pattern: "revoke|revoke-with-key", op: keytrailv1.Operation_OPERATION_ACCESS_REVOKE},
			{verbs: "d", pattern: "root", op: keytrailv1.Operation_OPERATION_KEY_DESTROY},
			{verbs: "d", pattern: "key/:key_ref", op: keytrailv1.Operation_OPERATION_KEY_DESTROY},
			{verbs: "wd", pattern: "key|issuer|roles/:name", op: keytrailv1.Operation_OPERATION_META_UPDATE},
			{verbs: "w", pattern: "config/*", op: keytrailv1.Operation_OPERATION_META_UPDATE},
		},
		read:  keytrailv1.Operation_OPERATION_META_READ,
		list:  keytrailv1.Operation_OPERATION_META_LIST,
		other: keytrailv1.Operation_OPERATION_OTHER,
	}
}

// refineGeneratedPKI: generate/exported hands the private key out.
func refineGeneratedPKI(c *call) {
	if c.rec.responseData().has("private_key") {
		c.also = append(c.also, keytrailv1.Operation_OPERATION_KEY_EXPORT)
	}
}

// refineIssued: issuing makes a key pair for the certificate and hands it out.
func refineIssued(c *call) {
	if c.rec.responseData().has("private_key") {
		c.also = append(c.also, keytrailv1.Operation_OPERATION_KEY_GENERATE, keytrailv1.Operation_OPERATION_KEY_EXPORT)
	}
}

// sshEngine is one signing key for each mount, without a name.
func sshEngine() engine {
	return engine{
		name: "ssh",
		routes: []route{
			{verbs: "w", pattern: "config/ca", op: keytrailv1.Operation_OPERATION_KEY_GENERATE, refine: refineSSH},
			{verbs: "d", pattern: "config/ca", op: keytrailv1.Operation_OPERATION_KEY_DESTROY},
			{verbs: "r", pattern: "config/ca", op: keytrailv1.Operation_OPERATION_KEY_READ_PUBLIC},
			{verbs: "r", pattern: "public_key", op: keytrailv1.Operation_OPERATION_KEY_READ_PUBLIC},
			{verbs: "w", pattern: "sign/:name", op: keytrailv1.Operation_OPERATION_USE_SIGN},
			{verbs: "w", pattern: "issue/:name", op: keytrailv1.Operation_OPERATION_USE_SIGN, refine: refineIssued},
			{verbs: "w", pattern: "creds/:name", op: keytrailv1.Operation_OPERATION_ACCESS_CREDENTIAL_CREATE},
			{verbs: "wd", pattern: "roles/:name", op: keytrailv1.Operation_OPERATION_META_UPDATE},
		},
		read:  keytrailv1.Operation_OPERATION_META_READ,
		list:  keytrailv1.Operation_OPERATION_META_LIST,
		other: keytrailv1.Operation_OPERATION_OTHER,
	}
}

// refineSSH: the signing key comes along or is made.
func refineSSH(c *call) {
	if c.rec.Request.Data.has("private_key") {
		c.op, c.origin = keytrailv1.Operation_OPERATION_KEY_IMPORT, keytrailv1.KeyOrigin_KEY_ORIGIN_IMPORTED
	}
}

// totpEngine keeps keys of one-time passwords.
func totpEngine() engine {
	return engine{
		name: "totp",
		routes: []route{
			{verbs: "w", pattern: "keys/:key", op: keytrailv1.Operation_OPERATION_KEY_IMPORT, refine: refineTOTP},
			{verbs: "d", pattern: "keys/:key", op: keytrailv1.Operation_OPERATION_KEY_DESTROY},
			{verbs: "r", pattern: "keys/:key", op: keytrailv1.Operation_OPERATION_META_READ},
			{verbs: "l", pattern: "keys", op: keytrailv1.Operation_OPERATION_META_LIST},
			{verbs: "r", pattern: "code/:key", op: keytrailv1.Operation_OPERATION_USE_MAC},
			{verbs: "w", pattern: "code/:key", op: keytrailv1.Operation_OPERATION_USE_MAC_VERIFY},
		},
		read:  keytrailv1.Operation_OPERATION_OTHER,
		list:  keytrailv1.Operation_OPERATION_OTHER,
		other: keytrailv1.Operation_OPERATION_OTHER,
	}
}

// refineTOTP: the server makes the key when asked to, otherwise it takes the caller's.
func refineTOTP(c *call) {
	c.origin = keytrailv1.KeyOrigin_KEY_ORIGIN_IMPORTED
	if c.rec.Request.Data.isTrue("generate") {
		c.op, c.origin = keytrailv1.Operation_OPERATION_KEY_GENERATE, keytrailv1.KeyOrigin_KEY_ORIGIN_GENERATED
	}
}

// otherEngine is every engine that does not concern keys, kv among them: its calls are
// kept as they are named.
func otherEngine() engine {
	return engine{
		read:  keytrailv1.Operation_OPERATION_OTHER,
		list:  keytrailv1.Operation_OPERATION_OTHER,
		other: keytrailv1.Operation_OPERATION_OTHER,
	}
}
