//! The writes about PatchApprovals, and the look before a status relies on one.

use std::collections::BTreeMap;

use kube::{
    Api,
    api::{DeleteParams, ListParams, Patch, PatchParams, PostParams, Preconditions},
};
use serde_json::json;
use wardring_api::{
    Decided, PatchApproval, PatchApprovalStatus,
    names::{CONTROLLER_MANAGER, ROLLOUT_LABEL, ROLLOUT_UID_LABEL, STAGE_LABEL},
};
use wardring_planner::{ApprovalPolicy, ApprovalUse, NewApproval};

use super::{
    apply::{Basis, Stop},
    write::Writer,
};
use crate::cache::Kind;

impl Writer<'_> {
    /// Whether the approval stands now exactly as the plan saw it, nobody rejects the same, and the policies
    /// are those under which it was asked. A list without a version is a consistent read.
    pub async fn confirm_approval(&self, basis: &Basis, used: &ApprovalUse) -> Result<(), Stop> {
        let moved = || Stop::Conflict { what: format!("PatchApproval {}", used.name) };
        let api: Api<PatchApproval> = self.api();
        let all = api.list(&ListParams::default()).await.map_err(|source| Stop::Api {
            action: format!("read PatchApproval {} once more", used.name),
            source,
        })?;
        let same = |all: &&PatchApproval| all.spec.approval_hash == used.hash;
        if all.iter().filter(same).any(|all| all.spec.decision == Some(Decided::Reject)) {
            return Err(moved());
        }
        let stands = all.iter().filter(same).any(|all| {
            let planned = basis.approvals.get(&used.name);
            all.metadata.uid.as_ref() == Some(&used.uid)
                && all.metadata.deletion_timestamp.is_none()
                && all.spec.decision == Some(Decided::Approve)
                && all.spec.rollout_uid == used.rollout.uid
                && planned.is_some_and(|planned| planned.value.spec == all.spec)
        });
        if !stands {
            return Err(moved());
        }
        match self.desk.guardian.look_again(self.namespace).await {
            ApprovalPolicy::Intact { fingerprint, .. } if fingerprint == used.policy => Ok(()),
            _ => Err(moved()),
        }
    }

    /// Asks. What fails is left to a later pass.
    pub async fn create_approval(&mut self, new: NewApproval) {
        let labels = BTreeMap::from([
            (ROLLOUT_LABEL.to_owned(), new.rollout.name.clone()),
            (ROLLOUT_UID_LABEL.to_owned(), new.rollout.uid.clone()),
            (STAGE_LABEL.to_owned(), new.stage.clone()),
        ]);
        let mut object = PatchApproval::new(&new.name, new.spec);
        object.metadata.labels = Some(labels);
        let params = PostParams {
            field_manager: Some(CONTROLLER_MANAGER.to_owned()),
            ..PostParams::default()
        };
        match self.api::<PatchApproval>().create(&params, &object).await {
            Ok(object) => {
                self.wrote(Kind::Approval, "create", &object.metadata);
            }
            Err(kube::Error::Api(status)) if status.is_already_exists() => {}
            Err(error) => self.complain(&new.name, "created", &error),
        }
    }

    /// Writes the status; what fails is left to a later pass.
    pub async fn write_approval_status(
        &mut self,
        name: &str,
        uid: &str,
        status: &PatchApprovalStatus,
    ) {
        // One that was made anew under the same name is another word.
        let patch = json!({"metadata": {"uid": uid}, "status": status});
        let params = PatchParams {
            field_manager: Some(CONTROLLER_MANAGER.to_owned()),
            ..PatchParams::default()
        };
        let api = self.api::<PatchApproval>();
        match api.patch_status(name, &params, &Patch::Merge(&patch)).await {
            Ok(object) => {
                self.wrote(Kind::Approval, "status", &object.metadata);
            }
            Err(error) => self.complain(name, "given its status", &error),
        }
    }

    /// Deletes one whose retention is over.
    pub async fn delete_approval(&mut self, name: &str, uid: &str) {
        let only_this = Preconditions { uid: Some(uid.to_owned()), resource_version: None };
        let params = DeleteParams { preconditions: Some(only_this), ..DeleteParams::default() };
        if let Err(error) = self.api::<PatchApproval>().delete(name, &params).await {
            self.complain(name, "deleted", &error);
        }
    }

    fn complain(&self, name: &str, what: &str, error: &kube::Error) {
        let namespace = self.namespace;
        tracing::warn!(namespace, approval = name, %error, "a PatchApproval was not {what}");
    }
}
