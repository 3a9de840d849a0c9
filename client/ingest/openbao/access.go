package openbao

import (
	keytrailv1 "github.com/keytrail/keytrail/proto/keytrail/v1"
)

// tokenEngine is auth/token. Old clients put the token into the path.
func tokenEngine() engine {
	return engine{
		name: "auth/token",
		routes: []route{
			{verbs: "w", pattern: "create|create-orphan", op: keytrailv1.Operation_OPERATION_ACCESS_CREDENTIAL_CREATE, refine: refineToken},
			{verbs: "w", pattern: "create/:name", op: keytrailv1.Operation_OPERATION_ACCESS_CREDENTIAL_CREATE, refine: refineToken},
			{verbs: "rw", pattern: "lookup|lookup-self|lookup-accessor", op: keytrailv1.Operation_OPERATION_ACCESS_READ},
			{verbs: "rw", pattern: "lookup|lookup-accessor/:secret", op: keytrailv1.Operation_OPERATION_ACCESS_READ},
			{verbs: "w", pattern: "revoke|revoke-self|revoke-accessor|revoke-orphan", op: keytrailv1.Operation_OPERATION_ACCESS_REVOKE},
			{verbs: "w", pattern: "revoke|revoke-accessor|revoke-orphan|revoke-prefix/:secret", op: keytrailv1.Operation_OPERATION_ACCESS_REVOKE},
			{verbs: "w", pattern: "renew|renew-accessor/:secret", op: keytrailv1.Operation_OPERATION_OTHER},
			{verbs: "w", pattern: "renew|renew-self|renew-accessor", op: keytrailv1.Operation_OPERATION_OTHER},
			{verbs: "w", pattern: "roles/:name", refine: refineUser},
			{verbs: "d", pattern: "roles/:name", op: keytrailv1.Operation_OPERATION_ACCESS_USER_DELETE},
		},
		read:  keytrailv1.Operation_OPERATION_ACCESS_READ,
		list:  keytrailv1.Operation_OPERATION_ACCESS_READ,
		other: keytrailv1.Operation_OPERATION_OTHER,
	}
}

// authEngine is every other auth method: those of the server and plugins use the same
// names for the same things.
func authEngine() engine {
	const users = "users|user|role|roles|certs|groups"
	return engine{
		name: "auth",
		routes: []route{
			{verbs: "rw", pattern: "login", op: keytrailv1.Operation_OPERATION_ACCESS_LOGIN},
			{verbs: "rw", pattern: "login/*", op: keytrailv1.Operation_OPERATION_ACCESS_LOGIN, refine: refineLogin},
			{verbs: "rw", pattern: "oidc/callback", op: keytrailv1.Operation_OPERATION_ACCESS_LOGIN},
			{verbs: "w", pattern: "role/:name/secret-id|custom-secret-id", op: keytrailv1.Operation_OPERATION_ACCESS_CREDENTIAL_CREATE},
			{verbs: "w", pattern: "role/:name/secret-id|secret-id-accessor/destroy", op: keytrailv1.Operation_OPERATION_ACCESS_REVOKE},
			{verbs: "d", pattern: "role/:name/secret-id|secret-id-accessor/destroy", op: keytrailv1.Operation_OPERATION_ACCESS_REVOKE},
			{verbs: "w", pattern: "role/:name/secret-id|secret-id-accessor/lookup", op: keytrailv1.Operation_OPERATION_ACCESS_READ},
			{verbs: "wd", pattern: users + "/:name/*", op: keytrailv1.Operation_OPERATION_ACCESS_USER_UPDATE},
			{verbs: "w", pattern: users + "/:name", refine: refineUser},
			{verbs: "d", pattern: users + "/:name", op: keytrailv1.Operation_OPERATION_ACCESS_USER_DELETE},
			{verbs: "w", pattern: "map/users|groups|teams/:name", op: keytrailv1.Operation_OPERATION_ACCESS_GRANT},
			{verbs: "d", pattern: "map/users|groups|teams/:name", op: keytrailv1.Operation_OPERATION_ACCESS_REVOKE},
			{verbs: "wd", pattern: "config", op: keytrailv1.Operation_OPERATION_ACCESS_POLICY_CHANGE},
			{verbs: "wd", pattern: "config/*", op: keytrailv1.Operation_OPERATION_ACCESS_POLICY_CHANGE},
		},
		read:  keytrailv1.Operation_OPERATION_ACCESS_READ,
		list:  keytrailv1.Operation_OPERATION_ACCESS_READ,
		other: keytrailv1.Operation_OPERATION_OTHER,
	}
}

