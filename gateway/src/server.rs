//! The listeners for agents: TLS handshakes, limits and the way to a graceful end.

use std::{sync::Arc, time::Duration};

use axum::{
    Router,
    extract::{Request, State},
    http::StatusCode,
    middleware::{Next, from_fn_with_state},
    response::Response,
    routing::{get, post},
};
use hyper::{body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::{
    net::{TcpListener, TcpStream},
    sync::Semaphore,
    time,
};
use tokio_rustls::{TlsAcceptor, server::TlsStream};
use tokio_util::task::TaskTracker;
use tower::Service;

use crate::{
    Gateway, answer::Refusal, enroll, identity::Connection, permits, poll, reports, tls::Asks,
};

/// A handshake takes two round trips; a device on a bad line gets some more.
const HANDSHAKE: Duration = Duration::from_secs(15);
/// Handshakes cost a signature each; more of them at once only make all of them late.
const HANDSHAKES: usize = 512;
/// Time for a request's headers, and for a connection to stay idle: longer than agents keep theirs.
const HEADERS: Duration = Duration::from_secs(120);
const HEADER_BYTES: usize = 16 * 1024;
/// After a failed accept (out of file descriptors), give others time to close.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Paths of a listener.
pub fn router(gateway: Arc<Gateway>, asks: Asks) -> Router {
    let open = Router::new()
        .route("/v1/enroll", post(enroll::enroll))
        .route("/v1/renew", post(enroll::renew));
    let router = match asks {
        Asks::Nothing => open,
        Asks::Certificate => open
            .route("/v1/job", get(poll::poll))
            .route("/v1/permits", post(permits::permit))
            .route("/v1/reports", post(reports::reports)),
    };
    router
        .fallback(async || Refusal::new(StatusCode::NOT_FOUND, "there is nothing at this path"))
        .method_not_allowed_fallback(async || {
            let sentence = "this path does not take this method";
            Refusal::new(StatusCode::METHOD_NOT_ALLOWED, sentence)
        })
        .layer(from_fn_with_state(gateway.clone(), count))
        .with_state(gateway)
}

async fn count(State(gateway): State<Arc<Gateway>>, request: Request, next: Next) -> Response {
    let route = match request.uri().path() {
        "/v1/job" => "job",
        "/v1/permits" => "permits",
        "/v1/reports" => "reports",
        "/v1/enroll" => "enroll",
        "/v1/renew" => "renew",
        _ => "other",
    };
    let response = next.run(request).await;
    gateway.metrics.answered(route, response.status().as_u16());
    response
}

/// Serves a listener until the gateway drains, then lets open requests end.
pub async fn serve(gateway: Arc<Gateway>, listener: TcpListener, asks: Asks) {
    let router = router(gateway.clone(), asks);
    let connections = Arc::new(Semaphore::new(gateway.settings.max_connections));
    let handshakes = Arc::new(Semaphore::new(HANDSHAKES));
    let open = TaskTracker::new();
    loop {
        let accepted = tokio::select! {
            () = gateway.draining.cancelled() => break,
            accepted = listener.accept() => accepted,
        };
        let stream = match accepted {
            Ok((stream, _)) => stream,
            Err(error) => {
                tracing::warn!(%error, "a connection could not be accepted");
                time::sleep(ACCEPT_PAUSE).await;
                continue;
            }
        };
        let Ok(slot) = connections.clone().try_acquire_owned() else {
            // Closed at once, so that the agent tries another replica.
            gateway.metrics.connections_refused.inc();
            continue;
        };
        let (gateway, router, handshakes) = (gateway.clone(), router.clone(), handshakes.clone());
        open.spawn(async move {
            let _slot = slot;
            if let Some(stream) = shake_hands(&gateway, stream, asks, &handshakes).await {
                gateway.metrics.connections.inc();
                converse(&gateway, stream, router).await;
                gateway.metrics.connections.dec();
            }
        });
    }
    drop(listener);
    open.close();
    if time::timeout(gateway.settings.drain, open.wait()).await.is_err() {
        tracing::warn!(left = open.len(), "connections were cut after the drain time");
    }
}

async fn shake_hands(
    gateway: &Gateway,
    stream: TcpStream,
    asks: Asks,
    handshakes: &Semaphore,
) -> Option<TlsStream<TcpStream>> {
    // Answers are small and whole, so waiting to fill packets only adds delay.
    drop(stream.set_nodelay(true));
    let config = gateway.serving.config(asks)?;
    let handshake = async {
        let _turn = handshakes.acquire().await.ok()?;
        TlsAcceptor::from(config).accept(stream).await.ok()
    };
    let stream = time::timeout(HANDSHAKE, handshake).await.ok().flatten();
    if stream.is_none() {
        gateway.metrics.handshakes_failed.inc();
    }
    stream
}

async fn converse(gateway: &Gateway, stream: TlsStream<TcpStream>, router: Router) {
    let certificates = stream.get_ref().1.peer_certificates();
    let leaf = certificates.and_then(|chain| chain.first()).map(|leaf| leaf.clone().into_owned());
    let connection = Arc::new(Connection::new(leaf));
    let service = service_fn(move |mut request: hyper::Request<Incoming>| {
        request.extensions_mut().insert(connection.clone());
        // A router is always ready.
        router.clone().call(request)
    });
    let http = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEADERS)
        .max_buf_size(HEADER_BYTES)
        .serve_connection(TokioIo::new(stream), service);
    tokio::pin!(http);
    let ended = tokio::select! {
        ended = http.as_mut() => ended,
        () = gateway.draining.cancelled() => {
            http.as_mut().graceful_shutdown();
            http.await
        }
    };
    if let Err(error) = ended {
        tracing::debug!(%error, "a connection ended");
    }
}
