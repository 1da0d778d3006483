//! HTTPS to the gateways: several addresses with fail-over, the device's certificate, and limits on
//! what is read back.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{PoisonError, RwLock};
use std::time::Duration;

use reqwest::{Client, Method, RequestBuilder, Response, StatusCode, Url};
use rustls::ClientConfig;
use rustls::client::Resumption;
use serde::Serialize;
use serde::de::DeserializeOwned;
use wardring_protocol::{
    EnrolAnswer, EnrolRequest, JobAnswer, JobQuery, MAX_BODY, MAX_REPORT_WAIT_MS, PermitAnswer,
    PermitRequest, ReportAck, ReportBatch,
};
use wardring_seal::Fingerprint;
use wardring_seal::tls::{TlsError, client_config, first_contact_config};

use crate::chance;
use crate::gateway::{Gateway, GatewayError, TrustFault};
use crate::identity::Identity;
use crate::tls_fault::{tls_fault, trust_fault};

const CONNECT: Duration = Duration::from_secs(5);
/// How often the system itself asks whether a silent connection still stands, which wakes nobody here.
const KEEP_ALIVE: Duration = Duration::from_secs(30);
/// Longest for a small question. Two gateways must fit into the life of a permit.
const SHORT: Duration = Duration::from_secs(15);
/// Grace beyond what the gateway may hold a call.
const GRACE: Duration = Duration::from_secs(10);

/// Where the gateways are.
#[derive(Clone, Debug)]
pub struct Addresses {
    gateways: Vec<Url>,
    proxy: Option<Url>,
}

/// Why an address cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum AddressError {
    /// None is given.
    #[error("give at least one gateway: --gateway https://HOST:PORT")]
    None,
    /// Not an HTTPS URL.
    #[error("`{text}` is not a gateway address; it must look like https://HOST:PORT")]
    NotHttps {
        /// The text.
        text: String,
    },
    /// Not a proxy URL.
    #[error("`{text}` is not the address of a proxy; it must look like http://HOST:PORT")]
    Proxy {
        /// The text.
        text: String,
    },
}

impl Addresses {
    /// Reads addresses; `proxy` is used for all of them.
    ///
    /// # Errors
    /// There is none, or one cannot be read.
    pub fn parse(gateways: &[String], proxy: Option<&str>) -> Result<Addresses, AddressError> {
        let parse = |text: &String| {
            let url = Url::parse(text).ok().filter(|url| url.scheme() == "https" && url.has_host());
            url.ok_or_else(|| AddressError::NotHttps { text: text.clone() })
        };
        let gateways = gateways.iter().map(parse).collect::<Result<Vec<_>, _>>()?;
        if gateways.is_empty() {
            return Err(AddressError::None);
        }
        let proxy = proxy
            .map(|text| Url::parse(text).map_err(|_| AddressError::Proxy { text: text.to_owned() }))
            .transpose()?;
        Ok(Addresses { gateways, proxy })
    }
}

