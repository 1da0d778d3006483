//! A GateProvider, read once into what can be asked.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use base64::{Engine, engine::general_purpose::STANDARD};
use http::HeaderValue;
use tokio::sync::Semaphore;
use wardring_api::{
    GateProviderSpec, GateProviderType, ProviderAuth, ProviderAuthType, Span, reasons::Reason,
};

use crate::outbound::{
    Allowed, Endpoint, Identity, Limits, Network, NetworkError, Scheme, Target, TargetError,
    TlsError, client_config, system_lookup,
};

/// Longest time for an answer.
const TIMEOUT: Span = Span::from_secs(10);
/// Largest answer, unless the provider says.
const BODY: u32 = 64 * 1024;
/// Largest answer that a provider may allow.
const MAX_BODY: u32 = 1024 * 1024;
/// Measurements at the same time, unless the provider says.
const CONCURRENCY: u32 = 4;

/// A provider that can be asked.
#[derive(Debug)]
pub struct Provider {
    /// What it speaks.
    pub kind: GateProviderType,
    /// Where.
    pub endpoint: Endpoint,
    /// Whose turn it is.
    pub turns: Arc<Semaphore>,
    /// For whom.
    pub tenants: Tenants,
}

/// The namespaces whose rollouts may use a provider.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tenants(Vec<String>);

impl Tenants {
    /// Those that `spec` names.
    pub fn new(spec: &GateProviderSpec) -> Tenants {
        Tenants(spec.namespaces.clone())
    }

    /// Whether rollouts of `namespace` may use it.
    pub fn hold(&self, namespace: &str) -> bool {
        self.0.iter().any(|known| known == "*" || known == namespace)
    }
}

/// Why a provider cannot be asked. Its author reads it, in the status.
#[derive(Debug, thiserror::Error)]
pub enum Unusable {
    /// The address.
    #[error("spec.url: {0}")]
    Target(#[from] TargetError),
    /// Plain HTTP that nobody asked for.
    #[error(
        "spec.url: plain HTTP needs `allowHttp: true` and `allowedNetworks` that name where the host is"
    )]
    PlainHttp,
    /// Credentials that everybody on the way would read.
    #[error("spec.auth: needs an address that begins with `https://`")]
    PlainCredentials,
    /// A network.
    #[error("spec.allowedNetworks: {0}")]
    Network(#[from] NetworkError),
    /// Certificates.
    #[error("{0}")]
    Tls(#[from] TlsError),
    /// The Secret that is not read for anybody.
    #[error("spec.auth.secret: must not be one of Wardring's own")]
    OwnSecret,
    /// The Secret.
    #[error("Secret {name} in namespace {namespace}: {why}")]
    Secret {
        /// Its name.
        name: String,
        /// Where it should be.
        namespace: String,
        /// What is wrong with it.
        why: String,
    },
    /// A key of the Secret.
    #[error(
        "the Secret has no usable `{key}`; {kind:?} needs a text without line breaks under that key"
    )]
    Key {
        /// The key.
        key: &'static str,
        /// For what.
        kind: ProviderAuthType,
    },
}

impl Unusable {
    /// The word for the condition.
    pub fn reason(&self) -> Reason {
        match self {
            Unusable::Secret { .. } | Unusable::Key { .. } => Reason::CredentialsUnusable,
            Unusable::Tls(TlsError::Identity) => Reason::CredentialsUnusable,
            _ => Reason::InvalidSpec,
        }
    }
}

/// The keys of a Secret.
pub type SecretData = BTreeMap<String, Vec<u8>>;

