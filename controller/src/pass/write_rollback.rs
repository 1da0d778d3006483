//! The one write about a PatchRollback: its status.

use kube::api::{Patch, PatchParams};
use serde_json::json;
use wardring_api::{PatchRollback, PatchRollbackStatus, names::CONTROLLER_MANAGER};

use super::write::Writer;
use crate::cache::Kind;

impl Writer<'_> {
    /// Writes the status; what fails is left to a later pass.
    pub async fn write_rollback_status(
        &mut self,
        rollback: &str,
        uid: &str,
        status: &PatchRollbackStatus,
    ) {
        // One that was made anew under the same name is another order.
        let patch = json!({"metadata": {"uid": uid}, "status": status});
        let params = PatchParams {
            field_manager: Some(CONTROLLER_MANAGER.to_owned()),
            ..PatchParams::default()
        };
        let api = self.api::<PatchRollback>();
        match api.patch_status(rollback, &params, &Patch::Merge(&patch)).await {
            Ok(object) => {
                self.wrote(Kind::Rollback, "status", &object.metadata);
            }
            Err(error) => {
                let namespace = self.namespace;
                tracing::warn!(namespace, rollback, %error, "a PatchRollback's status was not written");
            }
        }
    }
}
