//! One question to one server.

use std::{fmt, io, net::SocketAddr, sync::Arc, time::Duration};

use futures::future::BoxFuture;
use http::{HeaderMap, HeaderValue, Method, Request, StatusCode, header};
use http_body_util::{BodyExt, Full};
use hyper::{
    body::{Body, Bytes, Incoming},
    client::conn::http1,
};
use hyper_util::rt::TokioIo;
use rustls::{CertificateError, ClientConfig, pki_types::ServerName};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::TcpStream,
};
use tokio_rustls::TlsConnector;

use super::{
    address::{Allowed, Forbidden},
    target::{Host, Scheme, Target},
};

/// What all headers of an answer may weigh, and how many they may be.
const MAX_HEAD: (usize, usize) = (16 * 1024, 64);

/// How names become addresses.
pub type Lookup =
    Arc<dyn Fn(String, u16) -> BoxFuture<'static, io::Result<Vec<SocketAddr>>> + Send + Sync>;

/// The system's resolver.
pub fn system_lookup() -> Lookup {
    Arc::new(|name, port| {
        Box::pin(async move { Ok(tokio::net::lookup_host((name, port)).await?.collect()) })
    })
}

/// How much an answer may cost.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// From the look-up of the name to the last byte.
    pub time: Duration,
    /// Bytes of the body.
    pub body: usize,
}

/// A server that may be asked, with all that asking it needs.
#[derive(Clone)]
pub struct Endpoint {
    /// Where it is.
    pub target: Target,
    /// What its name may resolve to.
    pub allowed: Allowed,
    /// Trust and identity; for `https`.
    pub tls: Option<Arc<ClientConfig>>,
    /// The header `Authorization`.
    pub authorization: Option<HeaderValue>,
    /// What an answer may cost.
    pub limits: Limits,
    /// How its name is looked up.
    pub lookup: Lookup,
}

// By hand, so that no credential gets into a log.
impl fmt::Debug for Endpoint {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.debug_struct("Endpoint").field("target", &self.target).finish_non_exhaustive()
    }
}

/// What is asked.
#[derive(Clone, Debug, Default)]
pub struct Question {
    /// Behind the endpoint's own path; begins with a slash or is empty.
    pub path: String,
    /// Parameters of the query.
    pub query: Vec<(&'static str, String)>,
    /// What is sent as JSON: then it is a POST.
    pub json: Option<Vec<u8>>,
    /// Further headers.
    pub headers: HeaderMap,
}

/// What came back.
#[derive(Clone, Debug)]
pub struct Answer {
    /// Its status.
    pub status: StatusCode,
    /// Its body, whole.
    pub body: Bytes,
}

/// Why there is no answer. Nothing here repeats what a server sent.
#[derive(Debug, thiserror::Error)]
pub enum OutboundError {
    /// The name is not known.
    #[error("the name {host} cannot be looked up")]
    Lookup {
        /// The host of the address.
        host: String,
    },
    /// One of the host's addresses must not be connected to.
    #[error(transparent)]
    Forbidden(#[from] Forbidden),
    /// Nobody listens.
    #[error("no connection to {address}: {kind}")]
    Connect {
        /// Where to.
        address: SocketAddr,
        /// What the system said.
        kind: io::ErrorKind,
    },
    /// Not the server that we trust.
    #[error("no trusted connection: {why}")]
    Tls {
        /// In our words.
        why: &'static str,
    },
    /// It does not speak HTTP as it should.
    #[error("the answer is not HTTP as it should be")]
    Protocol,
    /// It points to somewhere else.
    #[error("the server redirects (HTTP {0}), and redirects are not followed")]
    Redirect(u16),
    /// Compressed, which nobody asked for.
    #[error("the answer is encoded, which was not asked for")]
    Encoded,
    /// Too much.
    #[error("the answer is larger than {limit} bytes")]
    TooLarge {
        /// The limit.
        limit: usize,
    },
    /// Too slow.
    #[error("no whole answer within {limit:?}")]
    TooSlow {
        /// The limit.
        limit: Duration,
    },
    /// The question cannot be written as HTTP.
    #[error("the question cannot be asked: it does not fit an address")]
    Unaskable,
}

impl Endpoint {
    /// Asks once.
    pub async fn ask(&self, question: Question) -> Result<Answer, OutboundError> {
        let limit = self.limits.time;
        match tokio::time::timeout(limit, self.exchange(question)).await {
            Ok(answer) => answer,
            Err(_) => Err(OutboundError::TooSlow { limit }),
        }
    }

    async fn exchange(&self, question: Question) -> Result<Answer, OutboundError> {
        let request = self.request(question)?;
        let address = self.resolve().await?;
        // To the very address that was judged: a second look-up could be answered differently.
        let stream = TcpStream::connect(address)
            .await
            .map_err(|error| OutboundError::Connect { address, kind: error.kind() })?;
        match &self.tls {
            Some(tls) if self.target.scheme == Scheme::Https => {
                let name = match &self.target.host {
                    Host::Name(name) => ServerName::try_from(name.clone())
                        .map_err(|_| OutboundError::Tls { why: "the host is no server's name" })?,
                    Host::Address(address) => ServerName::from(*address),
                };
                let stream = TlsConnector::from(tls.clone())
                    .connect(name, stream)
                    .await
                    .map_err(|error| OutboundError::Tls { why: distrust(&error) })?;
                self.speak(stream, request).await
            }
            None if self.target.scheme == Scheme::Http => self.speak(stream, request).await,
            _ => Err(OutboundError::Tls { why: "it is not set up" }),
        }
    }