// identityEngine is entities, groups and the server's own OIDC provider, whose signing
// keys are keys like any other.
func identityEngine() engine {
	return engine{
		name: "identity",
		routes: []route{
			{verbs: "w", pattern: "lookup/entity|group", op: keytrailv1.Operation_OPERATION_ACCESS_READ},
			{verbs: "w", pattern: "entity|entity-alias|persona", op: keytrailv1.Operation_OPERATION_ACCESS_USER_CREATE, refine: refineEntity},
			{verbs: "w", pattern: "entity/merge", op: keytrailv1.Operation_OPERATION_ACCESS_USER_UPDATE},
			{verbs: "w", pattern: "entity/batch-delete", op: keytrailv1.Operation_OPERATION_ACCESS_USER_DELETE},
			{verbs: "w", pattern: "entity/name/:name", refine: refineUser},
			{verbs: "w", pattern: "entity|entity-alias|persona/*", op: keytrailv1.Operation_OPERATION_ACCESS_USER_UPDATE},
			{verbs: "d", pattern: "entity|entity-alias|persona/*", op: keytrailv1.Operation_OPERATION_ACCESS_USER_DELETE},
			{verbs: "w", pattern: "group|group-alias", op: keytrailv1.Operation_OPERATION_ACCESS_GRANT},
			{verbs: "w", pattern: "group|group-alias/*", op: keytrailv1.Operation_OPERATION_ACCESS_GRANT},
			{verbs: "d", pattern: "group|group-alias/*", op: keytrailv1.Operation_OPERATION_ACCESS_REVOKE},
			{verbs: "wd", pattern: "mfa/*", op: keytrailv1.Operation_OPERATION_ACCESS_POLICY_CHANGE},
			{verbs: "r", pattern: "oidc/token/:name", op: keytrailv1.Operation_OPERATION_ACCESS_CREDENTIAL_CREATE},
			{verbs: "w", pattern: "oidc/key/:key/rotate", op: keytrailv1.Operation_OPERATION_KEY_ROTATE, refine: refineOIDCKey},
			{verbs: "w", pattern: "oidc/key/:key", op: keytrailv1.Operation_OPERATION_KEY_GENERATE, refine: refineOIDCKey},
			{verbs: "d", pattern: "oidc/key/:key", op: keytrailv1.Operation_OPERATION_KEY_DESTROY, refine: refineOIDCKey},
			{verbs: "r", pattern: "oidc/key/:key", op: keytrailv1.Operation_OPERATION_META_READ, refine: refineOIDCKey},
			{verbs: "l", pattern: "oidc/key", op: keytrailv1.Operation_OPERATION_META_LIST},
		},
		read:  keytrailv1.Operation_OPERATION_ACCESS_READ,
		list:  keytrailv1.Operation_OPERATION_ACCESS_READ,
		other: keytrailv1.Operation_OPERATION_OTHER,
	}
}

// cubbyholeEngine holds wrapped responses for clients older than sys/wrapping.
func cubbyholeEngine() engine {
	return engine{
		name: "cubbyhole",
		routes: []route{
			{verbs: "r", pattern: "response", op: keytrailv1.Operation_OPERATION_ACCESS_UNWRAP},
		},
		read:  keytrailv1.Operation_OPERATION_OTHER,
		list:  keytrailv1.Operation_OPERATION_OTHER,
		other: keytrailv1.Operation_OPERATION_OTHER,
	}
}

// refineUser: the server tells creation from change by the request's operation, for those
// methods that know.
func refineUser(c *call) {
	c.op = keytrailv1.Operation_OPERATION_ACCESS_USER_UPDATE
	if c.rec.Request.Operation == "create" {
		c.op = keytrailv1.Operation_OPERATION_ACCESS_USER_CREATE
	}
}

// refineEntity: an id in the request names one that exists.
func refineEntity(c *call) {
	if c.rec.Request.Data.has("id") {
		c.op = keytrailv1.Operation_OPERATION_ACCESS_USER_UPDATE
	}
}

// refineLogin: a login that failed has no actor, only the name that was tried.
func refineLogin(c *call) {
	if !c.succeeded() {
		c.attrs.add("claimed_user", c.path[len(c.path)-1])
	}
}

// refineOIDCKey: the key's name is its path in the mount, apart from keys of other kinds.
func refineOIDCKey(c *call) {
	c.key = "oidc/key/" + c.key
	if c.op == keytrailv1.Operation_OPERATION_KEY_GENERATE && c.rec.Request.Operation != "create" {
		c.op = keytrailv1.Operation_OPERATION_META_UPDATE
	}
}

// refineToken notes what was handed out: not the token, but what it may do.
func refineToken(c *call) {
	if c.rec.Response == nil || c.rec.Response.Auth == nil {
		return
	}
	made := c.rec.Response.Auth
	c.attrs.add("created_display_name", made.DisplayName)
	c.attrs.addList("created_policies", made.Policies)
	c.attrs.add("created_token_type", made.TokenType)
	c.attrs.addInt("created_token_ttl", made.TokenTTL)
	c.attrs.addInt("created_num_uses", made.NumUses)
}
