package openbao

import (
	"slices"
	"strings"

	keytrailv1 "github.com/keytrail/keytrail/proto/keytrail/v1"
)

// rootNamespace is how the server names the namespace that has no path.
const rootNamespace = "root"

// actor is who made the call, or nil: a call without a valid token has none, nor has a
// failed login, nor a wrapping token.
func (c *call) actor() *keytrailv1.Actor {
	auth := c.rec.Auth
	if auth.DisplayName == "" && auth.EntityID == "" && c.succeeded() &&
		c.op == keytrailv1.Operation_OPERATION_ACCESS_LOGIN && c.rec.Response != nil && c.rec.Response.Auth != nil {
		auth = *c.rec.Response.Auth
	}
	if auth.DisplayName == "" && auth.EntityID == "" {
		return nil
	}
	a := &keytrailv1.Actor{Id: auth.EntityID, Display: auth.DisplayName}
	// For AppRole the display name is only the mount's, and the role stands in the
	// metadata. The role is set by the server; other names there come from the client's
	// secret id, so it goes before username.
	role, user := auth.Metadata["role_name"], auth.Metadata["username"]
	switch {
	case role != "":
		a.Display = role
	case user != "":
		a.Display = user
	}
	a.AuthMethod = c.authMethod(auth)
	a.Type = actorType(a.AuthMethod)
	a.Account = c.actorNamespace(auth)
	if auth.Accessor != "" && !hashed(auth.Accessor) {
		// Only a device set to show accessors has them. An accessor is no credential.
		a.Session = auth.Accessor
	}
	return a
}

// authMethod is how the token was got: the type of the auth method of a login, otherwise
// the mount's path out of the display name "<namespace>-auth-<mount>-<user>", in the root
// namespace "<mount>-<user>". Mounts bear their type's name unless somebody chose another.
func (c *call) authMethod(auth authPart) string {
	name := auth.DisplayName
	switch {
	case c.op == keytrailv1.Operation_OPERATION_ACCESS_LOGIN && c.kind != "":
		return c.kind
	case name == "root" && slices.Contains(auth.Policies, "root"), name == "token", strings.HasPrefix(name, "token-"):
		return "token"
	}
	if _, rest, ok := strings.Cut(name, "-auth-"); ok {
		name = rest
	}
	if auth.Metadata["role_name"] != "" {
		return name
	}
	if user := auth.Metadata["username"]; user != "" {
		if mount, ok := strings.CutSuffix(name, "-"+user); ok {
			return mount
		}
	}
	return ""
}

// actorType follows from methods that serve people or machines; the others tell nothing.
func actorType(method string) keytrailv1.Actor_Type {
	switch method {
	case "userpass", "ldap", "okta", "radius", "oidc":
		return keytrailv1.Actor_TYPE_USER
	case "approle", "kubernetes", "aws", "azure", "gcp", "cert", "cf", "alicloud", "oci":
		return keytrailv1.Actor_TYPE_WORKLOAD
	}
	return keytrailv1.Actor_TYPE_UNSPECIFIED
}

// actorNamespace is where the actor is at home, which need not be where the call went. An
// entity id ends in ".<namespace id>", except in the root namespace; the path to that id
// must stand in the same record. The granting policy decides for tokens without entity.
func (c *call) actorNamespace(auth authPart) string {
	var grants []policyPart
	if auth.PolicyResults != nil {
		grants = auth.PolicyResults.GrantingPolicies
	}
	if auth.EntityID == "" {
		for _, g := range grants {
			if g.NamespaceID != grants[0].NamespaceID {
				return ""
			}
		}
		if len(grants) > 0 {
			return namespaceName(grants[0].NamespaceID, grants[0].NamespacePath)
		}
		return ""
	}
	_, id, ok := strings.Cut(auth.EntityID, ".")
	if !ok {
		return rootNamespace
	}
	if target := c.rec.Request.Namespace; target.ID == id && c.namespace != "" {
		return c.namespace
	}
	for _, g := range grants {
		if g.NamespaceID == id {
			return namespaceName(id, g.NamespacePath)
		}
	}
	// In the display name slashes have become hyphens: it tells only a plain name.
	if ns, _, ok := strings.Cut(auth.DisplayName, "-auth-"); ok && !strings.Contains(ns, "-") {
		return ns
	}
	return ""
}

func namespaceName(id, path string) string {
	if path = strings.Trim(path, "/"); path != "" {
		return path
	}
	if id == rootNamespace {
		return rootNamespace
	}
	return ""
}
