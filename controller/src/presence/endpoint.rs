//! The TLS endpoint that gateways stream presence to.

use std::{sync::Arc, time::Duration};

use axum::{
    Json, Router,
    body::Bytes,
    extract::{DefaultBodyLimit, State},
    http::{HeaderMap, StatusCode, header::AUTHORIZATION},
    response::{IntoResponse, Response},
    routing::post,
};
use hyper_util::{
    rt::{TokioExecutor, TokioIo, TokioTimer},
    server::conn::auto::Builder,
    service::TowerToHyperService,
};
use kube::Client;
use tokio::{
    net::{TcpListener, TcpStream},
    sync::Semaphore,
    time,
};
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;
use wardring_api::presence::{MAX_PRESENCE_BODY, PRESENCE_PATH, PresenceBatch};

use super::{
    Presence, judge,
    review::{Reviewer, Verdict},
};

/// How often silence is judged.
const TICK: Duration = Duration::from_millis(500);
/// Gateways are few; more connections than this are not gateways.
const MAX_CONNECTIONS: usize = 64;
const HANDSHAKE: Duration = Duration::from_secs(10);
const HEADERS: Duration = Duration::from_secs(30);

/// Why the endpoint cannot go on.
#[derive(Debug, thiserror::Error)]
pub enum PresenceError {
    /// The listener is gone.
    #[error("failed to accept presence connections")]
    Accept(#[source] std::io::Error),
}

#[derive(Clone)]
struct Desk {
    presence: Presence,
    reviewer: Arc<Reviewer>,
}

/// Serves [`PRESENCE_PATH`] over TLS and judges silence, until `stop` is cancelled.
///
/// `tls` presents a certificate that chains to the published roots; callers are recognised by their
/// service account's token, which `client` has the API server review.
pub async fn serve(
    presence: Presence,
    listener: TcpListener,
    tls: Arc<rustls::ServerConfig>,
    client: Client,
    system_namespace: &str,
    stop: CancellationToken,
) -> Result<(), PresenceError> {
    let desk = Desk {
        presence: presence.clone(),
        reviewer: Arc::new(Reviewer::new(client, system_namespace)),
    };
    let router = Router::new()
        .route(PRESENCE_PATH, post(take))
        .layer(DefaultBodyLimit::max(MAX_PRESENCE_BODY))
        .with_state(desk);
    let acceptor = TlsAcceptor::from(tls);
    let slots = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    let mut tick = time::interval(TICK);
    tick.set_missed_tick_behavior(time::MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            () = stop.cancelled() => return Ok(()),
            _ = tick.tick() => presence.act(|judge, now| judge.tick(now)),
            accepted = listener.accept() => {
                let (stream, _) = accepted.map_err(PresenceError::Accept)?;
                let Ok(slot) = slots.clone().try_acquire_owned() else { continue };
                let connection = converse(stream, acceptor.clone(), router.clone());
                let stop = stop.clone();
                tokio::spawn(async move {
                    let _slot = slot;
                    stop.run_until_cancelled(connection).await;
                });
            }
        }
    }
}

async fn converse(stream: TcpStream, acceptor: TlsAcceptor, router: Router) {
    let Ok(Ok(stream)) = time::timeout(HANDSHAKE, acceptor.accept(stream)).await else { return };
    let mut builder = Builder::new(TokioExecutor::new()).http1_only();
    builder.http1().timer(TokioTimer::new()).header_read_timeout(HEADERS);
    let service = TowerToHyperService::new(router);
    if let Err(error) = builder.serve_connection(TokioIo::new(stream), service).await {
        tracing::debug!(%error, "presence connection ended");
    }
}

async fn take(State(desk): State<Desk>, headers: HeaderMap, body: Bytes) -> Response {
    let token = headers
        .get(AUTHORIZATION)
        .and_then(|value| value.to_str().ok())
        .and_then(|value| value.strip_prefix("Bearer "));
    let Some(token) = token else {
        return refuse(StatusCode::UNAUTHORIZED, "presence needs a gateway's bearer token");
    };
    match desk.reviewer.review(token).await {
        Ok(Verdict::Gateway) => {}
        Ok(Verdict::Other) => {
            return refuse(StatusCode::FORBIDDEN, "only the gateways' service account may do this");
        }
        Ok(Verdict::Invalid) => {
            return refuse(StatusCode::UNAUTHORIZED, "the API server does not know this token");
        }
        Err(error) => {
            tracing::warn!(%error, "failed to review a presence token");
            return refuse(StatusCode::SERVICE_UNAVAILABLE, "the token could not be reviewed");
        }
    }
    if !desk.presence.is_leading() {
        return refuse(StatusCode::SERVICE_UNAVAILABLE, "this controller does not lead");
    }
    let Ok(batch) = serde_json::from_slice::<PresenceBatch>(&body) else {
        return refuse(StatusCode::BAD_REQUEST, "the body is not a presence batch");
    };
    match desk.presence.act(|judge, now| judge.take(batch, now)) {
        Ok(()) => StatusCode::NO_CONTENT.into_response(),
        Err(judge::NewSessionNeeded) => {
            refuse(StatusCode::CONFLICT, "this batch does not follow the last; begin a new session")
        }
    }
}

fn refuse(status: StatusCode, sentence: &str) -> Response {
    (status, Json(serde_json::json!({ "error": sentence }))).into_response()
}
