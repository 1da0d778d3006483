//! What the agent needs of a gateway.

use std::future::Future;

use wardring_protocol::{JobAnswer, JobQuery, PermitAnswer, PermitRequest, ReportAck, ReportBatch};

/// A gateway.
pub trait Gateway: Send + Sync + 'static {
    /// Asks for a job; the call may take as long as the query's `wait`.
    ///
    /// # Errors
    /// No gateway answered, or it refused.
    fn poll(
        &self,
        query: &JobQuery,
    ) -> impl Future<Output = Result<JobAnswer, GatewayError>> + Send;

    /// Asks for a permit.
    ///
    /// # Errors
    /// No gateway answered, or it refused.
    fn permit(
        &self,
        request: &PermitRequest,
    ) -> impl Future<Output = Result<PermitAnswer, GatewayError>> + Send;

    /// Delivers reports.
    ///
    /// # Errors
    /// No gateway answered, or it refused.
    fn report(
        &self,
        batch: &ReportBatch,
    ) -> impl Future<Output = Result<ReportAck, GatewayError>> + Send;
}

/// Why a gateway did not do what it was asked.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum GatewayError {
    /// None answered.
    #[error("failed to reach a gateway: {detail}")]
    Unreachable {
        /// Why, of the last one.
        detail: String,
    },
    /// It is busy; ask again after the pause.
    #[error("the gateway is busy (status {status})")]
    Busy {
        /// HTTP status.
        status: u16,
        /// Pause it asks for.
        retry_after_s: Option<u64>,
    },
    /// It does not accept the message, and never will.
    #[error("the gateway refused with status {status}: {message}")]
    Refused {
        /// HTTP status.
        status: u16,
        /// Its sentence.
        message: String,
    },
}

impl GatewayError {
    /// Whether the message itself is at fault, so that sending it again is useless.
    pub fn is_poison(&self) -> bool {
        matches!(self, GatewayError::Refused { status: 400 | 413 | 422, .. })
    }
}

impl<G: Gateway> Gateway for std::sync::Arc<G> {
    async fn poll(&self, query: &JobQuery) -> Result<JobAnswer, GatewayError> {
        (**self).poll(query).await
    }

    async fn permit(&self, request: &PermitRequest) -> Result<PermitAnswer, GatewayError> {
        (**self).permit(request).await
    }

    async fn report(&self, batch: &ReportBatch) -> Result<ReportAck, GatewayError> {
        (**self).report(batch).await
    }
}
