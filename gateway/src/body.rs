//! Request bodies: bounded in size and time, JSON, refused with a sentence.

use std::sync::Arc;

use axum::{
    body::{Body, Bytes},
    extract::{FromRequest, Request},
    http::{StatusCode, header::CONTENT_LENGTH},
};
use http_body_util::{BodyExt, LengthLimitError, Limited};
use serde::de::DeserializeOwned;
use tokio::time;
use wardring_protocol::MAX_BODY;

use crate::{Gateway, answer::Refusal};

/// A JSON body of at most [`MAX_BODY`] bytes.
#[derive(Debug)]
pub struct Message<T>(pub T);

impl<T: DeserializeOwned> FromRequest<Arc<Gateway>> for Message<T> {
    type Rejection = Refusal;

    async fn from_request(request: Request, gateway: &Arc<Gateway>) -> Result<Message<T>, Refusal> {
        let length = request.headers().get(CONTENT_LENGTH);
        let announced = length.and_then(|value| value.to_str().ok()?.parse::<usize>().ok());
        if announced.is_some_and(|length| length > MAX_BODY) {
            return Err(too_large());
        }
        let patience = gateway.settings.body_timeout;
        let bytes = match time::timeout(patience, collect(request.into_body())).await {
            Ok(bytes) => bytes?,
            Err(_) => {
                let sentence = "the body did not arrive in time";
                return Err(Refusal::new(StatusCode::REQUEST_TIMEOUT, sentence));
            }
        };
        serde_json::from_slice(&bytes).map(Message).map_err(|error| {
            // The category and place, not the content: it may be anything.
            let (line, column) = (error.line(), error.column());
            let sentence = format!(
                "the body is not what this path takes ({:?} error at line {line} column {column})",
                error.classify()
            );
            Refusal::malformed(sentence)
        })
    }
}

async fn collect(body: Body) -> Result<Bytes, Refusal> {
    match Limited::new(body, MAX_BODY).collect().await {
        Ok(collected) => Ok(collected.to_bytes()),
        Err(error) if error.is::<LengthLimitError>() => Err(too_large()),
        Err(_) => Err(Refusal::malformed("the body broke off")),
    }
}

fn too_large() -> Refusal {
    let sentence = format!("a body may have {MAX_BODY} bytes at most");
    Refusal::new(StatusCode::PAYLOAD_TOO_LARGE, sentence)
}
