package cloudtrail

import (
	"slices"
	"strings"

	keytrailv1 "github.com/keytrail/keytrail/proto/keytrail/v1"
)

// serviceEvent reports that KMS did it by itself, with nobody asking at that time.
func serviceEvent(r record) bool {
	return str(r.object, "eventType") == "AwsServiceEvent"
}

// actor fills in who did it, from userIdentity.
func (b *builder) actor() {
	u := b.r.object["userIdentity"]
	typ, invokedBy := str(u, "type"), str(u, "invokedBy")
	a := &keytrailv1.Actor{}
	switch {
	case serviceEvent(b.r) && invokedBy != "", typ == "" && invokedBy != "" && str(u, "arn") == "" && str(u, "principalId") == "":
		// The accountId is the customer's: the provider acted in it and is not of it.
		a.Id, a.Type = b.name("userIdentity.invokedBy", invokedBy), keytrailv1.Actor_TYPE_PROVIDER
	case typ == "AWSService":
		a.Id, a.Type = b.name("userIdentity.invokedBy", first(invokedBy, str(u, "principalId"))), keytrailv1.Actor_TYPE_SERVICE
	default:
		b.principal(a, u, typ)
	}
	if a.Id != "" || a.Display != "" {
		b.ev.Actor = a
	}
}

// principal fills in a caller with credentials.
func (b *builder) principal(a *keytrailv1.Actor, u any, typ string) {
	principal := str(u, "principalId")
	issuer := get(u, "sessionContext", "sessionIssuer")
	onBehalf := str(u, "onBehalfOf", "userId")
	a.Id = b.name("userIdentity.arn", first(str(u, "arn"), principal, onBehalf, str(u, "credentialId"), str(u, "accountId")))
	a.Type = actorType(u, typ)
	a.Display = cut(first(str(u, "userName"), str(issuer, "userName")), maxDisplay)
	a.Account = b.short(256, str(u, "accountId"))
	federation := get(u, "sessionContext", "webIdFederationData")
	a.AuthMethod = b.short(128, first(str(u, "identityProvider"), str(federation, "federatedProvider")))
	a.Mfa = truth(get(u, "sessionContext", "attributes", "mfaAuthenticated"))
	// The access key id would do as well, but it is shared by all that hold the key; the
	// session name is what a trail of one session is found by.
	if _, session, ok := strings.Cut(principal, ":"); ok && typ != "WebIdentityUser" && typ != "SAMLUser" {
		a.Session = b.short(256, session)
	} else {
		a.Session = b.short(256, str(u, "credentialId"))
	}
	for _, d := range []string{
		str(issuer, "arn"),
		str(u, "sessionContext", "sourceIdentity"),
		onBehalf,
		str(u, "invokedBy"),
	} {
		if d != "" && d != a.Id && len(d) <= maxRef && isIdentifier(d) && !slices.Contains(a.Delegation, d) {
			a.Delegation = append(a.Delegation, d)
		}
	}
}

// actorType is what the record tells of the kind of caller. A role may be assumed by
// people and by programs: it stays open unless the record says who delivered the role.
func actorType(u any, typ string) keytrailv1.Actor_Type {
	switch typ {
	case "Root", "IAMUser", "FederatedUser", "IdentityCenterUser", "SAMLUser", "Directory":
		return keytrailv1.Actor_TYPE_USER
	case "WebIdentityUser":
		return keytrailv1.Actor_TYPE_USER
	case "AssumedRole":
		session := get(u, "sessionContext")
		role := str(session, "sessionIssuer", "userName")
		switch {
		case strings.HasPrefix(role, "AWSServiceRoleFor"):
			return keytrailv1.Actor_TYPE_SERVICE
		case strings.HasPrefix(role, "AWSReservedSSO_"), str(u, "onBehalfOf", "userId") != "":
			return keytrailv1.Actor_TYPE_USER
		case get(session, "ec2RoleDelivery") != nil, get(u, "inScopeOf") != nil, get(session, "ec2IssuedInVpc") != nil:
			return keytrailv1.Actor_TYPE_WORKLOAD
		}
	}
	return keytrailv1.Actor_TYPE_UNSPECIFIED
}

// truth reads what CloudTrail writes as "true" or "false", in some places as a JSON value.
func truth(v any) *bool {
	var b bool
	switch v {
	case true, "true":
		b = true
	case false, "false":
	default:
		return nil
	}
	return &b
}

// service is the AWS service through which the key was used, if the call came through one.
func service(r record) string {
	by := str(r.object, "userIdentity", "invokedBy")
	if strings.Contains(by, ".") && !strings.ContainsAny(by, " /:") {
		return by
	}
	return ""
}
