//! PatchApprovals in the cache. None of them interrupts a plan that is being carried out: whoever may only
//! approve must not hold up a halt, and what a plan relies on is read anew before it is written.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::ResourceExt;
use wardring_api::PatchApproval;

use super::{
    Cached, Interner, Kind, Namespace,
    kinds::{put_newer, stored},
};

impl Cached for PatchApproval {
    const KIND: Kind = Kind::Approval;

    fn put(mut self, space: &mut Namespace, _: &mut Interner, version: u64) -> bool {
        // Whoever may make one may write a lot into the rest.
        let known = std::mem::take(&mut self.metadata);
        self.metadata = ObjectMeta {
            name: known.name,
            namespace: known.namespace,
            uid: known.uid,
            resource_version: known.resource_version,
            generation: known.generation,
            creation_timestamp: known.creation_timestamp,
            deletion_timestamp: known.deletion_timestamp,
            ..ObjectMeta::default()
        };
        let name = self.name_any();
        put_newer(&mut space.approvals, name, stored(&self.clone(), version, self))
    }

    fn known<'a>(space: &'a mut Namespace, name: &str) -> Option<&'a mut u64> {
        space.approvals.get_mut(name).map(|known| &mut known.version)
    }

    fn drop_from(space: &mut Namespace, name: &str) -> bool {
        space.approvals.remove(name).is_some()
    }

    fn names_in(space: &Namespace) -> Vec<String> {
        space.approvals.keys().cloned().collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn approval(decision: &str, version: u64) -> PatchApproval {
        serde_json::from_value(serde_json::json!({
            "apiVersion": "wardring.dev/v1alpha1", "kind": "PatchApproval",
            "metadata": {
                "name": "sign-off", "namespace": "clinic", "uid": "a-1",
                "resourceVersion": version.to_string(), "generation": 2,
                "creationTimestamp": "2026-11-21T02:00:00Z", "deletionTimestamp": "2026-11-21T03:00:00Z",
                "annotations": { "a": "x".repeat(65_536) }, "labels": { "a": "x" },
                "finalizers": ["example.com/x"], "managedFields": [{ "manager": "x" }],
                "ownerReferences": [{ "apiVersion": "v1", "kind": "Pod", "name": "x", "uid": "x" }],
            },
            "spec": {
                "rollout": "november", "rolloutUid": "u-1", "approvalHash": "v1:1",
                "subject": { "type": "StageGate", "stageGate": { "stage": "ward", "gate": "board" } },
                "decision": decision, "approver": "bob", "reason": "r",
            },
        }))
        .expect("an approval")
    }

    #[test]
    fn nobodys_word_interrupts_a_plan_and_little_is_kept_of_it() {
        let (mut space, mut pool) = (Namespace::default(), Interner::default());
        for (version, decision) in [(1, "Approve"), (2, "Reject")] {
            assert!(approval(decision, version).put(&mut space, &mut pool, version));
        }
        let kept = serde_json::to_string(&space.approvals["sign-off"].value.metadata);
        assert_eq!(
            kept.unwrap_or_default(),
            r#"{"creationTimestamp":"2026-11-21T02:00:00Z","deletionTimestamp":"2026-11-21T03:00:00Z","generation":2,"name":"sign-off","namespace":"clinic","resourceVersion":"2","uid":"a-1"}"#
        );
        assert!(PatchApproval::drop_from(&mut space, "sign-off"));
        assert_eq!(space.intent, 0);
    }
}
