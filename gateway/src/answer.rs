//! How the gateway says no: a status and one sentence as JSON `{"error": …}`.

use std::time::Duration;

use axum::{
    Json,
    http::{HeaderValue, StatusCode, header::RETRY_AFTER},
    response::{IntoResponse, Response},
};

/// A refusal on its way to an agent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    status: StatusCode,
    sentence: String,
    retry_after: Option<Duration>,
}

impl Refusal {
    /// A refusal with this status and sentence.
    pub fn new(status: StatusCode, sentence: impl Into<String>) -> Refusal {
        Refusal { status, sentence: sentence.into(), retry_after: None }
    }

    /// 400.
    pub fn malformed(sentence: impl Into<String>) -> Refusal {
        Refusal::new(StatusCode::BAD_REQUEST, sentence)
    }

    /// 401: no certificate, or one that proves nothing.
    pub fn unproven(sentence: impl Into<String>) -> Refusal {
        Refusal::new(StatusCode::UNAUTHORIZED, sentence)
    }

    /// 403: a certificate that proves somebody who may not do this.
    pub fn forbidden(sentence: impl Into<String>) -> Refusal {
        Refusal::new(StatusCode::FORBIDDEN, sentence)
    }

    /// 405.
    pub fn method() -> Refusal {
        Refusal::new(StatusCode::METHOD_NOT_ALLOWED, "this path does not take this method")
    }

    /// 429.
    pub fn too_often(retry_after: Duration) -> Refusal {
        Refusal {
            retry_after: Some(retry_after),
            ..Refusal::new(StatusCode::TOO_MANY_REQUESTS, "too many requests; ask again later")
        }
    }

    /// 503.
    pub fn not_now(sentence: impl Into<String>) -> Refusal {
        Refusal {
            retry_after: Some(Duration::from_secs(2)),
            ..Refusal::new(StatusCode::SERVICE_UNAVAILABLE, sentence)
        }
    }

    /// The status.
    pub fn status(&self) -> StatusCode {
        self.status
    }
}

impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        let body = Json(serde_json::json!({ "error": self.sentence }));
        let mut response = (self.status, body).into_response();
        if let Some(after) = self.retry_after {
            // Whole seconds, rounded up: a client that waits less would be refused again.
            let seconds = after.as_secs() + u64::from(after.subsec_nanos() > 0);
            response.headers_mut().insert(RETRY_AFTER, HeaderValue::from(seconds.max(1)));
        }
        response
    }
}