impl Provider {
    /// Reads a provider and, if it names one, its Secret. `turns` outlive a change of the provider.
    pub fn new(
        spec: &GateProviderSpec,
        data: Option<&SecretData>,
        turns: Arc<Semaphore>,
    ) -> Result<Provider, Unusable> {
        let target = Target::parse(&spec.url)?;
        let networks: Result<Vec<Network>, NetworkError> =
            spec.allowed_networks.iter().map(|text| Network::parse(text)).collect();
        let networks = networks?;
        let secret = spec.auth.as_ref();
        let secret = secret.map(|auth| (auth, data.unwrap_or(const { &SecretData::new() })));
        let (allowed, tls) = match target.scheme {
            Scheme::Https => {
                let identity =
                    secret.map(|(auth, data)| client_identity(auth, data)).transpose()?;
                let tls = client_config(spec.ca_bundle.as_deref(), identity.flatten())?;
                (Allowed::networks(networks), Some(tls))
            }
            Scheme::Http if secret.is_some() => return Err(Unusable::PlainCredentials),
            Scheme::Http if spec.allow_http && !networks.is_empty() => {
                (Allowed::only(networks), None)
            }
            Scheme::Http => return Err(Unusable::PlainHttp),
        };
        let time = spec.timeout.unwrap_or(TIMEOUT).min(TIMEOUT).duration();
        let body = spec.max_answer_bytes.unwrap_or(BODY).min(MAX_BODY);
        let endpoint = Endpoint {
            target,
            allowed,
            tls,
            authorization: secret
                .map(|(auth, data)| authorization(auth, data))
                .transpose()?
                .flatten(),
            limits: Limits {
                time: Duration::try_from(time).unwrap_or_default(),
                body: usize::try_from(body).unwrap_or(usize::MAX),
            },
            lookup: system_lookup(),
        };
        Ok(Provider { kind: spec.kind, endpoint, turns, tenants: Tenants::new(spec) })
    }
}

/// How many may ask a provider at the same time.
pub fn turns(spec: &GateProviderSpec) -> usize {
    spec.max_concurrency.unwrap_or(CONCURRENCY).clamp(1, 16) as usize
}

fn key<'a>(
    auth: &ProviderAuth,
    data: &'a SecretData,
    key: &'static str,
) -> Result<&'a [u8], Unusable> {
    let value = data.get(key).filter(|value| !value.is_empty());
    value.map(Vec::as_slice).ok_or(Unusable::Key { key, kind: auth.kind })
}

fn client_identity<'a>(
    auth: &ProviderAuth,
    data: &'a SecretData,
) -> Result<Option<Identity<'a>>, Unusable> {
    if auth.kind != ProviderAuthType::ClientCertificate {
        return Ok(None);
    }
    let (chain, key) = (key(auth, data, "tls.crt")?, key(auth, data, "tls.key")?);
    Ok(Some(Identity { chain, key }))
}

fn authorization(auth: &ProviderAuth, data: &SecretData) -> Result<Option<HeaderValue>, Unusable> {
    // A file that an editor wrote ends with a line break.
    let text = |name| Ok::<_, Unusable>(key(auth, data, name)?.trim_ascii_end());
    let (name, value) = match auth.kind {
        ProviderAuthType::ClientCertificate => return Ok(None),
        ProviderAuthType::Bearer => ("token", [b"Bearer ", text("token")?].concat()),
        ProviderAuthType::Basic => {
            let pair = [text("username")?, b":", text("password")?].concat();
            ("password", format!("Basic {}", STANDARD.encode(pair)).into_bytes())
        }
    };
    let unusable = |_| Unusable::Key { key: name, kind: auth.kind };
    let mut value = HeaderValue::from_bytes(&value).map_err(unusable)?;
    value.set_sensitive(true);
    Ok(Some(value))
}

#[cfg(test)]
pub(super) mod tests {
    use serde_json::{Value, json};
    use wardring_harness::https::HttpsServer;

    use super::*;

    fn spec(changes: Value) -> GateProviderSpec {
        let mut spec = json!({
            "type": "Prometheus",
            "url": "https://prometheus.example.com",
            "namespaces": ["clinic"],
            "caBundle": include_str!("../outbound/tests/root.pem"),
        });
        for (name, value) in changes.as_object().unwrap() {
            spec[name] = value.clone();
        }
        serde_json::from_value(spec).unwrap()
    }

    fn read(changes: Value, secret: &[(&str, &str)]) -> Result<Provider, Unusable> {
        let data = secret.iter().map(|(key, value)| ((*key).to_owned(), value.as_bytes().to_vec()));
        Provider::new(&spec(changes), Some(&data.collect()), Arc::new(Semaphore::new(1)))
    }

    /// A test server as a provider of namespace `clinic`.
    pub(crate) fn spec_at(server: &HttpsServer) -> GateProviderSpec {
        spec(json!({
            "url": server.url(), "caBundle": server.ca(), "allowedNetworks": ["127.0.0.1"],
        }))
    }

