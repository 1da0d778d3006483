//! The one write about a Device that a plan asks for: its condition Quarantined.

use jiff::Timestamp;
use kube::api::{Patch, PatchParams};
use serde_json::json;
use wardring_api::{Device, conditions, names::QUARANTINE_MANAGER, reasons::Reason};

use super::write::Writer;
use crate::cache::Kind;

impl Writer<'_> {
    /// Writes the condition; what fails is said and left to the next pass. Saying the same again changes
    /// nothing.
    pub async fn write_quarantine(
        &mut self,
        device: &str,
        quarantined: bool,
        reason: Reason,
        message: &str,
        since: Timestamp,
    ) {
        let mut list = Vec::new();
        let truth = quarantined.into();
        conditions::set(&mut list, conditions::QUARANTINED, truth, reason, message, None, since);
        // Applied, so that the list merges by type, and by a manager of its own: whoever applies Online
        // takes away what the same manager applied before and does not name now.
        let patch = json!({
            "apiVersion": "wardring.dev/v1alpha1",
            "kind": "Device",
            "metadata": {"name": device},
            "status": {"conditions": list},
        });
        let params = PatchParams::apply(QUARANTINE_MANAGER).force();
        match self.api::<Device>().patch_status(device, &params, &Patch::Apply(&patch)).await {
            Ok(object) => {
                self.wrote(Kind::Device, "status", &object.metadata);
            }
            // It is gone, and with it what could be damaged.
            Err(kube::Error::Api(status)) if status.is_not_found() => {}
            Err(error) => {
                self.memory.looks_again = true;
                tracing::error!(
                    namespace = self.namespace,
                    device,
                    quarantined,
                    %error,
                    "the condition Quarantined was not written; it is tried again"
                );
            }
        }
    }
}
