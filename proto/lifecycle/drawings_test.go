package lifecycle_test

import "testing"

// drawings are the situations that the fold is about. Each is a golden vector too.
var drawings = []struct{ name, about, drawing string }{
	{"nist", "The states of NIST SP 800-57 in order, with the uses that each allows.", `
		generate after=PreActive => pre_active
		use.encrypt !forbidden_use => pre_active
		use.decrypt !forbidden_use
		activate => active
		use.encrypt
		use.decrypt
		suspend => suspended
		use.encrypt !forbidden_use => suspended
		use.reencrypt !forbidden_use
		use.derive !forbidden_use
		use.decrypt
		use.mac_verify
		resume => active
		deactivate => deactivated
		use.sign !forbidden_use
		use.verify
		compromise => compromised
		use.wrap !forbidden_use
		use.unwrap
		destroy => destroyed_compromised
		use.unwrap !use_after_destroy => destroyed_compromised`},
	{"illegal", "Transitions that no standard knows are findings; the source's report counts, save where it would take back a compromise or a scheduled destruction.", `
		generate => active
		generate !illegal_transition => active
		deactivate => deactivated
		suspend !illegal_transition => deactivated
		activate !illegal_transition => active
		destroy_cancel !illegal_transition => active
		compromise => compromised
		resume !illegal_transition => compromised
		destroy_schedule => destroy_pending<compromised
		resume !illegal_transition => destroy_pending<compromised
		destroy_cancel => compromised
		destroy => destroyed_compromised`},
	{"repeats", "Doing again what was done is no finding.", `
		generate
		suspend
		suspend => suspended
		resume
		resume => active
		destroy_schedule
		destroy_schedule => destroy_pending<active
		destroy
		destroy => destroyed`},
	{"refused", "What the source refused changes nothing and is no finding, not even on a destroyed key.", `
		generate ?failure => unspecified
		generate => active
		suspend ?denied => active
		destroy
		use.decrypt ?failure => destroyed
		use.decrypt ?denied
		use.decrypt ?partial !use_after_destroy`},
	{"no-effect", "A call that was accepted and changed nothing is never illegal.", `
		generate v1 => active v1:active
		generate ?noeffect => active v1:active
		destroy
		generate ?noeffect => destroyed v1:destroyed`},
	{"no-birth", "A key that was there before the log: one finding, and what is seen of it says what it is.", `
		meta.read !no_birth => unspecified
		meta.read => unspecified
		use.encrypt => active
		use.encrypt v1 => active v1:active`},
	{"no-birth-by-word", "The source's word fills in what is not known.", `
		source aws.kms
		meta.read after=Disabled !no_birth => suspended
		use.encrypt !forbidden_use`},
	{"no-birth-no-effect", "Creating a key that exists shows that it was there before the log.", `
		generate ?noeffect !no_birth => unspecified
		rotate v2 => active v2:active`},
	{"ceremony-before-birth", "A ceremony comes before the key that it makes.", `
		ceremony.begin => unspecified
		generate => active`},
	{"also-generate", "An encryption that made its key: the birth comes first.", `
		use.encrypt v1 also=key.generate => active v1:active
		use.decrypt`},
	{"aws", "AWS KMS: deletion has a waiting period, and cancelling it leaves the key disabled.", `
		source aws.kms
		generate origin=generated after=Enabled => active
		use.datakey
		suspend call=DisableKey => suspended
		resume call=EnableKey => active
		destroy_schedule after=PendingDeletion => destroy_pending<active
		use.decrypt ?failure
		use.decrypt !forbidden_use
		destroy_cancel => suspended
		resume => active
		destroy_schedule after=PendingDeletion
		destroy call=DeleteKey => destroyed`},
	{"aws-unscheduled", "A final deletion at AWS without the scheduling before it.", `
		source aws.kms
		generate
		destroy call=DeleteKey !unscheduled_destroy => destroyed`},
	{"aws-imported", "AWS KMS with imported material: the key waits for it, loses it, waits again and takes it back; its shell can be deleted.", `
		source aws.kms
		generate origin=imported after=PendingImport => pending_material
		use.encrypt !forbidden_use
		import_prepare
		import => active
		use.encrypt
		import => active
		destroy call=DeleteImportedKeyMaterial => destroyed
		use.decrypt ?failure
		import_prepare
		import !reimport => active
		destroy call=DeleteExpiredKeyMaterial => destroyed
		destroy_schedule after=PendingDeletion => destroyed
		destroy call=DeleteKey => destroyed`},
	{"aws-imported-unseen", "That material was imported shows in how it ends.", `
		source aws.kms
		use.decrypt !no_birth => active
		destroy call=DeleteImportedKeyMaterial after=PendingImport => destroyed
		import !reimport => active`},
	{"origin-waits", "A key made for material from elsewhere waits for it, also where the source does not say so.", `
		generate origin=external => pending_material
		import => active`},
	{"external", "A key that lives in another manager has its material from the start.", `
		source aws.kms
		register_external => active
		use.encrypt`},
	{"pending-birth", "A birth that is under way.", `
		generate v1 ?pending => pending_material v1:pending_material
		generate v1 => active v1:active
		rotate v2 ?pending => active v1:active v2:pending_material
		use.encrypt v2 !forbidden_use/v2
		rotate v2 => active v1:active v2:active
		suspend ?pending => active v1:active v2:active`},
	{"gcp", "Google Cloud KMS: states belong to versions; a restored version is disabled, a destroyed one takes its material back.", `
		source gcp.kms
		generate v1 after=ENABLED => active v1:active
		generate v2 after=PENDING_GENERATION => active v1:active v2:pending_material
		generate v2 => active v1:active v2:active
		suspend v1 after=DISABLED => active v1:suspended v2:active
		use.encrypt v2
		use.decrypt v1
		use.encrypt v1 !forbidden_use/v1
		destroy_schedule v1 after=DESTROY_SCHEDULED => active v1:destroy_pending<suspended v2:active
		destroy_cancel v1 => active v1:suspended v2:active
		destroy_schedule v1
		destroy v1 after=DESTROYED => active v1:destroyed v2:active
		use.decrypt v1 !use_after_destroy/v1
		use.decrypt v2
		import v1 !reimport/v1 => active v1:active v2:active
		destroy v1 !unscheduled_destroy/v1`},
	{"openbao", "OpenBao transit: minimum versions, trim, soft delete and its undoing, delete.", `
		source openbao
		generate v1 => active v1:active
		use.encrypt v1
		rotate v2
		rotate v3 => active v1:active v2:active v3:active
		deactivate v1,v2 => active v1:deactivated v2:deactivated v3:active
		use.encrypt v3
		use.decrypt
		destroy v1 => active v1:destroyed v2:deactivated v3:active
		destroy v1,v2 => active v1:destroyed v2:destroyed v3:active
		destroy_schedule => destroy_pending<active v1:destroyed v2:destroyed v3:active
		use.encrypt v3 ?failure
		use.encrypt v3 !forbidden_use
		destroy_cancel => active v1:destroyed v2:destroyed v3:active
		use.encrypt v3
		destroy => destroyed v1:destroyed v2:destroyed v3:destroyed
		use.decrypt v2 ?failure`},
	{"openbao-again", "A name used again is another key; a restored one is the old.", `
		source openbao
		generate v1
		rotate v2
		destroy => destroyed v1:destroyed v2:destroyed
		generate v1 => active v1:active
		destroy
		restore !reimport => active
		use.encrypt v2 => active v2:active`},
	{"imported-again", "An import after the destruction of a generated key makes another key; of an imported one it may be the same.", `
		generate
		destroy
		import v1 => active v1:active
		import v2 => active v1:active v2:active
		destroy
		import v1 !reimport => active v1:active`},
	{"clone", "A backup restored under a new name is that name's birth.", `
		source openbao
		restore => active
		use.encrypt v2`},
	{"compromise", "A compromise of the key concerns the versions there are, not one made later.", `
		generate v1
		compromise => compromised v1:compromised
		use.encrypt !forbidden_use
		rotate v2 => compromised v1:compromised v2:active
		use.encrypt v2
		use.decrypt v1
		use.encrypt v1 !forbidden_use/v1
		use.encrypt v3 !forbidden_use/v3
		destroy => destroyed_compromised v1:destroyed_compromised v2:destroyed v3:destroyed_compromised
		compromise v2 => destroyed_compromised v1:destroyed_compromised v2:destroyed_compromised v3:destroyed_compromised`},
	{"compromise-late", "A destroyed key can still become known as compromised, one scheduled for destruction too.", `
		generate
		destroy_schedule
		compromise => destroy_pending<compromised
		destroy => destroyed_compromised
		restore !reimport => compromised`},
	{"compromise-after-destroy", "Compromise after destruction, and then nothing more.", `
		generate
		destroy
		compromise => destroyed_compromised
		compromise => destroyed_compromised
		export !use_after_destroy
		rotate v2 !use_after_destroy => destroyed_compromised
		suspend v1 !use_after_destroy => destroyed_compromised
		meta.read
		access.policy_change => destroyed_compromised`},
	{"masks", "What is done to the key as a whole comes before what its versions are.", `
		generate v1
		rotate v2
		suspend => suspended v1:active v2:active
		use.encrypt v2 !forbidden_use
		use.decrypt v2
		resume
		use.encrypt v2`},
	{"kmip", "KMIP: created pre-active, activated, revoked.", `
		source kmip
		generate after=PreActive => pre_active
		activate before=PreActive after=Active => active
		compromise after=Compromised => compromised
		activate after=Active !illegal_transition !state_mismatch => compromised
		destroy after=Destroyed_Compromised => destroyed_compromised`},
	{"mismatch", "The source's word against the events: a finding once, and believed.", `
		source aws.kms
		generate
		use.decrypt before=Disabled !state_mismatch => suspended
		meta.read after=disabled => suspended
		meta.read after=Enabled !state_mismatch => active
		meta.read after=Frobnicated => active
		suspend after=Enabled !state_mismatch => active
		compromise after=Enabled => compromised
		meta.read after=Disabled => compromised`},
	{"unavailable", "A disconnected key store is no state of the key.", `
		source aws.kms
		generate
		use.decrypt ?failure after=Unavailable => active unavailable
		suspend => suspended unavailable
		meta.read after=Disabled => suspended
		meta.read after=Unavailable => suspended unavailable
		resume
		use.decrypt => active`},
	{"time", "Lines slightly out of order are usual; more is a finding.", `
		generate
		use.encrypt +1h
		use.encrypt -5s
		use.encrypt -1ns !time_backwards
		use.encrypt ?failure -1m !time_backwards
		use.encrypt +2h`},
	{"azure", "Azure Key Vault: soft delete, recover, purge.", `
		source azure.keyvault
		generate v1
		generate v2 => active v1:active v2:active
		generate v2 !illegal_transition => active v1:active v2:active
		destroy_schedule => destroy_pending<active v1:active v2:active
		destroy_cancel => active v1:active v2:active
		destroy !unscheduled_destroy => destroyed v1:destroyed v2:destroyed`},
	{"activate-version", "Choosing a primary version does not resume a key, but ends its pre-activation.", `
		generate v1 after=pre-active => pre_active v1:pre_active
		activate v1 => active v1:active
		suspend
		activate v1 => suspended v1:active`},
	{"rotate-out-of-order", "With parallel clients the use of a version may stand before its making.", `
		generate v1
		use.encrypt v2
		rotate v2 => active v1:active v2:active
		destroy v1
		rotate v1 !use_after_destroy/v1 => active v1:destroyed v2:active`},
}

func TestDrawings(t *testing.T) {
	for _, d := range drawings {
		t.Run(d.name, func(t *testing.T) { checkDrawing(t, d.drawing) })
	}
}
