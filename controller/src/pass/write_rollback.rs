//! The one write about a PatchRollback: its status.

use kube::api::PostParams;
use wardring_api::{PatchRollback, PatchRollbackStatus, names::CONTROLLER_MANAGER};

use super::{apply::Basis, write::Writer};
use crate::cache::Kind;

impl Writer<'_> {
    /// Replaces the status of exactly the order that the plan saw; what fails is left to a later pass. It says
    /// what a second person approved, so nothing old may come after something newer.
    pub async fn write_rollback_status(
        &mut self,
        basis: &Basis,
        rollback: &str,
        uid: &str,
        status: &PatchRollbackStatus,
    ) {
        let stored = basis.orders.get(rollback);
        // One that was made anew under the same name is another order.
        let Some(stored) = stored.filter(|all| all.value.metadata.uid.as_deref() == Some(uid))
        else {
            return;
        };
        let mut object = PatchRollback::clone(&stored.value);
        object.metadata.resource_version = Some(stored.version.to_string());
        object.status = Some(status.clone());
        let params = PostParams {
            field_manager: Some(CONTROLLER_MANAGER.to_owned()),
            ..PostParams::default()
        };
        match self.api::<PatchRollback>().replace_status(rollback, &params, &object).await {
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
