package openbao

import (
	"strings"

	keytrailv1 "github.com/keytrail/keytrail/proto/keytrail/v1"
)

// call is a record with what was found out about it so far. The routes' refine functions
// complete op and what follows.
type call struct {
	rec *record
	// namespace is the target's, without slashes at its ends; "" for the root namespace.
	namespace string
	// kind is the mount's type without "ns_"; mount its path in the namespace, without
	// slash, "" when it cannot be told; path the rest, split.
	kind  string
	mount string
	path  []string
	verb  verb

	engine  *engine
	route   *route
	vars    map[string]string
	outcome keytrailv1.Outcome
	failure *keytrailv1.Error
	batch   batch

	op       keytrailv1.Operation
	also     []keytrailv1.Operation
	key      string
	versions []string
	related  []*keytrailv1.RelatedKey
	origin   keytrailv1.KeyOrigin
	noEffect bool
	attrs    attributes
}

func (c *call) succeeded() bool {
	return c.outcome == keytrailv1.Outcome_OUTCOME_SUCCESS || c.outcome == keytrailv1.Outcome_OUTCOME_PARTIAL
}

// ref is the identity of a key of this mount: namespace, mount and name. The mount's
// accessor, which survives a move, goes into the attributes.
func (c *call) ref(key string) string {
	ref := key
	if c.mount != "" {
		ref = c.mount + "/" + ref
	}
	if c.namespace != "" {
		ref = c.namespace + "/" + ref
	}
	return ref
}

// engines are the kinds of mount that are known.
type engines struct {
	byKind map[string]*engine
	// auth is for auth methods of every type, unknown for every other mount.
	auth, unknown engine
}

func newEngines() engines {
	list := map[string]engine{
		"transit":   transitEngine(),
		"system":    systemEngine(),
		"identity":  identityEngine(),
		"token":     tokenEngine(),
		"cubbyhole": cubbyholeEngine(),
		"pki":       pkiEngine(),
		"ssh":       sshEngine(),
		"totp":      totpEngine(),
	}
	e := engines{byKind: make(map[string]*engine, len(list)), auth: authEngine().compile(), unknown: otherEngine().compile()}
	for kind, one := range list {
		one = one.compile()
		e.byKind[kind] = &one
	}
	return e
}

// locate finds out which mount a call went to and splits its path. The mount's type
// decides, never the look of the path.
func (e *engines) locate(rec *record) *call {
	c := &call{rec: rec, verb: verbOf(rec.Request.Operation), namespace: strings.Trim(rec.Request.Namespace.Path, "/")}
	kind, class, _ := rec.mount()
	c.kind = strings.TrimPrefix(kind, "ns_")
	path := strings.TrimPrefix(rec.Request.Path, "/")
	if c.kind == "" {
		// Seal and probe lines, and servers before mount_type. These names are reserved.
		c.kind = reserved(path)
	}
	switch {
	case e.byKind[c.kind] != nil:
		c.engine = e.byKind[c.kind]
	case class == "auth" || strings.HasPrefix(path, "auth/"):
		c.engine = &e.auth
	default:
		c.engine = &e.unknown
	}
	rest, ok := c.cutMount(path)
	if !ok {
		rest = c.guessMount(path)
	}
	c.path = strings.Split(strings.TrimSuffix(rest, "/"), "/")
	return c
}

// reserved is the kind of mount that a path without one must belong to.
func reserved(path string) string {
	first, rest, _ := strings.Cut(path, "/")
	switch {
	case first == "sys":
		return "system"
	case first == "identity" || first == "cubbyhole":
		return first
	case first == "auth" && (rest == "token" || strings.HasPrefix(rest, "token/")):
		return "token"
	}
	return ""
}

// cutMount takes the mount off a path. mount_point begins with the namespace, path does
// not; other servers may write both either way.
func (c *call) cutMount(path string) (rest string, ok bool) {
	point := strings.Trim(c.rec.Request.MountPoint, "/")
	if point == "" && c.rec.Response != nil {
		point = strings.Trim(c.rec.Response.MountPoint, "/")
	}
	if point == "" {
		return "", false
	}
	relative := point
	if c.namespace != "" {
		relative = strings.TrimPrefix(point, c.namespace+"/")
	}
	for _, prefix := range []string{relative, point, c.namespace + "/" + relative} {
		if rest, ok := strings.CutPrefix(path+"/", prefix+"/"); ok {
			c.mount = relative
			return strings.TrimSuffix(rest, "/"), true
		}
	}
	return "", false
}

// guessMount takes the mount off a path without mount_point, by what must follow it.
func (c *call) guessMount(path string) string {
	segments := strings.Split(strings.TrimSuffix(path, "/"), "/")
	cut := 0
	switch {
	case c.kind == "system" || c.kind == "identity" || c.kind == "cubbyhole":
		cut = 1
	case segments[0] == "auth":
		cut = 2
	default:
		for i := 1; i < len(segments); i++ {
			if r, _, _ := c.engine.find(segments[i:], c.verb); r != nil {
				cut = i
				break
			}
		}
	}
	cut = min(cut, len(segments))
	c.mount = strings.Join(segments[:cut], "/")
	return strings.Join(segments[cut:], "/")
}

// classify finds the operation by the path and, where that is not enough, by the rest of
// the record.
func (c *call) classify() {
	var ok bool
	c.route, c.vars, ok = c.engine.find(c.path, c.verb)
	c.key = c.vars["key"]
	switch {
	case !ok:
		c.op = c.engine.fallback(c.verb)
		return
	case c.route.op != keytrailv1.Operation_OPERATION_UNSPECIFIED:
		c.op = c.route.op
	}
	if c.route.refine != nil {
		c.route.refine(c)
	}
}

// sourceOperation is the server's operation and the path without names.
func (c *call) sourceOperation() string {
	name := c.engine.name
	if name == "" {
		name = or(c.kind, ":mount")
	}
	if c.engine.name == "auth" {
		name = "auth/" + or(c.kind, ":mount")
	}
	operation := or(c.rec.Request.Operation, "?")
	return operation + " " + name + "/" + c.route.template(c.path)
}
