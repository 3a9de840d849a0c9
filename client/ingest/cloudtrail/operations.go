package cloudtrail

import (
	"strings"

	keytrailv1 "github.com/keytrail/keytrail/proto/keytrail/v1"
)

// Event sources that are translated.
const (
	sourceKMS        = "kms.amazonaws.com"
	sourceCloudHSM   = "cloudhsm.amazonaws.com"
	sourceCloudTrail = "cloudtrail.amazonaws.com"
)

// system names the source of the events, "" for those that are not about keys.
func system(eventSource string) string {
	switch eventSource {
	case sourceKMS:
		return "aws.kms"
	case sourceCloudHSM:
		return "aws.cloudhsm"
	case sourceCloudTrail:
		return "aws.cloudtrail"
	}
	return ""
}

// operation classifies by the name of the call and never by readOnly, which is true of
// Decrypt. It reports false for calls that are not about keys.
func operation(r record) (keytrailv1.Operation, bool) {
	name := str(r.object, "eventName")
	switch str(r.object, "eventSource") {
	case sourceKMS:
		return kmsOperation(name, r), true
	case sourceCloudHSM:
		return hsmOperation(name), true
	case sourceCloudTrail:
		op := trailOperation(name)
		return op, op != 0
	}
	return 0, false
}

func kmsOperation(name string, r record) keytrailv1.Operation {
	if op := kmsKeyOperation(name, r); op != 0 {
		return op
	}
	if op := kmsUseOperation(name); op != 0 {
		return op
	}
	switch name {
	case "PutKeyPolicy":
		return keytrailv1.Operation_OPERATION_ACCESS_POLICY_CHANGE
	case "CreateGrant":
		return keytrailv1.Operation_OPERATION_ACCESS_GRANT
	case "RevokeGrant", "RetireGrant":
		return keytrailv1.Operation_OPERATION_ACCESS_REVOKE
	case "TagResource", "UntagResource":
		return keytrailv1.Operation_OPERATION_META_TAG
	case "CreateAlias", "UpdateAlias", "DeleteAlias":
		return keytrailv1.Operation_OPERATION_META_ALIAS
	case "UpdateKeyDescription":
		return keytrailv1.Operation_OPERATION_META_UPDATE
	case "CreateCustomKeyStore":
		return keytrailv1.Operation_OPERATION_STORE_CREATE
	case "UpdateCustomKeyStore":
		return keytrailv1.Operation_OPERATION_STORE_UPDATE
	case "DeleteCustomKeyStore":
		return keytrailv1.Operation_OPERATION_STORE_DELETE
	case "ConnectCustomKeyStore":
		return keytrailv1.Operation_OPERATION_STORE_CONNECT
	case "DisconnectCustomKeyStore":
		return keytrailv1.Operation_OPERATION_STORE_DISCONNECT
	case "DescribeCustomKeyStores":
		return keytrailv1.Operation_OPERATION_STORE_READ
	}
	switch {
	case strings.HasPrefix(name, "List"):
		return keytrailv1.Operation_OPERATION_META_LIST
	case strings.HasPrefix(name, "Get"), strings.HasPrefix(name, "Describe"):
		return keytrailv1.Operation_OPERATION_META_READ
	}
	return keytrailv1.Operation_OPERATION_OTHER
}

func kmsKeyOperation(name string, r record) keytrailv1.Operation {
	switch name {
	case "CreateKey":
		if keyOrigin(r) == "EXTERNAL_KEY_STORE" {
			return keytrailv1.Operation_OPERATION_KEY_REGISTER_EXTERNAL
		}
		return keytrailv1.Operation_OPERATION_KEY_GENERATE
	case "ImportKeyMaterial":
		return keytrailv1.Operation_OPERATION_KEY_IMPORT
	case "GetParametersForImport":
		return keytrailv1.Operation_OPERATION_KEY_IMPORT_PREPARE
	case "RotateKey", "RotateKeyOnDemand":
		return keytrailv1.Operation_OPERATION_KEY_ROTATE
	case "EnableKeyRotation", "DisableKeyRotation":
		return keytrailv1.Operation_OPERATION_KEY_ROTATION_CONFIG
	case "DisableKey":
		return keytrailv1.Operation_OPERATION_KEY_SUSPEND
	case "EnableKey":
		return keytrailv1.Operation_OPERATION_KEY_RESUME
	case "ScheduleKeyDeletion":
		return keytrailv1.Operation_OPERATION_KEY_DESTROY_SCHEDULE
	case "CancelKeyDeletion":
		return keytrailv1.Operation_OPERATION_KEY_DESTROY_CANCEL
	case "DeleteKey", "DeleteImportedKeyMaterial", "DeleteExpiredKeyMaterial":
		return keytrailv1.Operation_OPERATION_KEY_DESTROY
	case "ReplicateKey", "SynchronizeMultiRegionKey", "UpdatePrimaryRegion":
		return keytrailv1.Operation_OPERATION_KEY_REPLICATE
	case "GetPublicKey":
		return keytrailv1.Operation_OPERATION_KEY_READ_PUBLIC
	}
	return 0
}

