//! The listeners for agents: TLS handshakes, limits and the way to a graceful end.

use std::{
    convert::Infallible,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use axum::{Router, http::StatusCode, response::Response, routing::post};
use hyper::{body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::TokioIo;
use rustls::server::Acceptor;
use tokio::{
    net::{TcpListener, TcpStream},
    sync::Semaphore,
    time,
};
use tokio_rustls::{LazyConfigAcceptor, server::TlsStream};
use tokio_util::task::TaskTracker;
use tower::Service;

use crate::{
    Gateway, answer::Refusal, enroll, identity::Connection, permits, poll, reports, tls::Asks,
};

/// A handshake takes two round trips; a device on a bad line gets some more.
const HANDSHAKE: Duration = Duration::from_secs(15);
/// Handshakes cost a signature each; more of them at once only make all of them late.
const HANDSHAKES: usize = 512;
const HEADER_BYTES: usize = 16 * 1024;
/// After a failed accept (out of file descriptors), give others time to close.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// What every request of a connection needs.
struct Talk {
    gateway: Arc<Gateway>,
    connection: Arc<Connection>,
    router: Router,
    asks: Asks,
    /// Requests that began and that ended: a connection with neither is idle.
    begun: AtomicU64,
    ended: AtomicU64,
}

impl Talk {
    /// Resolves when the connection has been idle for long: no request began and none runs. The HTTP
    /// library has a timeout for this, but it sets a timer for every request.
    async fn idle(&self) {
        let mut before = u64::MAX;
        loop {
            time::sleep(self.gateway.settings.idle_timeout).await;
            let (ended, begun) =
                (self.ended.load(Ordering::Relaxed), self.begun.load(Ordering::Relaxed));
            if begun == ended && begun == before {
                return;
            }
            before = begun;
        }
    }

    async fn answer(self: Arc<Talk>, mut request: hyper::Request<Incoming>) -> Response {
        self.begun.fetch_add(1, Ordering::Relaxed);
        let route = match request.uri().path() {
            "/v1/job" => "job",
            "/v1/permits" => "permits",
            "/v1/reports" => "reports",
            "/v1/enroll" => "enroll",
            "/v1/renew" => "renew",
            _ => "other",
        };
        // What every idle device asks over and over goes past the router, whose share of the cost of
        // such a small answer is large. What is rare is boxed, so that this future stays small.
        let response = if route == "job" && self.asks == Asks::Certificate {
            poll::check_in(&self.gateway, &self.connection, request.method(), request.uri()).await
        } else {
            request.extensions_mut().insert(self.connection.clone());
            match Box::pin(self.router.clone().call(request)).await {
                Ok(response) => response,
                Err(never) => match never {},
            }
        };
        self.gateway.metrics.answered(route, response.status().as_u16());
        self.ended.fetch_add(1, Ordering::Relaxed);
        response
    }
}

/// Paths of a listener, but for check-ins.
fn router(gateway: Arc<Gateway>, asks: Asks) -> Router {
    let open = Router::new()
        .route("/v1/enroll", post(enroll::enroll))
        .route("/v1/renew", post(enroll::renew));
    let router = match asks {
        Asks::Nothing => open,
        Asks::Certificate => open
            .route("/v1/permits", post(permits::permit))
            .route("/v1/reports", post(reports::reports)),
    };
    router
        .fallback(async || Refusal::new(StatusCode::NOT_FOUND, "there is nothing at this path"))
        .method_not_allowed_fallback(async || Refusal::method())
        .with_state(gateway)
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
                converse(&gateway, stream, router, asks).await;
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
        // Whoever says nothing takes nobody's turn.
        let hello = LazyConfigAcceptor::new(Acceptor::default(), stream).await.ok()?;
        let _turn = handshakes.acquire().await.ok()?;
        hello.into_stream(config).await.ok()
    };
    let stream = time::timeout(HANDSHAKE, handshake).await.ok().flatten();
    if stream.is_none() {
        gateway.metrics.handshakes_failed.inc();
    }
    stream
}

async fn converse(
    gateway: &Arc<Gateway>,
    stream: TlsStream<TcpStream>,
    router: Router,
    asks: Asks,
) {
    let certificates = stream.get_ref().1.peer_certificates();
    let leaf = certificates.and_then(|chain| chain.first()).map(|leaf| leaf.clone().into_owned());
    let connection = Arc::new(Connection::new(leaf));
    let talk = Arc::new(Talk {
        gateway: gateway.clone(),
        connection,
        router,
        asks,
        begun: AtomicU64::new(0),
        ended: AtomicU64::new(0),
    });
    let service = service_fn(|request| {
        let talk = talk.clone();
        async move { Ok::<_, Infallible>(talk.answer(request).await) }
    });
    let http = http1::Builder::new()
        .header_read_timeout(None)
        .max_buf_size(HEADER_BYTES)
        .serve_connection(TokioIo::new(stream), service);
    tokio::pin!(http);
    let ended = tokio::select! {
        ended = http.as_mut() => ended,
        () = talk.idle() => return,
        () = gateway.draining.cancelled() => {
            http.as_mut().graceful_shutdown();
            http.await
        }
    };
    if let Err(error) = ended {
        tracing::debug!(%error, "a connection ended");
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;
    use jiff::{SignedDuration, Timestamp};
    use kube::{Client, Config};
    use tokio_rustls::TlsConnector;
    use wardring_seal::{Authority, tls::client_config};

    use super::*;
    use crate::config::Settings;

    #[tokio::test]
    async fn a_peer_that_says_nothing_takes_nobodys_turn_at_the_handshake() {
        let config = Config::new("http://127.0.0.1:1".parse().unwrap());
        let client = Client::try_from(config).unwrap();
        let gateway = Gateway::new(Settings::parse_from(["gateway"]), client);
        let (now, life) = (Timestamp::now(), SignedDuration::from_hours(1));
        let authority = Authority::create(now).unwrap();
        let serving = authority.issue_serving(&["localhost".to_owned()], now, life).unwrap();
        gateway.serving.replace(serving.chain_pem.as_bytes(), serving.key_pem.as_bytes()).unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let one_turn = Semaphore::new(1);

        let _silent = TcpStream::connect(address).await.unwrap();
        let (accepted, _) = listener.accept().await.unwrap();
        let waiting = shake_hands(&gateway, accepted, Asks::Certificate, &one_turn);
        let speaking = async {
            let stream = TcpStream::connect(address).await.unwrap();
            let config = client_config(authority.roots(), None).unwrap();
            let name = "localhost".to_owned().try_into().unwrap();
            TlsConnector::from(Arc::new(config)).connect(name, stream).await.unwrap()
        };
        let serving = async {
            let (accepted, _) = listener.accept().await.unwrap();
            shake_hands(&gateway, accepted, Asks::Certificate, &one_turn).await
        };

        // The silent one is polled first, so that it would take the only turn.
        let answered = tokio::select! {
            biased;
            _ = waiting => None,
            (_, answered) = async { tokio::join!(speaking, serving) } => answered,
        };

        assert!(answered.is_some(), "the second handshake waited for the first to time out");
    }
}
