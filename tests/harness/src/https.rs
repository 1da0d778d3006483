//! A small server for what connects outwards: over TLS with a certificate of its own, with answers that
//! a test writes, also ones that no honest server gives.

use std::{
    future::pending,
    net::SocketAddr,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use anyhow::{Context, Result};
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair};
use rustls::{
    ServerConfig,
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject},
};
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    task::JoinHandle,
};
use tokio_rustls::TlsAcceptor;

/// What a question may weigh; more is a broken test.
const MAX_REQUEST: usize = 4 << 20;

/// One question that arrived.
#[derive(Clone, Debug)]
pub struct Received {
    /// GET, POST.
    pub method: String,
    /// Path and query.
    pub target: String,
    /// Headers, names in lower case.
    pub headers: Vec<(String, String)>,
    /// Body.
    pub body: Vec<u8>,
}

impl Received {
    /// The value of a header.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(known, _)| known == name).map(|(_, value)| value.as_str())
    }
}

/// One thing that the server does to answer.
#[derive(Clone, Debug)]
pub enum Step {
    /// Sends these bytes as they are.
    Send(Vec<u8>),
    /// Waits.
    Pause(Duration),
    /// Sends these bytes again and again until the other end goes.
    Forever(Vec<u8>),
    /// Says nothing more and keeps the connection.
    Hang,
}

/// What the server does to answer one question.
pub type Reply = Vec<Step>;

/// A well-formed answer.
pub fn reply(status: u16, content_type: &str, body: &str) -> Reply {
    let head = format!(
        "HTTP/1.1 {status} X\r\nContent-Type: {content_type}\r\nContent-Length: {}\r\n\r\n{body}",
        body.len()
    );
    vec![Step::Send(head.into_bytes())]
}

/// A well-formed answer with JSON.
pub fn json(body: &serde_json::Value) -> Reply {
    reply(200, "application/json", &body.to_string())
}

/// The server; it ends when this is dropped.
pub struct HttpsServer {
    address: SocketAddr,
    ca: Option<String>,
    received: Arc<Mutex<Vec<Received>>>,
    task: JoinHandle<()>,
}

impl HttpsServer {
    /// Serves `localhost` and `127.0.0.1` over TLS under a root of its own.
    pub async fn start(
        answer: impl Fn(&Received) -> Reply + Send + Sync + 'static,
    ) -> Result<HttpsServer> {
        let (acceptor, ca) = tls()?;
        HttpsServer::listen(Some(acceptor), Some(ca), answer).await
    }

    /// Serves without TLS.
    pub async fn start_plain(
        answer: impl Fn(&Received) -> Reply + Send + Sync + 'static,
    ) -> Result<HttpsServer> {
        HttpsServer::listen(None, None, answer).await
    }

