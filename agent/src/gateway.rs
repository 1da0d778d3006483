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

    /// Whether anything at all answers where a gateway should be: one that cannot be trusted, refuses
    /// or is broken does, too. It shows that the network is there, and nothing else.
    fn is_there(&self) -> impl Future<Output = bool> + Send;
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
    /// What answers there is not a gateway that this device trusts, or its clock makes it seem so.
    #[error("{address} cannot be trusted: {fault}")]
    Untrusted {
        /// Where.
        address: String,
        /// What is wrong.
        fault: TrustFault,
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

/// Why a server is not believed to be a gateway.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TrustFault {
    /// Its chain ends elsewhere.
    #[error(
        "its certificate does not lead to the root that this device trusts (with a token, the root \
         whose fingerprint the token ends with); check the address, and that the token was made by \
         the controller behind it"
    )]
    OtherRoot,
    /// The same where a proxy leads there, which is the likelier cause.
    #[error(
        "the proxy opens TLS and presents a certificate of its own, or leads elsewhere; exempt the \
         gateways from inspection in the proxy, or check the address and that the token was made by \
         the controller behind it"
    )]
    Inspected,
    /// The certificate names other hosts.
    #[error(
        "its certificate is for another host; use the name or address that the gateway was \
         installed with"
    )]
    OtherHost,
    /// Not valid at this time, by this device's clock.
    #[error(
        "its certificate is {validity} by this device's clock, which says {clock}; set the clock if \
         it is wrong"
    )]
    Clock {
        /// `not valid yet`, or `expired`.
        validity: &'static str,
        /// What the clock says.
        clock: jiff::Timestamp,
    },
    /// Not our kind of TLS.
    #[error("it does not speak TLS 1.3 ({detail}); check address and port")]
    NotTls {
        /// What TLS says.
        detail: String,
    },
}

impl TrustFault {
    /// Whether time alone may mend it.
    pub fn may_pass(&self) -> bool {
        matches!(self, TrustFault::Clock { .. })
    }
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

    async fn is_there(&self) -> bool {
        (**self).is_there().await
    }
}
