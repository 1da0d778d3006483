//! Between the controller and the API server: passes everything on, and bends one write per namespace.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use anyhow::Result;
use axum::body::{Body, to_bytes};
use axum::response::{IntoResponse, Response};
use http::{Method, Request, StatusCode};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use kube::Client;
use tokio::net::TcpListener;

/// How late a late write is: longer than everything that waits for the cache.
const LATE: Duration = Duration::from_secs(2);
const MAX_BODY: usize = 4 << 20;

/// What happens to a write.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// The connection breaks before the API server has it.
    Lost,
    /// The API server carries it out, and the connection breaks before the answer.
    Unanswered,
    /// The API server gets it twice; the second answer comes back.
    Doubled,
    /// Not carried out, and answered with this status.
    Refused(u16),
    /// Carried out, and answered with this status, as a load balancer does that lost patience.
    AnsweredBy(u16),
    /// It arrives after a while.
    Late,
}

impl Fault {
    pub fn name(self) -> String {
        match self {
            Fault::Lost => "lost".to_owned(),
            Fault::Unanswered => "unanswered".to_owned(),
            Fault::Doubled => "doubled".to_owned(),
            Fault::Refused(code) => format!("refused{code}"),
            Fault::AnsweredBy(code) => format!("answered{code}"),
            Fault::Late => "late".to_owned(),
        }
    }
}

/// What the proxy knows of a namespace.
#[derive(Default)]
struct Traffic {
    writes: usize,
    bend: Option<(usize, Fault)>,
    bent: bool,
}

/// The proxy; it works until the test ends.
pub struct Proxy {
    address: SocketAddr,
    traffic: Arc<Mutex<BTreeMap<String, Traffic>>>,
}

impl Proxy {
    /// A proxy that speaks to the API server as `upstream` does, with its credentials.
    pub async fn start(upstream: Client) -> Result<Proxy> {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let address = listener.local_addr()?;
        let traffic = Arc::new(Mutex::new(BTreeMap::new()));
        let shared = traffic.clone();
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let (upstream, traffic) = (upstream.clone(), shared.clone());
                let service = service_fn(move |request| {
                    let (upstream, traffic) = (upstream.clone(), traffic.clone());
                    async move { carry(upstream, &traffic, request).await }
                });
                let connection = hyper::server::conn::http1::Builder::new()
                    .serve_connection(TokioIo::new(stream), service);
                // An error is a connection that we broke, or that the controller closed.
                tokio::spawn(async move { connection.await.ok() });
            }
        });
        Ok(Proxy { address, traffic })
    }

    /// A kubeconfig that leads here. Credentials are the proxy's to add.
    pub fn kubeconfig(&self) -> String {
        let server = format!("http://{}", self.address);
        serde_json::json!({
            "apiVersion": "v1", "kind": "Config", "current-context": "proxy",
            "clusters": [{ "name": "proxy", "cluster": { "server": server } }],
            "users": [{ "name": "proxy", "user": {} }],
            "contexts": [{ "name": "proxy", "context": { "cluster": "proxy", "user": "proxy" } }],
        })
        .to_string()
    }

    /// Bends the write of this number, counted from one, in a namespace.
    pub fn bend(&self, namespace: &str, number: usize, fault: Fault) {
        let mut traffic = self.traffic.lock().unwrap();
        traffic.entry(namespace.to_owned()).or_default().bend = Some((number, fault));
    }

    /// Whether the fault happened.
    pub fn has_bent(&self, namespace: &str) -> bool {
        self.traffic.lock().unwrap().get(namespace).is_some_and(|traffic| traffic.bent)
    }

    /// How many writes there were.
    pub fn writes(&self, namespace: &str) -> usize {
        self.traffic.lock().unwrap().get(namespace).map_or(0, |traffic| traffic.writes)
    }
}

/// The connection is to be broken.
#[derive(Debug, thiserror::Error)]
#[error("the connection is broken on purpose")]
struct Broken;

async fn carry(
    upstream: Client,
    traffic: &Mutex<BTreeMap<String, Traffic>>,
    request: Request<Incoming>,
) -> Result<Response, Broken> {
    let (head, body) = request.into_parts();
    let body = to_bytes(Body::new(body), MAX_BODY).await.map_err(|_| Broken)?;
    let fault = written_namespace(&head.method, head.uri.path())
        .and_then(|namespace| next_fault(traffic, namespace));
    let send = async || {
        let path = head.uri.path_and_query().map_or("/", |path| path.as_str());
        let mut request = Request::builder().method(head.method.clone()).uri(path);
        for name in [http::header::CONTENT_TYPE, http::header::ACCEPT] {
            if let Some(value) = head.headers.get(&name) {
                request = request.header(name, value);
            }
        }
        let request = request.body(kube::client::Body::from(body.to_vec())).unwrap();
        // An API server that is gone looks like one behind a broken connection.
        let response = upstream.send(request).await.map_err(|_| Broken)?;
        Ok::<Response, Broken>(response.map(Body::new))
    };
    match fault {
        None => send().await,
        Some(Fault::Lost) => Err(Broken),
        Some(Fault::Unanswered) => {
            send().await?;
            Err(Broken)
        }
        Some(Fault::Doubled) => {
            send().await?;
            send().await
        }
        Some(Fault::Refused(code)) => Ok(status(code)),
        Some(Fault::AnsweredBy(code)) => {
            send().await?;
            Ok(status(code))
        }
        Some(Fault::Late) => {
            tokio::time::sleep(LATE).await;
            send().await
        }
    }
}

fn next_fault(traffic: &Mutex<BTreeMap<String, Traffic>>, namespace: &str) -> Option<Fault> {
    let mut traffic = traffic.lock().unwrap();
    let traffic = traffic.entry(namespace.to_owned()).or_default();
    traffic.writes += 1;
    let (_, fault) = traffic.bend.filter(|(number, _)| *number == traffic.writes)?;
    traffic.bent = true;
    Some(fault)
}

/// The namespace of a write that matters. Events are words about writes.
fn written_namespace<'a>(method: &Method, path: &'a str) -> Option<&'a str> {
    if method == Method::GET || !path.starts_with("/apis/wardring.dev/") {
        return None;
    }
    path.split_once("/namespaces/")?.1.split('/').next()
}

/// An answer as the API server gives it.
fn status(code: u16) -> Response {
    let reason = match code {
        409 => "Conflict",
        429 => "TooManyRequests",
        504 => "Timeout",
        _ => "InternalError",
    };
    let body = serde_json::json!({
        "kind": "Status", "apiVersion": "v1", "status": "Failure", "code": code,
        "reason": reason, "message": "made up by a test",
    });
    let code = StatusCode::from_u16(code).unwrap();
    let json = [(http::header::CONTENT_TYPE, "application/json")];
    (code, json, body.to_string()).into_response()
}