    /// The endpoint of a test server.
    pub(crate) fn endpoint(server: &HttpsServer) -> Endpoint {
        Provider::new(&spec_at(server), None, Arc::new(Semaphore::new(1))).unwrap().endpoint
    }

    #[test]
    fn a_provider_without_anything_special_reaches_public_addresses_over_tls() {
        let provider = read(json!({}), &[]).unwrap();
        assert!(provider.endpoint.tls.is_some() && provider.endpoint.authorization.is_none());
        assert_eq!(provider.endpoint.allowed, Allowed::networks(Vec::new()));
        let limits = Limits { time: Duration::from_secs(10), body: 64 * 1024 };
        assert_eq!(provider.endpoint.limits, limits);
        assert!(provider.tenants.hold("clinic") && !provider.tenants.hold("lab"));
        assert!(read(json!({ "namespaces": ["*"] }), &[]).unwrap().tenants.hold("lab"));
    }

    #[test]
    fn plain_http_is_spoken_only_where_networks_are_named() {
        let url = "http://prometheus.example.com";
        for changes in [
            json!({ "url": url }),
            json!({ "url": url, "allowHttp": true }),
            json!({ "url": url, "allowedNetworks": ["10.0.0.0/8"] }),
        ] {
            assert!(matches!(read(changes, &[]), Err(Unusable::PlainHttp)));
        }
        let listed = json!({ "url": url, "allowHttp": true, "allowedNetworks": ["10.0.0.0/8"] });
        let provider = read(listed, &[]).unwrap();
        let networks = vec![Network::parse("10.0.0.0/8").unwrap()];
        assert_eq!(provider.endpoint.allowed, Allowed::only(networks));
        assert!(provider.endpoint.tls.is_none());
        let with_token = json!({
            "url": url, "allowHttp": true, "allowedNetworks": ["10.0.0.0/8"],
            "auth": { "type": "Bearer", "secret": "prom" },
        });
        let refused = read(with_token, &[("token", "t")]);
        assert!(matches!(refused, Err(Unusable::PlainCredentials)), "{refused:?}");
    }

    #[test]
    fn credentials_come_from_the_secret_and_are_never_shown() {
        let auth = |kind: &str| json!({ "auth": { "type": kind, "secret": "prom" } });
        let header = |kind: &str, secret: &[(&str, &str)]| {
            let provider = read(auth(kind), secret).unwrap();
            assert!(!format!("{provider:?}").contains("s3cret"), "{provider:?}");
            let value = provider.endpoint.authorization.unwrap();
            assert!(value.is_sensitive());
            value.to_str().unwrap().to_owned()
        };
        assert_eq!(header("Bearer", &[("token", "s3cret\n")]), "Bearer s3cret");
        let pair = [("username", "wardring"), ("password", "s3cret")];
        assert_eq!(header("Basic", &pair), "Basic d2FyZHJpbmc6czNjcmV0");
        for (kind, secret) in [
            ("Bearer", vec![]),
            ("Bearer", vec![("token", "")]),
            ("Bearer", vec![("token", "s3c\r\nret: x")]),
            ("Basic", vec![("username", "wardring")]),
            ("ClientCertificate", vec![("tls.crt", "s3cret"), ("tls.key", "s3cret")]),
            ("ClientCertificate", vec![("tls.crt", "s3cret")]),
        ] {
            let refused = read(auth(kind), &secret).unwrap_err();
            assert_eq!(refused.reason(), Reason::CredentialsUnusable, "{refused}");
            assert!(!format!("{refused} {refused:?}").contains("s3c"), "{refused:?}");
        }
    }

    #[test]
    fn what_an_administrator_got_wrong_is_named() {
        for (changes, part) in [
            (json!({ "url": "https://a:b@prometheus.example.com" }), "spec.url: "),
            (json!({ "url": "https://0x7f000001" }), "spec.url: "),
            (json!({ "allowedNetworks": ["0.0.0.0/0"] }), "spec.allowedNetworks: "),
            (json!({ "allowedNetworks": ["10.0.0.1/8"] }), "lies in 10.0.0.0/8"),
            (json!({ "caBundle": "nothing" }), "caBundle"),
        ] {
            let refused = read(changes.clone(), &[]).unwrap_err();
            assert_eq!(refused.reason(), Reason::InvalidSpec);
            assert!(refused.to_string().contains(part), "{changes}: {refused}");
        }
    }
}
