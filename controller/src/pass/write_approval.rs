//! The writes about PatchApprovals, and the look before a status relies on one.

#[cfg(test)]
mod tests;

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
use wardring_planner::{ApprovalPolicy, ApprovalUse, NewApproval, answers_to};

use super::{
    apply::{Basis, Stop},
    write::Writer,
};
use crate::cache::Kind;

/// Objects per page.
const PAGE: u32 = 500;

impl Writer<'_> {
    /// Whether the approval stands now exactly as the plan saw it, nobody rejects the same, and the policies
    /// are those under which it was asked. The list comes last, and one without a version is a consistent read.
    pub async fn confirm_approval(&self, basis: &Basis, used: &ApprovalUse) -> Result<(), Stop> {
        let moved = || Stop::Conflict { what: format!("PatchApproval {}", used.name) };
        match self.desk.guardian.look_again(self.namespace).await {
            ApprovalPolicy::Intact { fingerprint, .. } if fingerprint == used.policy => {}
            _ => return Err(moved()),
        }
        let all = self.answers(used).await.map_err(|source| Stop::Api {
            action: format!("read PatchApproval {} once more", used.name),
            source,
        })?;
        if all.iter().any(|all| all.spec.decision == Some(Decided::Reject)) {
            return Err(moved());
        }
        let stands = all.iter().any(|all| {
            let planned = basis.approvals.get(&used.name);
            all.metadata.uid.as_ref() == Some(&used.uid)
                && all.metadata.deletion_timestamp.is_none()
                && all.spec.decision == Some(Decided::Approve)
                && planned.is_some_and(|planned| planned.value.spec == all.spec)
        });
        if stands { Ok(()) } else { Err(moved()) }
    }

    /// What answers exactly the asking that is relied on, as it is now.
    async fn answers(&self, used: &ApprovalUse) -> kube::Result<Vec<PatchApproval>> {
        let api: Api<PatchApproval> = self.api();
        let mut params = ListParams::default().limit(PAGE);
        let mut found = Vec::new();
        loop {
            let page = api.list(&params).await?;
            found.extend(
                page.items
                    .into_iter()
                    .filter(|all| answers_to(all, &used.rollout, &used.subject, &used.hash)),
            );
            match page.metadata.continue_.filter(|token| !token.is_empty()) {
                Some(token) => params.continue_token = Some(token),
                None => return Ok(found),
            }
        }
    }

    /// Asks. What fails is left to a later pass.
    pub async fn create_approval(&mut self, new: NewApproval) {
        let mut labels = BTreeMap::from([
            (ROLLOUT_LABEL.to_owned(), new.rollout.name.clone()),
            (ROLLOUT_UID_LABEL.to_owned(), new.rollout.uid.clone()),
        ]);
        labels.extend(new.stage.clone().map(|stage| (STAGE_LABEL.to_owned(), stage)));
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
