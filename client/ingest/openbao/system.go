package openbao

import (
	"slices"
	"strings"

	keytrailv1 "github.com/keytrail/keytrail/proto/keytrail/v1"
)

// systemEngine is sys/: the server itself. Namespaces and mounts may have slashes in
// their paths.
func systemEngine() engine {
	return engine{
		name: "sys",
		// The first route that fits is taken, so config/auditing comes before config.
		routes: slices.Concat(systemAccess(), systemStore(), systemRekey()),
		read:   keytrailv1.Operation_OPERATION_STORE_READ,
		list:   keytrailv1.Operation_OPERATION_STORE_READ,
		other:  keytrailv1.Operation_OPERATION_OTHER,
	}
}

// systemAccess is the audit log, policies, auth methods, tokens and leases.
func systemAccess() []route {
	return []route{
		{verbs: "w", pattern: "audit/test", refine: refineProbe},
		{verbs: "w", pattern: "audit/*", op: keytrailv1.Operation_OPERATION_LOG_ENABLE},
		{verbs: "d", pattern: "audit/*", op: keytrailv1.Operation_OPERATION_LOG_DISABLE},
		{verbs: "rl", pattern: "audit", op: keytrailv1.Operation_OPERATION_LOG_READ},
		{verbs: "w", pattern: "audit-hash/*", op: keytrailv1.Operation_OPERATION_LOG_READ},
		{verbs: "wd", pattern: "config/auditing/*", op: keytrailv1.Operation_OPERATION_LOG_CONFIG},
		{verbs: "rl", pattern: "config/auditing/*", op: keytrailv1.Operation_OPERATION_LOG_READ},
		{verbs: "wd", pattern: "policy|policies/*", op: keytrailv1.Operation_OPERATION_ACCESS_POLICY_CHANGE},
		{verbs: "rl", pattern: "policy|policies/*", op: keytrailv1.Operation_OPERATION_ACCESS_READ},
		{verbs: "rl", pattern: "policy|policies", op: keytrailv1.Operation_OPERATION_ACCESS_READ},
		{verbs: "w", pattern: "auth/*/tune", op: keytrailv1.Operation_OPERATION_STORE_UPDATE},
		{verbs: "w", pattern: "auth/*", op: keytrailv1.Operation_OPERATION_ACCESS_AUTH_ENABLE, refine: containerNamed},
		{verbs: "d", pattern: "auth/*", op: keytrailv1.Operation_OPERATION_ACCESS_AUTH_DISABLE, refine: containerNamed},
		{verbs: "rl", pattern: "auth/*", op: keytrailv1.Operation_OPERATION_ACCESS_READ},
		{verbs: "rl", pattern: "auth", op: keytrailv1.Operation_OPERATION_ACCESS_READ},
		{verbs: "w", pattern: "capabilities|capabilities-self|capabilities-accessor", op: keytrailv1.Operation_OPERATION_ACCESS_READ},
		{verbs: "rwd", pattern: "wrapping/unwrap", op: keytrailv1.Operation_OPERATION_ACCESS_UNWRAP},
		{verbs: "rw", pattern: "wrapping/lookup", op: keytrailv1.Operation_OPERATION_ACCESS_READ},
		{verbs: "w", pattern: "wrapping/wrap|rewrap", op: keytrailv1.Operation_OPERATION_ACCESS_CREDENTIAL_CREATE},
		{verbs: "w", pattern: "leases/revoke|revoke-prefix|revoke-force", op: keytrailv1.Operation_OPERATION_ACCESS_REVOKE},
		{verbs: "w", pattern: "leases/revoke|revoke-prefix|revoke-force/*", op: keytrailv1.Operation_OPERATION_ACCESS_REVOKE},
		{verbs: "w", pattern: "revoke|revoke-prefix|revoke-force/*", op: keytrailv1.Operation_OPERATION_ACCESS_REVOKE},
		{verbs: "wrl", pattern: "leases/lookup", op: keytrailv1.Operation_OPERATION_ACCESS_READ},
		{verbs: "rl", pattern: "leases/*", op: keytrailv1.Operation_OPERATION_ACCESS_READ},
		{verbs: "r", pattern: "locked-users", op: keytrailv1.Operation_OPERATION_ACCESS_READ},
		{verbs: "w", pattern: "locked-users/*", op: keytrailv1.Operation_OPERATION_ACCESS_USER_UPDATE},
		{verbs: "wd", pattern: "mfa/*", op: keytrailv1.Operation_OPERATION_ACCESS_POLICY_CHANGE},
		{verbs: "w", pattern: "tools/random", op: keytrailv1.Operation_OPERATION_USE_RANDOM},
		{verbs: "w", pattern: "tools/random/*", op: keytrailv1.Operation_OPERATION_USE_RANDOM},
		{verbs: "w", pattern: "tools/hash", op: keytrailv1.Operation_OPERATION_USE_HASH},
		{verbs: "w", pattern: "tools/hash/*", op: keytrailv1.Operation_OPERATION_USE_HASH},
	}
}

