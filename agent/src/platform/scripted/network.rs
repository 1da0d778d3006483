//! The network of a scripted device, which an update may kill.

use std::sync::Arc;

use wardring_protocol::{JobAnswer, JobQuery, PermitAnswer, PermitRequest, ReportAck, ReportBatch};

use super::Scripted;
use crate::gateway::{Gateway, GatewayError};

/// A gateway behind the device's network.
pub struct ScriptedNetwork<G> {
    device: Arc<Scripted>,
    gateway: G,
}

impl<G: Gateway> ScriptedNetwork<G> {
    /// The gateway, as this device reaches it.
    pub fn new(device: Arc<Scripted>, gateway: G) -> ScriptedNetwork<G> {
        ScriptedNetwork { device, gateway }
    }

    fn reach(&self) -> Result<&G, GatewayError> {
        if self.device.has_network() {
            Ok(&self.gateway)
        } else {
            Err(GatewayError::Unreachable { detail: "the device has no network".to_owned() })
        }
    }
}

impl<G: Gateway> Gateway for ScriptedNetwork<G> {
    async fn poll(&self, query: &JobQuery) -> Result<JobAnswer, GatewayError> {
        self.reach()?.poll(query).await
    }

    async fn permit(&self, request: &PermitRequest) -> Result<PermitAnswer, GatewayError> {
        self.reach()?.permit(request).await
    }

    async fn report(&self, batch: &ReportBatch) -> Result<ReportAck, GatewayError> {
        self.reach()?.report(batch).await
    }
}