/// Why no client can be made.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// TLS.
    #[error("failed to set up TLS for the gateways")]
    Tls(#[from] TlsError),
    /// HTTP.
    #[error("failed to set up HTTP for the gateways")]
    Http(#[from] reqwest::Error),
}

/// A client of the gateways.
pub struct HttpGateway {
    addresses: Addresses,
    /// The one that answered last comes first.
    current: AtomicUsize,
    way: RwLock<Way>,
}

/// The connections in use.
struct Way {
    client: Client,
    /// What new ones are made with.
    tls: ClientConfig,
    /// How many were left for new ones.
    number: u64,
}

impl Way {
    fn new(addresses: &Addresses, tls: ClientConfig, number: u64) -> Result<Way, ClientError> {
        Ok(Way { client: client(addresses, tls.clone())?, tls, number })
    }
}

impl HttpGateway {
    /// Trusts nothing but the root that the token names: for the first claim.
    ///
    /// # Errors
    /// TLS or HTTP cannot be set up.
    pub fn first_contact(addresses: &Addresses, root: Fingerprint) -> Result<Self, ClientError> {
        Self::new(addresses, first_contact_config(root)?)
    }

    /// Trusts the identity's roots and presents no certificate: for a renewal, also of a certificate
    /// that has expired.
    ///
    /// # Errors
    /// TLS or HTTP cannot be set up.
    pub fn anonymous(addresses: &Addresses, identity: &Identity) -> Result<Self, ClientError> {
        Self::new(addresses, client_config(&identity.roots, None)?)
    }

    /// Trusts the identity's roots and presents its certificate.
    ///
    /// # Errors
    /// TLS or HTTP cannot be set up.
    pub fn identified(addresses: &Addresses, identity: &Identity) -> Result<Self, ClientError> {
        Self::new(addresses, identified_config(identity)?)
    }

    fn new(addresses: &Addresses, tls: ClientConfig) -> Result<Self, ClientError> {
        Ok(HttpGateway {
            way: RwLock::new(Way::new(addresses, tls, 0)?),
            // A fleet has one list of gateways: whoever began with its first would leave the others idle.
            current: AtomicUsize::new(chance::below(addresses.gateways.len())),
            addresses: addresses.clone(),
        })
    }

    /// Presents another certificate from now on.
    ///
    /// # Errors
    /// TLS or HTTP cannot be set up; the old one stays in use.
    pub fn use_identity(&self, identity: &Identity) -> Result<(), ClientError> {
        let tls = identified_config(identity)?;
        self.go_another(tls, self.way().1 + 1)
    }

    fn go_another(&self, tls: ClientConfig, number: u64) -> Result<(), ClientError> {
        let way = Way::new(&self.addresses, tls, number)?;
        *self.way.write().unwrap_or_else(PoisonError::into_inner) = way;
        Ok(())
    }

    /// The connections in use, and their number.
    fn way(&self) -> (Client, u64) {
        let way = self.way.read().unwrap_or_else(PoisonError::into_inner);
        (way.client.clone(), way.number)
    }

    /// Leaves the connections of this number: a gateway that froze keeps its connection, and the next
    /// question would wait on it just as long.
    fn leave(&self, number: u64) {
        let tls = {
            let way = self.way.read().unwrap_or_else(PoisonError::into_inner);
            (way.number == number).then(|| way.tls.clone())
        };
        // Somebody else may have left them already.
        let Some(tls) = tls else { return };
        if let Err(error) = self.go_another(tls, number + 1) {
            tracing::warn!(%error, "the connection stays in use");
        }
    }

    /// A chain that ends elsewhere is another fault where a proxy could have made it.
    fn behind_proxy(&self, error: GatewayError) -> GatewayError {
        match error {
            GatewayError::Untrusted { address, fault: TrustFault::OtherRoot }
                if self.addresses.proxy.is_some() =>
            {
                GatewayError::Untrusted { address, fault: TrustFault::Inspected }
            }
            error => error,
        }
    }

    /// Hands in a claim: `/v1/enroll`, or `/v1/renew`.
    ///
    /// # Errors
    /// No gateway answered, or it refused.
    pub async fn claim(
        &self,
        path: &str,
        request: &EnrolRequest,
    ) -> Result<EnrolAnswer, GatewayError> {
        self.call(Method::POST, path, SHORT, |builder| builder.json(request)).await
    }

    async fn post<B: Serialize + Sync, A: DeserializeOwned>(
        &self,
        path: &str,
        limit: Duration,
        body: &B,
    ) -> Result<A, GatewayError> {
        self.call(Method::POST, path, limit, |builder| builder.json(body)).await
    }

    /// Asks one gateway after the other until one answers.
    async fn call<A: DeserializeOwned>(
        &self,
        method: Method,
        path: &str,
        limit: Duration,
        fill: impl Fn(RequestBuilder) -> RequestBuilder,
    ) -> Result<A, GatewayError> {
        let (client, number) = self.way();
        let first = self.current.load(Ordering::Relaxed);
        let count = self.addresses.gateways.len();
        let mut last = GatewayError::Unreachable { detail: "there is none".to_owned() };
        for offset in 0..count {
            let index = (first + offset) % count;
            let mut url = self.addresses.gateways[index].clone();
            let address = origin(&url);
            url.set_path(path);
            let request = fill(client.request(method.clone(), url)).timeout(limit);
            let way = match &self.addresses.proxy {
                Some(proxy) => format!("{address} (by the proxy {})", origin(proxy)),
                None => address,
            };
            match answer(request, &way).await.map_err(|error| self.behind_proxy(error)) {
                Ok(answer) => {
                    self.current.store(index, Ordering::Relaxed);
                    return Ok(answer);
                }
                Err(error @ GatewayError::Refused { .. }) => return Err(error),
                Err(error) => {
                    if matches!(error, GatewayError::Unreachable { .. }) {
                        self.leave(number);
                    }
                    last = error;
                }
            }
        }
        Err(last)
    }
}

impl Gateway for HttpGateway {
    async fn poll(&self, query: &JobQuery) -> Result<JobAnswer, GatewayError> {
        let limit = Duration::from_secs(query.wait) + GRACE;
        self.call(Method::GET, "/v1/job", limit, |builder| builder.query(query)).await
    }

    async fn permit(&self, request: &PermitRequest) -> Result<PermitAnswer, GatewayError> {
        self.post("/v1/permits", SHORT, request).await
    }

    async fn report(&self, batch: &ReportBatch) -> Result<ReportAck, GatewayError> {
        let limit = Duration::from_millis(MAX_REPORT_WAIT_MS) + GRACE;
        self.post("/v1/reports", limit, batch).await
    }

    async fn is_there(&self) -> bool {
        let (client, _) = self.way();
        let mut asked = tokio::task::JoinSet::new();
        for url in &self.addresses.gateways {
            let mut url = url.clone();
            // Nothing is there, and saying so is an answer.
            url.set_path("/");
            asked.spawn(client.get(url).timeout(SHORT).send());
        }
        while let Some(answer) = asked.join_next().await {
            match answer {
                Ok(Ok(_)) => return true,
                Ok(Err(error)) if is_answer(&error) => return true,
                Ok(Err(_)) | Err(_) => {}
            }
        }
        false
    }
}

fn identified_config(identity: &Identity) -> Result<ClientConfig, TlsError> {
    client_config(&identity.roots, Some((&identity.certificate, &identity.key)))
}

fn client(addresses: &Addresses, mut tls: ClientConfig) -> Result<Client, ClientError> {
    // The gateways resume no session; a cache for it would only cost memory.
    tls.resumption = Resumption::disabled();
    // One connection carries the long poll, permits and reports side by side.
    tls.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    let builder = Client::builder()
        .tls_backend_preconfigured(tls)
        .connect_timeout(CONNECT)
        // A gateway that vanished without a word must not hold the connection for minutes.
        .tcp_keepalive(KEEP_ALIVE)
        // There is one connection, and looking for idle ones would wake the device for nothing.
        .pool_idle_timeout(None)
        .redirect(reqwest::redirect::Policy::none())
        .user_agent(concat!("wardring-agent/", env!("CARGO_PKG_VERSION")));
    let builder = match &addresses.proxy {
        Some(proxy) => builder.proxy(reqwest::Proxy::https(proxy.clone())?),
        None => builder.no_proxy(),
    };
    Ok(builder.build()?)
}

async fn answer<A: DeserializeOwned>(
    request: RequestBuilder,
    address: &str,
) -> Result<A, GatewayError> {
    let response = request.send().await.map_err(|error| failed(&error, address))?;
    let status = response.status();
    let retry_after_s = response
        .headers()
        .get("retry-after")
        .and_then(|value| value.to_str().ok())
        .and_then(|text| text.parse().ok());
    let body = read(response).await?;
    if status.is_success() {
        return serde_json::from_slice(&body).map_err(|error| GatewayError::Unreachable {
            detail: format!("its answer cannot be understood: {error}"),
        });
    }
    if status == StatusCode::TOO_MANY_REQUESTS || status.is_server_error() {
        return Err(GatewayError::Busy { status: status.as_u16(), retry_after_s });
    }
    Err(GatewayError::Refused { status: status.as_u16(), message: sentence(&body) })
}

/// The sentence of a refusal, which gateways send as `{"error": …}`; a stranger's answer as it is.
fn sentence(body: &[u8]) -> String {
    let said = serde_json::from_slice::<serde_json::Value>(body).ok();
    let said = said.as_ref().and_then(|said| said["error"].as_str());
    let text = said.map_or_else(|| String::from_utf8_lossy(body), Into::into);
    text.chars().filter(|character| !character.is_control()).take(300).collect()
}

/// Reads a body of bounded size: a gateway is trusted with nothing, not even our memory.
async fn read(mut response: Response) -> Result<Vec<u8>, GatewayError> {
    let mut body = Vec::new();
    loop {
        match response.chunk().await {
            Ok(Some(chunk)) if body.len() + chunk.len() <= MAX_BODY => {
                body.extend_from_slice(&chunk);
            }
            Ok(Some(_)) => {
                let detail = format!("its answer is larger than {MAX_BODY} bytes");
                return Err(GatewayError::Unreachable { detail });
            }
            Ok(None) => return Ok(body),
            Err(error) => {
                return Err(GatewayError::Unreachable { detail: root_cause(&error) });
            }
        }
    }
}

/// Scheme, host and port, for people.
fn origin(url: &Url) -> String {
    let port = url.port_or_known_default().unwrap_or_default();
    format!("{}://{}:{port}", url.scheme(), url.host_str().unwrap_or_default())
}

/// Why a call did not come about, in words that lead somewhere.
fn failed(error: &reqwest::Error, address: &str) -> GatewayError {
    match tls_fault(error).and_then(trust_fault) {
        Some(fault) => GatewayError::Untrusted { address: address.to_owned(), fault },
        None => {
            let detail = format!("{address}: {}", root_cause(error));
            GatewayError::Unreachable { detail }
        }
    }
}

/// Whether a call failed because of what somebody answered. Whoever speaks TLS, or HTTP, is there,
/// however wrong it is.
fn is_answer(error: &reqwest::Error) -> bool {
    tls_fault(error).is_some() || !(error.is_connect() || error.is_timeout())
}

/// The innermost error: what the operating system or the protocol really said.
fn root_cause(error: &dyn std::error::Error) -> String {
    let mut last = error;
    while let Some(source) = last.source() {
        last = source;
    }
    last.to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refusal_is_told_in_its_sentence() {
        assert_eq!(sentence(br#"{"error": "the name is none"}"#), "the name is none");
        assert_eq!(sentence(b"<html>\x1b[31mno</html>\n"), "<html>[31mno</html>");
        assert_eq!(sentence(&[b'x'; 4_000]).len(), 300);
    }

    #[tokio::test]
    async fn a_way_through_a_proxy_that_is_dead_names_the_proxy() {
        let list = ["https://gw-1:8443".to_owned()];
        let addresses = Addresses::parse(&list, Some("http://127.0.0.1:1")).unwrap();
        let gateway = HttpGateway::first_contact(&addresses, Fingerprint::of(b"root")).unwrap();
        let query = JobQuery::default();
        let error = gateway.poll(&query).await.unwrap_err().to_string();
        assert!(error.contains("(by the proxy http://127.0.0.1:1)"), "{error}");
    }

    #[tokio::test]
    async fn a_connection_on_which_nobody_answers_is_left_for_a_new_one_once() {
        let list = ["https://127.0.0.1:1".to_owned()];
        let addresses = Addresses::parse(&list, None).unwrap();
        let gateway = HttpGateway::first_contact(&addresses, Fingerprint::of(b"root")).unwrap();
        assert_eq!(gateway.way().1, 0);
        gateway.poll(&JobQuery::default()).await.unwrap_err();
        assert_eq!(gateway.way().1, 1);
        // What was asked on the old one and failed later is no reason to leave the new one.
        gateway.leave(0);
        assert_eq!(gateway.way().1, 1);
    }

    #[tokio::test]
    async fn whoever_answers_is_there_however_wrong_and_who_refuses_the_connection_is_not() {
        let gateway = |port: u16| {
            let list = [format!("https://127.0.0.1:{port}"), "https://127.0.0.1:1".to_owned()];
            let addresses = Addresses::parse(&list, None).unwrap();
            HttpGateway::first_contact(&addresses, Fingerprint::of(b"root")).unwrap()
        };
        assert!(!gateway(2).is_there().await);
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let served = tokio::spawn(async move {
            let (mut stream, _) = listener.accept().await.unwrap();
            let said = b"HTTP/1.1 503 Service Unavailable\r\n\r\n";
            tokio::io::AsyncWriteExt::write_all(&mut stream, said).await.unwrap();
            // Read to the end, so that nothing is lost on the way.
            let mut rest = Vec::new();
            let _ = tokio::io::AsyncReadExt::read_to_end(&mut stream, &mut rest).await;
        });
        assert!(gateway(port).is_there().await);
        served.await.unwrap();
    }

    #[test]
    fn a_fleet_with_one_list_of_gateways_uses_all_of_them() {
        let list = ["https://gw-1:8443", "https://gw-2:8443"].map(str::to_owned);
        let addresses = Addresses::parse(&list, None).unwrap();
        let first = |_| {
            let gateway = HttpGateway::first_contact(&addresses, Fingerprint::of(b"root")).unwrap();
            gateway.current.load(Ordering::Relaxed)
        };
        // All of 64 devices at one of two gateways: once in 2^63.
        let firsts: std::collections::BTreeSet<usize> = (0..64).map(first).collect();
        assert_eq!(firsts.into_iter().collect::<Vec<_>>(), [0, 1]);
    }
}