// systemStore is mounts, namespaces, seal, quotas and storage.
func systemStore() []route {
	return []route{
		{verbs: "w", pattern: "seal", op: keytrailv1.Operation_OPERATION_STORE_SEAL},
		{verbs: "w", pattern: "unseal", op: keytrailv1.Operation_OPERATION_STORE_UNSEAL},
		{verbs: "w", pattern: "init", op: keytrailv1.Operation_OPERATION_STORE_INIT},
		{verbs: "w", pattern: "namespaces/api-lock/lock", op: keytrailv1.Operation_OPERATION_STORE_LOCK},
		{verbs: "w", pattern: "namespaces/api-lock/lock/*", op: keytrailv1.Operation_OPERATION_STORE_LOCK},
		{verbs: "w", pattern: "namespaces/api-lock/unlock", op: keytrailv1.Operation_OPERATION_STORE_UNLOCK},
		{verbs: "w", pattern: "namespaces/api-lock/unlock/*", op: keytrailv1.Operation_OPERATION_STORE_UNLOCK},
		{verbs: "w", pattern: "namespaces/*/seal", op: keytrailv1.Operation_OPERATION_STORE_SEAL},
		{verbs: "w", pattern: "namespaces/*/unseal", op: keytrailv1.Operation_OPERATION_STORE_UNSEAL},
		{verbs: "r", pattern: "namespaces/*/seal-status|key-status", op: keytrailv1.Operation_OPERATION_STORE_READ},
		{verbs: "w", pattern: "namespaces/*/rotate", op: keytrailv1.Operation_OPERATION_STORE_ROTATE_KEYRING},
		{verbs: "w", pattern: "namespaces/*/rotate/keyring", op: keytrailv1.Operation_OPERATION_STORE_ROTATE_KEYRING},
		{verbs: "w", pattern: "namespaces/*/rotate/root|recovery/init", op: keytrailv1.Operation_OPERATION_STORE_REKEY_START},
		{verbs: "d", pattern: "namespaces/*/rotate/root|recovery/init", op: keytrailv1.Operation_OPERATION_STORE_REKEY_CANCEL},
		{verbs: "w", pattern: "namespaces/*", op: keytrailv1.Operation_OPERATION_STORE_NAMESPACE_CREATE, refine: refineNamespace},
		{verbs: "d", pattern: "namespaces/*", op: keytrailv1.Operation_OPERATION_STORE_NAMESPACE_DELETE, refine: containerNamed},
		{verbs: "w", pattern: "mounts/*/tune", op: keytrailv1.Operation_OPERATION_STORE_UPDATE},
		{verbs: "w", pattern: "mounts/*", op: keytrailv1.Operation_OPERATION_STORE_MOUNT, refine: containerNamed},
		{verbs: "d", pattern: "mounts/*", op: keytrailv1.Operation_OPERATION_STORE_UNMOUNT, refine: containerNamed},
		{verbs: "w", pattern: "remount", op: keytrailv1.Operation_OPERATION_STORE_REMOUNT},
		{verbs: "wd", pattern: "quotas/*", op: keytrailv1.Operation_OPERATION_STORE_QUOTA},
		{verbs: "r", pattern: "storage/raft/snapshot", op: keytrailv1.Operation_OPERATION_STORE_BACKUP},
		{verbs: "w", pattern: "storage/raft/snapshot|snapshot-force", op: keytrailv1.Operation_OPERATION_STORE_RESTORE},
		{verbs: "wd", pattern: "storage/*", op: keytrailv1.Operation_OPERATION_STORE_UPDATE},
		{verbs: "wd", pattern: "raw/*", op: keytrailv1.Operation_OPERATION_STORE_UPDATE},
		{verbs: "wd", pattern: "config/*", op: keytrailv1.Operation_OPERATION_STORE_UPDATE},
		{verbs: "wd", pattern: "plugins/*", op: keytrailv1.Operation_OPERATION_STORE_UPDATE},
		{verbs: "w", pattern: "managed-keys/:type/:name", op: keytrailv1.Operation_OPERATION_KEY_REGISTER_EXTERNAL},
		{verbs: "r", pattern: "managed-keys/:type/:name", op: keytrailv1.Operation_OPERATION_META_READ},
		{verbs: "l", pattern: "managed-keys/:type", op: keytrailv1.Operation_OPERATION_META_LIST},
	}
}