func kmsUseOperation(name string) keytrailv1.Operation {
	switch name {
	case "Encrypt":
		return keytrailv1.Operation_OPERATION_USE_ENCRYPT
	case "Decrypt":
		return keytrailv1.Operation_OPERATION_USE_DECRYPT
	case "ReEncrypt":
		return keytrailv1.Operation_OPERATION_USE_REENCRYPT
	case "GenerateDataKey", "GenerateDataKeyWithoutPlaintext",
		"GenerateDataKeyPair", "GenerateDataKeyPairWithoutPlaintext":
		return keytrailv1.Operation_OPERATION_USE_DATAKEY
	case "GenerateRandom":
		return keytrailv1.Operation_OPERATION_USE_RANDOM
	case "Sign":
		return keytrailv1.Operation_OPERATION_USE_SIGN
	case "Verify":
		return keytrailv1.Operation_OPERATION_USE_VERIFY
	case "GenerateMac":
		return keytrailv1.Operation_OPERATION_USE_MAC
	case "VerifyMac":
		return keytrailv1.Operation_OPERATION_USE_MAC_VERIFY
	case "DeriveSharedSecret":
		return keytrailv1.Operation_OPERATION_USE_DERIVE
	}
	return 0
}

// hsmOperation classifies calls of the CloudHSM service: clusters, their HSMs, backups.
// What happens inside an HSM is in another log.
func hsmOperation(name string) keytrailv1.Operation {
	switch name {
	case "CreateCluster":
		return keytrailv1.Operation_OPERATION_STORE_CREATE
	case "DeleteCluster":
		return keytrailv1.Operation_OPERATION_STORE_DELETE
	case "InitializeCluster":
		return keytrailv1.Operation_OPERATION_STORE_INIT
	case "ModifyCluster", "CreateHsm", "DeleteHsm", "ModifyBackupAttributes", "DeleteBackup",
		"RestoreBackup", "TagResource", "UntagResource":
		// RestoreBackup takes a backup out of deletion; it brings no keys back.
		return keytrailv1.Operation_OPERATION_STORE_UPDATE
	case "CopyBackupToRegion":
		return keytrailv1.Operation_OPERATION_STORE_BACKUP
	case "PutResourcePolicy", "DeleteResourcePolicy":
		return keytrailv1.Operation_OPERATION_ACCESS_POLICY_CHANGE
	}
	for _, prefix := range []string{"Describe", "List", "Get"} {
		if strings.HasPrefix(name, prefix) {
			return keytrailv1.Operation_OPERATION_STORE_READ
		}
	}
	return keytrailv1.Operation_OPERATION_OTHER
}

// trailOperation classifies the calls that change or read out the audit log itself; 0 for
// those that only look at its settings.
func trailOperation(name string) keytrailv1.Operation {
	switch name {
	case "StartLogging", "StartEventDataStoreIngestion", "RestoreEventDataStore":
		return keytrailv1.Operation_OPERATION_LOG_ENABLE
	case "StopLogging", "DeleteTrail", "StopEventDataStoreIngestion", "DeleteEventDataStore":
		return keytrailv1.Operation_OPERATION_LOG_DISABLE
	case "CreateTrail", "UpdateTrail", "PutEventSelectors", "PutEventConfiguration",
		"CreateEventDataStore", "UpdateEventDataStore", "PutResourcePolicy", "DeleteResourcePolicy",
		"RegisterOrganizationDelegatedAdmin", "DeregisterOrganizationDelegatedAdmin":
		return keytrailv1.Operation_OPERATION_LOG_CONFIG
	case "LookupEvents", "StartQuery", "GetQueryResults":
		return keytrailv1.Operation_OPERATION_LOG_READ
	}
	return 0
}

// outcome is denied when permission or proof of identity was lacking, a failure with any
// other error, and otherwise a success.
func outcome(r record) keytrailv1.Outcome {
	code := str(r.object, "errorCode")
	if code == "" {
		if str(r.object, "errorMessage") != "" {
			return keytrailv1.Outcome_OUTCOME_FAILURE
		}
		return keytrailv1.Outcome_OUTCOME_SUCCESS
	}
	for _, part := range []string{"AccessDenied", "NotAuthorized", "Unauthorized", "AuthFailure", "ExpiredToken"} {
		if strings.Contains(code, part) {
			return keytrailv1.Outcome_OUTCOME_DENIED
		}
	}
	switch strings.TrimSuffix(strings.TrimPrefix(code, "Client."), "Exception") {
	case "UnrecognizedClient", "InvalidClientTokenId", "MissingAuthenticationToken",
		"IncompleteSignature", "InvalidSignature", "SignatureDoesNotMatch", "OptInRequired":
		return keytrailv1.Outcome_OUTCOME_DENIED
	}
	return keytrailv1.Outcome_OUTCOME_FAILURE
}
