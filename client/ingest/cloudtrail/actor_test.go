package cloudtrail_test

import (
	"encoding/json"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/testing/protocmp"

	keytrailv1 "github.com/keytrail/keytrail/proto/keytrail/v1"
)

func TestActors(t *testing.T) {
	const account = "000100020003"
	role := `"sessionContext":{"sessionIssuer":{"type":"Role","arn":"arn:aws:iam::000100020003:role/r","userName":"r"},"attributes":{"mfaAuthenticated":"true"}`
	const roleARN, stsARN = "arn:aws:iam::000100020003:role/r", "arn:aws:sts::000100020003:assumed-role/r/s"
	assumed := `"type":"AssumedRole","principalId":"AROA1:s","arn":"` + stsARN + `","accountId":"` + account + `","accessKeyId":"ASIA1",`
	for _, c := range []struct {
		name, identity, eventType string
		want                      *keytrailv1.Actor
		service                   string
	}{
		{"root", `{"type":"Root","principalId":"000100020003","arn":"arn:aws:iam::000100020003:root","accountId":"000100020003"}`, "",
			&keytrailv1.Actor{Id: "arn:aws:iam::000100020003:root", Type: keytrailv1.Actor_TYPE_USER, Account: account}, ""},
		{"user through a service", `{"type":"IAMUser","arn":"arn:aws:iam::000100020003:user/u","userName":"u","accountId":"000100020003","invokedBy":"s3.amazonaws.com","sessionContext":{"attributes":{"mfaAuthenticated":"false"}}}`, "",
			&keytrailv1.Actor{Id: "arn:aws:iam::000100020003:user/u", Type: keytrailv1.Actor_TYPE_USER, Display: "u", Account: account, Mfa: proto.Bool(false), Delegation: []string{"s3.amazonaws.com"}}, "s3.amazonaws.com"},
		{"role", `{` + assumed + role + `}}`, "",
			&keytrailv1.Actor{Id: stsARN, Display: "r", Mfa: proto.Bool(true), Session: "s", Account: account, Delegation: []string{roleARN}}, ""},
		{"role of an instance", `{` + assumed + role + `,"ec2RoleDelivery":"2.0"}}`, "",
			&keytrailv1.Actor{Id: stsARN, Type: keytrailv1.Actor_TYPE_WORKLOAD, Display: "r", Mfa: proto.Bool(true), Session: "s", Account: account, Delegation: []string{roleARN}}, ""},
		{"role of a function", `{` + assumed + role + `},"inScopeOf":{"issuerType":"AWS::Lambda::Function","credentialsIssuedTo":"arn:aws:lambda:eu-central-1:000100020003:function:f"}}`, "",
			&keytrailv1.Actor{Id: stsARN, Type: keytrailv1.Actor_TYPE_WORKLOAD, Display: "r", Mfa: proto.Bool(true), Session: "s", Account: account, Delegation: []string{roleARN}}, ""},
		{"role of a service", `{` + assumed + strings.Replace(role, `"userName":"r"`, `"userName":"AWSServiceRoleForRDS"`, 1) + `}}`, "",
			&keytrailv1.Actor{Id: stsARN, Type: keytrailv1.Actor_TYPE_SERVICE, Display: "AWSServiceRoleForRDS", Mfa: proto.Bool(true), Session: "s", Account: account, Delegation: []string{roleARN}}, ""},
		{"role for a person", `{` + assumed + role + `,"sourceIdentity":"u@x.test"},"onBehalfOf":{"userId":"id-1"}}`, "",
			&keytrailv1.Actor{Id: stsARN, Type: keytrailv1.Actor_TYPE_USER, Display: "r", Mfa: proto.Bool(true), Session: "s", Account: account, Delegation: []string{roleARN, "u@x.test", "id-1"}}, ""},
		{"web identity", `{"type":"WebIdentityUser","principalId":"idp.test:app:u","userName":"u","identityProvider":"idp.test"}`, "",
			&keytrailv1.Actor{Id: "idp.test:app:u", Type: keytrailv1.Actor_TYPE_USER, Display: "u", AuthMethod: "idp.test"}, ""},
		{"identity center", `{"type":"IdentityCenterUser","accountId":"000100020003","onBehalfOf":{"userId":"id-1"},"credentialId":"c-1"}`, "",
			&keytrailv1.Actor{Id: "id-1", Type: keytrailv1.Actor_TYPE_USER, Session: "c-1", Account: account}, ""},
		{"another account", `{"type":"AWSAccount","principalId":"AROA9:s","accountId":"000700080009"}`, "",
			&keytrailv1.Actor{Id: "AROA9:s", Session: "s", Account: "000700080009"}, ""},
		{"service", `{"type":"AWSService","invokedBy":"rds.amazonaws.com"}`, "",
			&keytrailv1.Actor{Id: "rds.amazonaws.com", Type: keytrailv1.Actor_TYPE_SERVICE}, "rds.amazonaws.com"},
		{"KMS itself", `{"accountId":"000100020003","invokedBy":"AWS Internal"}`, "AwsServiceEvent",
			&keytrailv1.Actor{Id: "AWS Internal", Type: keytrailv1.Actor_TYPE_PROVIDER}, ""},
		{"KMS itself, as a call", `{"accountId":"000100020003","invokedBy":"AWS Internal"}`, "AwsApiCall",
			&keytrailv1.Actor{Id: "AWS Internal", Type: keytrailv1.Actor_TYPE_PROVIDER}, ""},
		{"nobody", `null`, "", nil, ""},
		{"not an object", `["x"]`, "", nil, ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			if !json.Valid([]byte(c.identity)) {
				t.Fatalf("the case is no JSON: %s", c.identity)
			}
			r := record(`"eventName":"Decrypt","eventType":"` + c.eventType + `"`)
			from := strings.Index(r, `{"type":"IAMUser"`)
			to := from + strings.Index(r[from:], "}") + 1
			ev := one(t, tenant, r[:from]+c.identity+r[to:])
			if diff := cmp.Diff(c.want, ev.GetActor(), protocmp.Transform()); diff != "" {
				t.Errorf("actor (-want +got):\n%s", diff)
			}
			if ev.GetService() != c.service {
				t.Errorf("service %q, want %q", ev.GetService(), c.service)
			}
		})
	}
}