    /// The one address to connect to. If any of the host's addresses is forbidden, none is taken: who
    /// mixes them plays for the choice.
    pub(super) async fn resolve(&self) -> Result<SocketAddr, OutboundError> {
        let port = self.target.port;
        let found = match &self.target.host {
            Host::Address(address) => vec![SocketAddr::new(*address, port)],
            Host::Name(name) => (self.lookup)(name.clone(), port).await.unwrap_or_default(),
        };
        for address in &found {
            self.allowed.judge(address.ip())?;
        }
        let first = found.into_iter().next();
        first.ok_or_else(|| OutboundError::Lookup { host: self.target.host.to_string() })
    }

    fn request(&self, question: Question) -> Result<Request<Full<Bytes>>, OutboundError> {
        let mut place = format!("{}{}", self.target.path, question.path);
        if place.is_empty() {
            place.push('/');
        }
        if !question.query.is_empty() {
            let pairs = form_urlencoded::Serializer::new(String::new())
                .extend_pairs(question.query)
                .finish();
            place = format!("{place}?{pairs}");
        }
        let method = if question.json.is_some() { Method::POST } else { Method::GET };
        let mut request = Request::builder()
            .method(method)
            .uri(place)
            .header(header::HOST, self.target.authority())
            .header(header::ACCEPT, "application/json")
            .header(header::USER_AGENT, concat!("wardring/", env!("CARGO_PKG_VERSION")))
            .header(header::CONNECTION, "close");
        if question.json.is_some() {
            request = request.header(header::CONTENT_TYPE, "application/json");
        }
        if let Some(authorization) = &self.authorization {
            request = request.header(header::AUTHORIZATION, authorization);
        }
        for (name, value) in &question.headers {
            request = request.header(name, value);
        }
        let body = Full::new(Bytes::from(question.json.unwrap_or_default()));
        request.body(body).map_err(|_| OutboundError::Unaskable)
    }

    async fn speak(
        &self,
        stream: impl AsyncRead + AsyncWrite + Send + Unpin + 'static,
        request: Request<Full<Bytes>>,
    ) -> Result<Answer, OutboundError> {
        let (mut sender, connection) = http1::Builder::new()
            .max_buf_size(MAX_HEAD.0)
            .max_headers(MAX_HEAD.1)
            .handshake(TokioIo::new(stream))
            .await
            .map_err(|_| OutboundError::Protocol)?;
        let exchange = async {
            let answer = sender.send_request(request).await.map_err(|_| OutboundError::Protocol)?;
            self.read(answer).await
        };
        // Both in this task, so that giving up closes the connection.
        tokio::pin!(exchange, connection);
        tokio::select! {
            answer = &mut exchange => answer,
            _ = &mut connection => exchange.await,
        }
    }

    async fn read(&self, answer: http::Response<Incoming>) -> Result<Answer, OutboundError> {
        let (head, mut body) = answer.into_parts();
        if head.status.is_redirection() {
            return Err(OutboundError::Redirect(head.status.as_u16()));
        }
        let encoding = head.headers.get(header::CONTENT_ENCODING);
        if encoding.is_some_and(|encoding| encoding != "identity") {
            return Err(OutboundError::Encoded);
        }
        let limit = self.limits.body;
        let too_large = || OutboundError::TooLarge { limit };
        if body.size_hint().lower() > limit as u64 {
            return Err(too_large());
        }
        let mut read = Vec::new();
        while let Some(frame) = body.frame().await {
            let frame = frame.map_err(|_| OutboundError::Protocol)?;
            let Ok(data) = frame.into_data() else { continue };
            if read.len() + data.len() > limit {
                return Err(too_large());
            }
            read.extend_from_slice(&data);
        }
        Ok(Answer { status: head.status, body: Bytes::from(read) })
    }
}

/// What is wrong with a server's TLS, in our words: the library's repeat names out of its certificate.
fn distrust(error: &io::Error) -> &'static str {
    let cause = error.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>());
    match cause {
        Some(rustls::Error::InvalidCertificate(problem)) => match problem {
            CertificateError::Expired | CertificateError::ExpiredContext { .. } => {
                "the server's certificate has expired"
            }
            CertificateError::NotValidYet | CertificateError::NotValidYetContext { .. } => {
                "the server's certificate is not valid yet"
            }
            CertificateError::UnknownIssuer => "the server's certificate has an unknown issuer",
            CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. } => {
                "the server's certificate is for another name"
            }
            _ => "the server's certificate is not valid",
        },
        Some(rustls::Error::AlertReceived(_)) => "the server refused the connection",
        _ => "the server does not speak TLS as it should",
    }
}
