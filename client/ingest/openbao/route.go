package openbao

import (
	"slices"
	"strings"

	keytrailv1 "github.com/keytrail/keytrail/proto/keytrail/v1"
)

// verb is what request.operation comes down to. It does not say what the call does:
// creating, rotating and using a key are all verbWrite.
type verb byte

const (
	verbRead   verb = 'r'
	verbList   verb = 'l'
	verbWrite  verb = 'w'
	verbDelete verb = 'd'
	verbOther  verb = 'o'
)

func verbOf(operation string) verb {
	switch operation {
	case "read":
		return verbRead
	case "list", "scan":
		return verbList
	case "create", "update", "patch":
		return verbWrite
	case "delete":
		return verbDelete
	}
	return verbOther
}

// route gives a path of an engine its operation. Pattern segments are literals,
// alternatives ("sign|verify"), names (":key", ":name") or one "*", which stands for one
// segment or more. ":key" is the key concerned, ":wrap" a key that wraps it, ":version"
// a version and ":secret" a credential in the path.
type route struct {
	verbs   string
	pattern string
	op      keytrailv1.Operation
	// refine, if set, decides further by what the record holds.
	refine func(c *call)

	segments []string
}

// engine is the paths of one kind of mount.
type engine struct {
	// name stands for the mount in source_operation.
	name   string
	routes []route
	// Operations of reads and lists, and of the rest, that no route knows.
	read, list, other keytrailv1.Operation
}

// compile splits the patterns once.
func (e engine) compile() engine {
	for i := range e.routes {
		e.routes[i].segments = strings.Split(e.routes[i].pattern, "/")
	}
	return e
}

// find returns the route of a path and what its names stand for. A path that is known
// only with other verbs has a route, and ok is false: the server refuses it.
func (e *engine) find(path []string, v verb) (r *route, vars map[string]string, ok bool) {
	for i := range e.routes {
		candidate := &e.routes[i]
		found, matched := match(candidate.segments, path)
		if !matched {
			continue
		}
		if strings.IndexByte(candidate.verbs, byte(v)) >= 0 {
			return candidate, found, true
		}
		if r == nil {
			r, vars = candidate, found
		}
	}
	return r, vars, false
}

// fallback is the operation of a path without a route.
func (e *engine) fallback(v verb) keytrailv1.Operation {
	switch v {
	case verbRead:
		return e.read
	case verbList:
		return e.list
	default:
		return e.other
	}
}

// match compares a path with a pattern.
func match(pattern, path []string) (map[string]string, bool) {
	if star := slices.Index(pattern, "*"); star >= 0 {
		tail := len(pattern) - star - 1
		if len(path) < star+1+tail {
			return nil, false
		}
		head, ok := match(pattern[:star], path[:star])
		if !ok {
			return nil, false
		}
		_, ok = match(pattern[star+1:], path[len(path)-tail:])
		return head, ok
	}
	if len(pattern) != len(path) {
		return nil, false
	}
	var vars map[string]string
	for i, want := range pattern {
		switch {
		case strings.HasPrefix(want, ":"):
			if path[i] == "" {
				return nil, false
			}
			if vars == nil {
				vars = make(map[string]string, 2)
			}
			vars[want[1:]] = path[i]
		case !oneOf(want, path[i]):
			return nil, false
		}
	}
	return vars, true
}

// oneOf says whether a segment is one of the alternatives of a pattern.
func oneOf(alternatives, segment string) bool {
	for more := true; more; {
		var one string
		if one, alternatives, more = strings.Cut(alternatives, "|"); one == segment {
			return true
		}
	}
	return false
}

// template is the path with its names taken out, for source_operation.
func (r *route) template(path []string) string {
	if r == nil {
		return ":path"
	}
	star := slices.Index(r.segments, "*")
	if star < 0 {
		star = len(r.segments)
	}
	out := make([]string, len(r.segments))
	for i, s := range r.segments {
		switch {
		case s == "*":
			out[i] = ":path"
		case s == ":key":
			out[i] = ":name"
		case strings.Contains(s, "|") && i < star:
			out[i] = path[i]
		case strings.Contains(s, "|"):
			out[i] = path[len(path)-len(r.segments)+i]
		default:
			out[i] = s
		}
	}
	return strings.Join(out, "/")
}