    async fn listen(
        acceptor: Option<TlsAcceptor>,
        ca: Option<String>,
        answer: impl Fn(&Received) -> Reply + Send + Sync + 'static,
    ) -> Result<HttpsServer> {
        let listener = TcpListener::bind("127.0.0.1:0").await.context("no free port")?;
        let address = listener.local_addr()?;
        let received = Arc::new(Mutex::new(Vec::new()));
        let (answer, log) = (Arc::new(answer), received.clone());
        let task = tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let (acceptor, answer, log) = (acceptor.clone(), answer.clone(), log.clone());
                tokio::spawn(async move {
                    // A client that goes away in the middle is what some tests are about.
                    let _ = serve(stream, acceptor, answer.as_ref(), &log).await;
                });
            }
        });
        Ok(HttpsServer { address, ca, received, task })
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Its address as an administrator would write it.
    pub fn url(&self) -> String {
        let scheme = if self.ca.is_some() { "https" } else { "http" };
        format!("{scheme}://{}", self.address)
    }

    /// The certificate (PEM) under which it is trusted.
    pub fn ca(&self) -> &str {
        self.ca.as_deref().unwrap_or_default()
    }

    /// Every question so far.
    pub fn received(&self) -> Vec<Received> {
        self.received.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl Drop for HttpsServer {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// A certificate for `localhost` and `127.0.0.1` under a root of its own, in PEM.
#[derive(Clone, Debug)]
pub struct Pems {
    /// The chain that the server presents.
    pub chain: String,
    /// Its key.
    pub key: String,
    /// The root under which it is trusted.
    pub ca: String,
}

/// Makes a certificate.
pub fn pems() -> Result<Pems> {
    let mut root = CertificateParams::new(Vec::new())?;
    // Two roots of one name would pass for a broken one of the other.
    static ROOTS: AtomicUsize = AtomicUsize::new(0);
    let number = ROOTS.fetch_add(1, Ordering::Relaxed);
    root.distinguished_name.push(DnType::CommonName, format!("root {number} of the tests"));
    root.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let root = CertifiedIssuer::self_signed(root, KeyPair::generate()?)?;
    let key = KeyPair::generate()?;
    let names = vec!["localhost".to_owned(), "127.0.0.1".to_owned()];
    let leaf = CertificateParams::new(names)?.signed_by(&key, &root)?;
    Ok(Pems { chain: leaf.pem(), key: key.serialize_pem(), ca: root.pem() })
}

fn tls() -> Result<(TlsAcceptor, String)> {
    let Pems { chain, key, ca } = pems()?;
    let chain = CertificateDer::from_pem_slice(chain.as_bytes())?;
    let key = PrivateKeyDer::from_pem_slice(key.as_bytes())?;
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .with_no_client_auth()
        .with_single_cert(vec![chain], key)?;
    Ok((TlsAcceptor::from(Arc::new(config)), ca))
}

async fn serve(
    stream: TcpStream,
    acceptor: Option<TlsAcceptor>,
    answer: &(dyn Fn(&Received) -> Reply + Send + Sync),
    log: &Mutex<Vec<Received>>,
) -> Result<()> {
    match acceptor {
        Some(acceptor) => converse(acceptor.accept(stream).await?, answer, log).await,
        None => converse(stream, answer, log).await,
    }
}

async fn converse(
    mut stream: impl AsyncRead + AsyncWrite + Unpin,
    answer: &(dyn Fn(&Received) -> Reply + Send + Sync),
    log: &Mutex<Vec<Received>>,
) -> Result<()> {
    let request = read_request(&mut stream).await?;
    let steps = answer(&request);
    log.lock().unwrap_or_else(PoisonError::into_inner).push(request);
    for step in steps {
        match step {
            Step::Send(bytes) => stream.write_all(&bytes).await?,
            Step::Pause(span) => {
                stream.flush().await?;
                tokio::time::sleep(span).await;
            }
            Step::Forever(bytes) => loop {
                stream.write_all(&bytes).await?;
            },
            Step::Hang => {
                stream.flush().await?;
                pending::<()>().await;
            }
        }
    }
    stream.shutdown().await?;
    Ok(())
}

async fn read_request(stream: &mut (impl AsyncRead + Unpin)) -> Result<Received> {
    let mut read = Vec::new();
    let head = loop {
        if let Some(at) = read.windows(4).position(|four| four == b"\r\n\r\n") {
            break at;
        }
        take(stream, &mut read).await?;
    };
    let text = String::from_utf8(read[..head].to_vec()).context("a head that is no text")?;
    let mut lines = text.lines();
    let first = lines.next().context("an empty head")?;
    let mut words = first.split(' ');
    let method = words.next().unwrap_or_default().to_owned();
    let target = words.next().unwrap_or_default().to_owned();
    let headers: Vec<(String, String)> = lines
        .filter_map(|line| line.split_once(':'))
        .map(|(name, value)| (name.to_ascii_lowercase(), value.trim().to_owned()))
        .collect();
    let length = headers.iter().find(|(name, _)| name == "content-length");
    let length = length.map_or(Ok(0), |(_, value)| value.parse::<usize>())?;
    while read.len() < head + 4 + length {
        take(stream, &mut read).await?;
    }
    let body = read[head + 4..head + 4 + length].to_vec();
    Ok(Received { method, target, headers, body })
}

async fn take(stream: &mut (impl AsyncRead + Unpin), read: &mut Vec<u8>) -> Result<()> {
    let mut chunk = [0; 4096];
    let length = stream.read(&mut chunk).await?;
    anyhow::ensure!(length > 0, "the client went away");
    anyhow::ensure!(read.len() < MAX_REQUEST, "the question never ends");
    read.extend_from_slice(&chunk[..length]);
    Ok(())
}
