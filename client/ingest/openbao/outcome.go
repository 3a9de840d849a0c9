package openbao

import (
	"slices"
	"strconv"
	"strings"

	keytrailv1 "github.com/keytrail/keytrail/proto/keytrail/v1"
)

// batch is what the line tells of a call with several items.
type batch struct {
	count uint64
	// failed is known only where the answer has results for each item.
	failed   *uint64
	versions []string
	// someInvalid: a signature or HMAC of the batch did not verify.
	someInvalid bool
}

// Codes of errors. They follow the HTTP status that the server gave, which is not logged.
const (
	codeDenied      = "permission_denied"
	codeNotFound    = "not_found"
	codeUnsupported = "unsupported_operation"
	codeInvalid     = "invalid_request"
	codeCredentials = "invalid_credentials"
	codeFailed      = "failed"
)

// readBatch counts the items of a batch, from the request: the answer to a batch that
// failed in part may hold none of them.
func (c *call) readBatch() {
	asked, ok := c.rec.Request.Data.objects("batch_input")
	results, answered := c.rec.responseData().objects("batch_results")
	if !ok && !answered {
		return
	}
	c.batch.count = uint64(max(len(asked), len(results)))
	if !answered || len(results) == 0 {
		return
	}
	var failed uint64
	var versions []int64
	for _, item := range results {
		if item.has("error") {
			failed++
			continue
		}
		if n, ok := item.int("key_version"); ok && n > 0 {
			versions = append(versions, n)
		}
		if string(item["valid"]) == "false" {
			c.batch.someInvalid = true
		}
	}
	c.batch.failed = &failed
	c.batch.versions = c.versionList(versions)
}

// decide finds out how the call ended. The log has no status: an error stands in clear at
// the top, or hashed in the answer's data, or shows only by what is missing.
func (c *call) decide() {
	rec, got := c.rec, c.rec.responseData()
	messages := splitErrors(rec.Error)
	soft := softError(got)
	denied := rec.Auth.PolicyResults != nil && rec.Auth.PolicyResults.Allowed != nil && !*rec.Auth.PolicyResults.Allowed
	switch {
	case denied || slices.Contains(messages, "permission denied"):
		c.end(keytrailv1.Outcome_OUTCOME_DENIED, codeDenied, messages)
	case len(messages) > 0:
		c.end(keytrailv1.Outcome_OUTCOME_FAILURE, codeOf(messages), messages)
	case soft:
		c.end(keytrailv1.Outcome_OUTCOME_FAILURE, codeFailed, nil)
	case !rec.response():
		c.outcome = keytrailv1.Outcome_OUTCOME_PENDING
		if neverAnswered(rec) || disablesDevice(rec) {
			c.outcome = keytrailv1.Outcome_OUTCOME_SUCCESS
		}
	case got.has("http_status_code"):
		c.decideStatus()
	case c.batch.failed != nil && *c.batch.failed > 0:
		c.end(keytrailv1.Outcome_OUTCOME_PARTIAL, codeFailed, nil)
		if *c.batch.failed == c.batch.count {
			c.outcome = keytrailv1.Outcome_OUTCOME_FAILURE
		}
	case c.verb == verbRead && len(got) == 0 && rec.Response.WrapInfo == nil && rec.Response.Auth == nil && !c.streamed():
		// What a read of nothing looks like (404). Successful calls without an answer
		// (204) look the same, but none of them is a read.
		c.end(keytrailv1.Outcome_OUTCOME_FAILURE, codeNotFound, nil)
	default:
		c.outcome = keytrailv1.Outcome_OUTCOME_SUCCESS
	}
}

// streamed says that the server writes the answer past the audit log, so that a success
// has no data either: snapshots, server logs, profiles.
func (c *call) streamed() bool {
	path := strings.Join(c.path, "/")
	return c.kind == "system" && (path == "monitor" || strings.HasPrefix(path, "pprof") || strings.HasPrefix(path, "storage/raft/snapshot"))
}

// decideStatus reads the one status that is logged, of answers that the engine wrote
// itself. A batch in which an item failed is answered so, and the items are hashed; that
// others succeeded is certain only if the status is the caller's own for that case.
func (c *call) decideStatus() {
	got, asked := c.rec.responseData(), c.rec.Request.Data
	status, _ := got.int("http_status_code")
	partial, own := asked.int("partial_failure_response_code")
	switch {
	case c.batch.count > 1 && own && status == partial && status != 400 && status != 500:
		c.end(keytrailv1.Outcome_OUTCOME_PARTIAL, codeFailed, nil)
	case status == 403:
		c.end(keytrailv1.Outcome_OUTCOME_DENIED, codeDenied, nil)
	case status == 404:
		c.end(keytrailv1.Outcome_OUTCOME_FAILURE, codeNotFound, nil)
	case status >= 400:
		c.end(keytrailv1.Outcome_OUTCOME_FAILURE, codeFailed, nil)
	default:
		c.outcome = keytrailv1.Outcome_OUTCOME_SUCCESS
	}
}

// end sets outcome and error. On a mount tuned to show it, the answer's own message says
// more than the one at the top.
func (c *call) end(o keytrailv1.Outcome, code string, messages []string) {
	c.outcome = o
	if softError(c.rec.responseData()) {
		if inner := splitErrors(c.rec.responseData().text("error")); len(inner) > 0 {
			messages = inner
		}
	}
	c.failure = &keytrailv1.Error{Code: code, Message: cut(oneLine(strings.Join(messages, "; ")), maxMessage)}
}

// softError says whether the answer is an error: an object with error alone, or with
// error and data. A secret with a field of that name and others is none.
func softError(got fields) bool {
	return got.has("error") && (len(got) == 1 || len(got) == 2 && got.has("data"))
}

// codeOf names the first error that is known by its fixed text.
func codeOf(messages []string) string {
	for _, m := range messages {
		switch m {
		case "unsupported path":
			return codeNotFound
		case "unsupported operation":
			return codeUnsupported
		case "invalid request":
			return codeInvalid
		case "invalid credentials":
			return codeCredentials
		}
	}
	return codeFailed
}

// splitErrors takes the single messages out of "2 errors occurred:\n\t* one\n\t* two\n\n".
func splitErrors(s string) []string {
	head, list, found := strings.Cut(s, " occurred:\n")
	count, _, _ := strings.Cut(head, " error")
	if _, err := strconv.Atoi(count); !found || err != nil {
		if s = strings.TrimSpace(s); s == "" {
			return nil
		}
		return []string{s}
	}
	var out []string
	for _, item := range strings.Split("\n"+list, "\n\t* ") {
		if item = strings.TrimSpace(item); item != "" {
			out = append(out, item)
		}
	}
	return out
}
