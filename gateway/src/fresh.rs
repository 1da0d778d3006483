//! Reads straight from the API server, never from the cache, with the server's clock.

use std::time::Duration;

use http::{HeaderMap, Request, header::DATE};
use http_body_util::BodyExt;
use jiff::{SignedDuration, Timestamp, fmt::rfc2822::DateTimeParser};
use k8s_openapi::{NamespaceResourceScope, api::core::v1::Namespace};
use kube::{Client, Resource, client::Body};
use serde::de::DeserializeOwned;
use tokio::time;

/// A healthy API server answers in milliseconds; one that hangs must not hold devices.
pub const PATIENCE: Duration = Duration::from_secs(5);
/// Clocks that differ by more make times meaningless.
pub const SKEW_BORNE: SignedDuration = SignedDuration::from_secs(30);

/// Why a read gave nothing to rely on.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    /// The call.
    #[error("failed to ask the API server")]
    Call(#[source] kube::Error),
    /// No answer.
    #[error("the API server did not answer within {PATIENCE:?}")]
    Timeout,
    /// The answer.
    #[error("the API server answered {code}")]
    Answer {
        /// HTTP status.
        code: u16,
    },
    /// The answer's body.
    #[error("failed to read the API server's answer")]
    Body,
}

/// An object (if it is there), and whether our clock and the API server's agree.
#[derive(Debug)]
pub struct Fresh<K> {
    /// The object.
    pub object: Option<K>,
    /// Both clocks are within 30 s.
    pub clock_trusted: bool,
}

/// Reads one object with the clock of the server that answered.
pub async fn read<K>(client: &Client, namespace: &str, name: &str) -> Result<Fresh<K>, ReadError>
where
    K: Resource<Scope = NamespaceResourceScope, DynamicType = ()> + DeserializeOwned,
{
    patiently(client, format!("{}/{name}", K::url_path(&(), Some(namespace)))).await
}

/// Reads a Namespace.
pub async fn read_namespace(client: &Client, name: &str) -> Result<Fresh<Namespace>, ReadError> {
    patiently(client, format!("{}/{name}", Namespace::url_path(&(), None))).await
}

async fn patiently<K: DeserializeOwned>(
    client: &Client,
    url: String,
) -> Result<Fresh<K>, ReadError> {
    time::timeout(PATIENCE, ask(client, url)).await.unwrap_or(Err(ReadError::Timeout))
}

async fn ask<K: DeserializeOwned>(client: &Client, url: String) -> Result<Fresh<K>, ReadError> {
    let request = Request::get(url)
        .body(Body::empty())
        .expect("names of namespaces and objects are valid in a path");
    let response = client.send(request).await.map_err(ReadError::Call)?;
    let clock_trusted = ahead(response.headers()).is_some_and(|ahead| ahead.abs() <= SKEW_BORNE);
    let code = response.status().as_u16();
    let object = match code {
        200 => {
            let bytes = response.into_body().collect().await.map_err(|_| ReadError::Body)?;
            Some(serde_json::from_slice(&bytes.to_bytes()).map_err(|_| ReadError::Body)?)
        }
        404 => None,
        code => return Err(ReadError::Answer { code }),
    };
    Ok(Fresh { object, clock_trusted })
}

/// How far our clock is ahead of the API server's, if it says.
pub async fn server_clock(client: &Client) -> Result<Option<SignedDuration>, ReadError> {
    let request = Request::get("/version").body(Body::empty()).expect("the path is valid");
    let asked = time::timeout(PATIENCE, client.send(request)).await;
    let response = asked.map_err(|_| ReadError::Timeout)?.map_err(ReadError::Call)?;
    Ok(ahead(response.headers()))
}

fn ahead(headers: &HeaderMap) -> Option<SignedDuration> {
    ahead_of(headers.get(DATE)?.to_str().ok()?, Timestamp::now())
}

fn ahead_of(date: &str, now: Timestamp) -> Option<SignedDuration> {
    let theirs = DateTimeParser::new().parse_timestamp(date).ok()?;
    Some(now.duration_since(theirs))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn half_a_minute_is_borne_and_more_is_not() {
        let now: Timestamp = "2026-11-21T02:00:30Z".parse().unwrap();
        let is_close =
            |date, now| ahead_of(date, now).is_some_and(|ahead| ahead.abs() <= SKEW_BORNE);
        assert!(is_close("Sat, 21 Nov 2026 02:00:00 GMT", now));
        assert!(is_close("Sat, 21 Nov 2026 02:01:00 GMT", now));
        assert!(!is_close("Sat, 21 Nov 2026 01:59:59 GMT", now));
        assert!(!is_close("Sat, 21 Nov 2026 05:00:00 GMT", now));
        assert!(!is_close("yesterday", now));
    }
}
