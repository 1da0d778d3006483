//! The network of a scripted device, which an update may kill.

use std::collections::BTreeSet;
use std::net::Ipv4Addr;
use std::sync::Arc;

use wardring_protocol::{JobAnswer, JobQuery, PermitAnswer, PermitRequest, ReportAck, ReportBatch};

use super::Scripted;
use crate::gateway::{Gateway, GatewayError};
use crate::platform::Network;
use crate::state::Witness;

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

    async fn is_there(&self) -> bool {
        match self.reach() {
            Ok(gateway) => gateway.is_there().await,
            Err(_) => false,
        }
    }
}

/// Default gateway and DNS server of every scripted device (RFC 5737).
const ROUTER: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 1);
const DNS: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 53);

impl Network for Scripted {
    async fn answering(&self, named: &BTreeSet<Witness>) -> BTreeSet<Witness> {
        if !self.has_network() {
            return BTreeSet::new();
        }
        let mut answering = named.clone();
        answering.insert(Witness::Router { address: ROUTER.into() });
        answering.insert(Witness::Dns { address: DNS.into() });
        // Those who know the gateways ask them.
        answering.remove(&Witness::Gateway);
        answering
    }
}