// systemRekey is the keys that protect the store: the keyring and the shares.
func systemRekey() []route {
	return []route{
		{verbs: "w", pattern: "rotate", op: keytrailv1.Operation_OPERATION_STORE_ROTATE_KEYRING},
		{verbs: "w", pattern: "rotate/keyring", op: keytrailv1.Operation_OPERATION_STORE_ROTATE_KEYRING},
		{verbs: "w", pattern: "rotate/root|recovery/init", op: keytrailv1.Operation_OPERATION_STORE_REKEY_START},
		{verbs: "d", pattern: "rotate/root|recovery/init", op: keytrailv1.Operation_OPERATION_STORE_REKEY_CANCEL},
		{verbs: "w", pattern: "rekey|rekey-recovery-key/init", op: keytrailv1.Operation_OPERATION_STORE_REKEY_START},
		{verbs: "d", pattern: "rekey|rekey-recovery-key/init", op: keytrailv1.Operation_OPERATION_STORE_REKEY_CANCEL},
		{verbs: "wd", pattern: "rotate|rekey|rekey-recovery-key/*", op: keytrailv1.Operation_OPERATION_STORE_UPDATE},
		{verbs: "w", pattern: "generate-root/update", op: keytrailv1.Operation_OPERATION_OTHER, refine: refineRootToken},
	}
}

// refineProbe: the server's own probe of a new device is no operation of the vocabulary.
func refineProbe(c *call) {
	c.op = keytrailv1.Operation_OPERATION_LOG_ENABLE
	if isProbe(c.rec) {
		c.op = keytrailv1.Operation_OPERATION_OTHER
		c.attrs.add("probe", "true")
	}
}

// refineNamespace: a patch changes a namespace that exists.
func refineNamespace(c *call) {
	containerNamed(c)
	if c.rec.Request.Operation == "patch" {
		c.op = keytrailv1.Operation_OPERATION_STORE_UPDATE
	}
}

// refineRootToken: the last share of the ceremony brings forth a root token.
func refineRootToken(c *call) {
	if c.rec.responseData().isTrue("complete") {
		c.op = keytrailv1.Operation_OPERATION_ACCESS_CREDENTIAL_CREATE
	}
}

// containerNamed notes what is made or removed, in the form in which the ref of a key
// begins. The keys that die with a mount or namespace leave no line, so this is all that
// leads from the event to them.
func containerNamed(c *call) {
	if len(c.path) < 2 {
		return
	}
	name := strings.Join(c.path[1:], "/")
	if c.path[0] == "auth" {
		name = "auth/" + name
	}
	if c.namespace != "" {
		name = c.namespace + "/" + name
	}
	c.attrs.add("container", name)
}
