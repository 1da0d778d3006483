//! Whether the gateways answer this agent: what a new program is measured by.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use wardring_protocol::{JobAnswer, JobQuery, PermitAnswer, PermitRequest, ReportAck, ReportBatch};

use crate::gateway::{Gateway, GatewayError};

/// A gateway that remembers whether the last question was answered.
pub(super) struct Noted<G> {
    gateway: Arc<G>,
    has_contact: AtomicBool,
}

impl<G: Gateway> Noted<G> {
    /// What was never tried counts as contact: a new program must then show it.
    pub fn new(gateway: Arc<G>) -> Noted<G> {
        Noted { gateway, has_contact: AtomicBool::new(true) }
    }

    /// Whether the last question was answered.
    pub fn has_contact(&self) -> bool {
        self.has_contact.load(Ordering::Relaxed)
    }

    fn note<T>(&self, answer: Result<T, GatewayError>) -> Result<T, GatewayError> {
        self.has_contact.store(answer.is_ok(), Ordering::Relaxed);
        answer
    }
}

impl<G: Gateway> Gateway for Noted<G> {
    async fn poll(&self, query: &JobQuery) -> Result<JobAnswer, GatewayError> {
        let answer = self.gateway.poll(query).await;
        self.note(answer)
    }

    async fn permit(&self, request: &PermitRequest) -> Result<PermitAnswer, GatewayError> {
        let answer = self.gateway.permit(request).await;
        self.note(answer)
    }

    async fn report(&self, batch: &ReportBatch) -> Result<ReportAck, GatewayError> {
        let answer = self.gateway.report(batch).await;
        self.note(answer)
    }

    async fn is_there(&self) -> bool {
        self.gateway.is_there().await
    }
}
