//! One delivery to one sink: what it needs of the cluster, and the exchange.

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use http::{HeaderMap, HeaderName, HeaderValue, StatusCode};
use jiff::Timestamp;
use k8s_openapi::api::core::v1::Secret;
use kube::{Api, Client};
use ring::hmac;
use serde_json::{Value, json};
use tokio::time::Instant;
use wardring_api::{Device, SecretKey, Sink, SinkType, WebhookSink, names::NOTIFY_HOST_ANNOTATION};
use wardring_planner::{Alert, Message, MessageState};

use super::{
    message::{Names, alertmanager, fields, id, label_key, sample},
    template::{self, TemplateError},
};
use crate::outbound::{
    Allowed, Endpoint, Limits, OutboundError, Question, Scheme, Target, TargetError, TlsError,
    client_config, system_lookup,
};

/// What one exchange may cost.
const LIMITS: Limits = Limits { time: Duration::from_secs(10), body: 64 * 1024 };
/// Alerts of one exchange that repeats what holds.
const HELD: usize = 32;
/// No turn of a sink begins another exchange after this.
const TURN: Duration = Duration::from_secs(10);
/// A Secret of this type opens the API server.
const ACCOUNT_TOKEN: &str = "kubernetes.io/service-account-token";
/// What Wardring's own Secrets begin with.
const OWN: &str = "wardring-";
/// What the cluster may take to answer.
const PATIENCE: Duration = Duration::from_secs(10);

/// Why a sink was not told. Nothing here repeats an address, a secret, or what a server sent.
#[derive(Debug, thiserror::Error)]
pub enum SendError {
    /// Its address.
    #[error("url: {0}")]
    Address(#[from] TargetError),
    /// Plain HTTP.
    #[error("url: the address must begin with `https://`")]
    Plain,
    /// Whom to trust.
    #[error("{0}")]
    Tls(#[from] TlsError),
    /// A Secret.
    #[error("Secret {name}: {why}")]
    Secret {
        /// Its name.
        name: String,
        /// In our words.
        why: String,
    },
    /// The exchange.
    #[error("{0}")]
    Outbound(#[from] OutboundError),
    /// Another process tells.
    #[error("the term of this leader is over")]
    TermOver,
    /// The answer.
    #[error("the server answered HTTP {}", .0.as_u16())]
    Status(StatusCode),
}

impl SendError {
    /// Whether only a person can mend it, in the Notifier.
    pub fn is_invalid(&self) -> bool {
        matches!(self, SendError::Address(_) | SendError::Plain | SendError::Tls(_))
    }

    /// Whether the server refused this very message for what it is, and may take others.
    fn is_refusal(&self) -> bool {
        let refusals = [
            StatusCode::BAD_REQUEST,
            StatusCode::PAYLOAD_TOO_LARGE,
            StatusCode::UNPROCESSABLE_ENTITY,
        ];
        matches!(self, SendError::Status(status) if refusals.contains(status))
    }
}

/// Whether a sink can work as it is written, as far as that shows without connecting.
pub fn check(sink: &Sink) -> Result<(), SendError> {
    if let Some(url) = &sink.url
        && Target::parse(url)?.scheme != Scheme::Https
    {
        return Err(SendError::Plain);
    }
    if let Some(bundle) = &sink.ca_bundle {
        client_config(Some(bundle), None)?;
    }
    Ok(())
}

/// Whether a sink's template can work, as far as a sample shows.
pub fn check_template(sink: &Sink) -> Result<(), TemplateError> {
    let template = sink.webhook.as_ref().and_then(|webhook| webhook.template.as_ref());
    template.map_or(Ok(()), |template| {
        let sample = fields("namespace", &sample(), &Names::default());
        template::render(template, &sample).map(drop)
    })
}

/// What there is to deliver.
#[derive(Clone, Debug)]
pub struct Parcel {
    /// Namespace of the Notifier.
    pub namespace: String,
    /// The sink.
    pub sink: Sink,
    /// What is new.
    pub messages: Vec<Message>,
    /// What holds and was told: Alertmanager forgets what nobody repeats.
    pub holding: Vec<Alert>,
    /// What stands at an Alertmanager once all is told that is to be told, by label.
    pub standing: BTreeSet<String>,
    /// Devices that claim the name of another one.
    pub disputed: BTreeSet<String>,
}

/// How far a delivery came. Messages are named by their position in the parcel.
#[derive(Debug, Default)]
pub struct Delivered {
    /// Were told.
    pub told: Vec<usize>,
    /// Were refused for what they are.
    pub refused: Vec<usize>,
    /// What kept the rest from being told.
    pub error: Option<SendError>,
    /// What the server answered to what it refused.
    pub refusal: Option<SendError>,
    /// Whether the server refused to be told again of what holds.
    pub refuses_held: bool,
    /// Why the template was not used, if it could not be.
    pub template: Option<TemplateError>,
}

impl Delivered {
    fn failed(error: SendError) -> Delivered {
        Delivered { error: Some(error), ..Delivered::default() }
    }

    /// Takes note of what became of the message at `index`; whether the turn goes on.
    fn note(&mut self, index: usize, result: Result<(), SendError>) -> bool {
        match result {
            Ok(()) => self.told.push(index),
            Err(error) if error.is_refusal() => {
                self.refused.push(index);
                self.refusal = Some(error);
            }
            Err(error) => {
                self.error = Some(error);
                return false;
            }
        }
        true
    }
}

/// What a delivery goes by.
#[derive(Clone)]
pub struct Courier {
    /// The API server.
    pub client: Client,
    /// Where it may go.
    pub allowed: Allowed,
    /// Whether this process leads, asked right before every exchange: what a former leader repeats would
    /// stand against what its successor says.
    pub in_office: Arc<dyn Fn() -> bool + Send + Sync>,
}

/// Delivers what fits into one turn.
pub async fn deliver(courier: &Courier, parcel: &Parcel) -> Delivered {
    let endpoint = match endpoint(&courier.client, &courier.allowed, parcel).await {
        Ok(endpoint) => endpoint,
        Err(error) => return Delivered::failed(error),
    };
    match parcel.sink.kind {
        SinkType::Alertmanager => tell_alertmanager(courier, &endpoint, parcel).await,
        SinkType::Webhook => tell_webhook(courier, &endpoint, parcel).await,
    }
}

async fn tell_alertmanager(courier: &Courier, endpoint: &Endpoint, parcel: &Parcel) -> Delivered {
    let all: Vec<usize> = (0..parcel.messages.len()).collect();
    let mut delivered = Delivered::default();
    let ask = async |question| ask(courier, endpoint, question).await;
    if !all.is_empty() {
        match ask(alertmanager_question(parcel, &all)).await {
            Ok(()) => delivered.told = all,
            Err(error) if error.is_refusal() => {
                // One of them is to blame, and the others must not wait for it.
                let until = Instant::now() + TURN;
                for index in all {
                    let is_late = Instant::now() >= until;
                    if is_late
                        || !delivered
                            .note(index, ask(alertmanager_question(parcel, &[index])).await)
                    {
                        break;
                    }
                }
            }
            Err(error) => delivered.error = Some(error),
        }
    }
    // By itself and in parts: what a server refuses to hear again keeps nothing new from it.
    for held in parcel.holding.chunks(HELD) {
        if delivered.error.is_some() {
            break;
        }
        match ask(held_question(parcel, held)).await {
            Ok(()) => {}
            Err(error) if error.is_refusal() => delivered.refuses_held = true,
            Err(error) => delivered.error = Some(error),
        }
    }
    delivered
}

async fn tell_webhook(courier: &Courier, endpoint: &Endpoint, parcel: &Parcel) -> Delivered {
    let client = &courier.client;
    let mut delivered = Delivered::default();
    let webhook = parcel.sink.webhook.clone().unwrap_or_default();
    let key = match &webhook.signature {
        None => None,
        Some(key) => match secret(client, &parcel.namespace, key, &endpoint.target).await {
            Ok(key) => Some(key),
            Err(error) => return Delivered::failed(error),
        },
    };
    // A server that takes its time for each message gives way to others after a while.
    let until = Instant::now() + TURN;
    for (index, message) in parcel.messages.iter().enumerate() {
        if Instant::now() >= until {
            break;
        }
        let names = names(client, parcel, message).await;
        let body = body(&parcel.namespace, message, &names, &webhook, &mut delivered.template);
        let question = webhook_question(&parcel.namespace, message, body, key.as_deref());
        if !delivered.note(index, ask(courier, endpoint, question).await) {
            break;
        }
    }
    delivered
}

/// What a message says by the template, or all that is known where that cannot be used: a mistake in a
/// template must not keep a page from anybody.
fn body(
    namespace: &str,
    message: &Message,
    names: &Names,
    webhook: &WebhookSink,
    trouble: &mut Option<TemplateError>,
) -> Vec<u8> {
    let mut fields = fields(namespace, message, names);
    let Some(template) = &webhook.template else { return fields.to_string().into_bytes() };
    match template::render(template, &fields) {
        Ok(body) => body,
        Err(error) => {
            *trouble = Some(error);
            // Chats of all kinds read this field.
            fields["text"] = fields["summary"].clone();
            fields.to_string().into_bytes()
        }
    }
}

fn webhook_question(
    namespace: &str,
    message: &Message,
    body: Vec<u8>,
    key: Option<&[u8]>,
) -> Question {
    let mut headers = HeaderMap::new();
    let value = |text: &str| HeaderValue::from_str(text).expect("letters and digits");
    headers.insert(HeaderName::from_static("idempotency-key"), value(&id(namespace, message)));
    if let Some(key) = key {
        let stamp = Timestamp::now().as_second().to_string();
        let signature = sign(key, &stamp, &body);
        headers.insert(HeaderName::from_static("x-wardring-timestamp"), value(&stamp));
        headers.insert(HeaderName::from_static("x-wardring-signature"), value(&signature));
    }
    Question { json: Some(body), headers, ..Question::default() }
}

/// `sha256=…`, the HMAC over stamp, dot and body.
fn sign(key: &[u8], stamp: &str, body: &[u8]) -> String {
    let mut context = hmac::Context::with_key(&hmac::Key::new(hmac::HMAC_SHA256, key));
    context.update(stamp.as_bytes());
    context.update(b".");
    context.update(body);
    format!("sha256={}", hex::encode(context.sign()))
}

/// The messages at `chosen`.
fn alertmanager_question(parcel: &Parcel, chosen: &[usize]) -> Question {
    // Its labels do not tell one time from the next: what holds again must not be resolved.
    let counts = |message: &&Message| {
        let is_over = matches!(message.state, MessageState::Resolved(_));
        !is_over || !parcel.standing.contains(&label_key(&message.alert))
    };
    let fresh = chosen.iter().map(|index| &parcel.messages[*index]);
    of_alerts(parcel, fresh.filter(counts).map(|one| (&one.alert, one.state)))
}

fn held_question(parcel: &Parcel, held: &[Alert]) -> Question {
    of_alerts(parcel, held.iter().map(|alert| (alert, MessageState::Firing)))
}

fn of_alerts<'a>(
    parcel: &Parcel,
    alerts: impl Iterator<Item = (&'a Alert, MessageState)>,
) -> Question {
    let now = Timestamp::now();
    let source = parcel.sink.alertmanager.as_ref().and_then(|sink| sink.source.as_deref());
    let alerts: Vec<Value> = alerts
        .map(|(alert, state)| alertmanager(&parcel.namespace, source, alert, state, now))
        .collect();
    Question {
        path: "/api/v2/alerts".to_owned(),
        json: Some(json!(alerts).to_string().into_bytes()),
        ..Question::default()
    }
}

async fn ask(courier: &Courier, endpoint: &Endpoint, question: Question) -> Result<(), SendError> {
    if !(courier.in_office)() {
        return Err(SendError::TermOver);
    }
    let answer = endpoint.ask(question).await?;
    if answer.status.is_success() { Ok(()) } else { Err(SendError::Status(answer.status)) }
}

async fn endpoint(
    client: &Client,
    allowed: &Allowed,
    parcel: &Parcel,
) -> Result<Endpoint, SendError> {
    let (sink, namespace) = (&parcel.sink, &parcel.namespace);
    let target = match (&sink.url, &sink.url_from) {
        (Some(url), _) => Target::parse(url)?,
        (None, Some(key)) => {
            let found = read(client, namespace, key).await?;
            if found.host.is_none() {
                // What it holds is nobody's address, and no error may tell of what kind it is.
                return Err(Found::not_for(key));
            }
            let url = found.value.clone();
            let url = String::from_utf8(url).map_err(|_| TargetError::Host)?;
            let target = Target::parse(url.trim())?;
            found.for_host(key, &target)?;
            target
        }
        (None, None) => return Err(SendError::Plain),
    };
    if target.scheme != Scheme::Https {
        return Err(SendError::Plain);
    }
    let authorization = match &sink.bearer_token {
        None => None,
        Some(key) => {
            let token = secret(client, namespace, key, &target).await?;
            let token = token.trim_ascii_end();
            let refused = |_| SendError::Secret {
                name: key.name.clone(),
                why: "its token has characters that no header may have".to_owned(),
            };
            let value = [b"Bearer ", token].concat();
            let mut value = HeaderValue::from_bytes(&value).map_err(refused)?;
            value.set_sensitive(true);
            Some(value)
        }
    };
    Ok(Endpoint {
        target,
        allowed: allowed.clone(),
        tls: Some(client_config(sink.ca_bundle.as_deref(), None)?),
        authorization,
        limits: LIMITS,
        lookup: system_lookup(),
    })
}

/// What stands under a key of a Secret, and whom it is for.
struct Found {
    value: Vec<u8>,
    host: Option<String>,
}

impl Found {
    /// The value, if it is for that host. Whoever may write Notifiers could else have any Secret of the
    /// namespace sent to a server of their own, or read as an address.
    fn for_host(self, key: &SecretKey, target: &Target) -> Result<Vec<u8>, SendError> {
        let host = target.authority();
        if self.host.as_ref() == Some(&host) {
            return Ok(self.value);
        }
        Err(Found::not_for(key))
    }

    fn not_for(key: &SecretKey) -> SendError {
        // The host of an address that stands in a Secret is a secret, too.
        let why =
            format!("it must have the annotation {NOTIFY_HOST_ANNOTATION} with the sink's host");
        SendError::Secret { name: key.name.clone(), why }
    }
}

/// The value of a key of a Secret that is for that server.
async fn secret(
    client: &Client,
    namespace: &str,
    key: &SecretKey,
    target: &Target,
) -> Result<Vec<u8>, SendError> {
    read(client, namespace, key).await?.for_host(key, target)
}

async fn read(client: &Client, namespace: &str, key: &SecretKey) -> Result<Found, SendError> {
    let fail = |why: &str| SendError::Secret { name: key.name.clone(), why: why.to_owned() };
    if key.name.starts_with(OWN) {
        return Err(fail("what begins with `wardring-` is Wardring's own"));
    }
    let api: Api<Secret> = Api::namespaced(client.clone(), namespace);
    let found = match tokio::time::timeout(PATIENCE, api.get_opt(&key.name)).await {
        Ok(Ok(found)) => found.ok_or_else(|| fail("it does not exist"))?,
        Ok(Err(kube::Error::Api(status))) if status.is_forbidden() => {
            return Err(fail(
                "the controller may not read it; bind its service account to a Role that may `get` it",
            ));
        }
        Ok(Err(_)) | Err(_) => return Err(fail("the API server did not give it")),
    };
    if found.type_.as_deref() == Some(ACCOUNT_TOKEN) {
        return Err(fail("a service account's token is no credential for a sink"));
    }
    let host = found.metadata.annotations.unwrap_or_default().remove(NOTIFY_HOST_ANNOTATION);
    let value = found.data.and_then(|mut data| data.remove(&key.key));
    let value = value.map(|value| value.0).filter(|value| !value.is_empty());
    let value = value.ok_or_else(|| fail("it has nothing under that key"))?;
    Ok(Found { value, host })
}

/// How other systems know the device that a message is about: what it says of itself, unless it claims to
/// be another one. Whoever keeps monitoring silent by these would not hear of that one.
async fn names(client: &Client, parcel: &Parcel, message: &Message) -> Names {
    let alert = &message.alert;
    if alert.device.is_empty() {
        return Names::default();
    }
    let mut names = vec![alert.device.clone()];
    if parcel.disputed.contains(&alert.device) {
        return Names { names, addresses: Vec::new() };
    }
    let api: Api<Device> = Api::namespaced(client.clone(), &parcel.namespace);
    let device = tokio::time::timeout(PATIENCE, api.get_opt(&alert.device)).await;
    let status = device.ok().and_then(Result::ok).flatten().and_then(|device| device.status);
    let identity = status.and_then(|status| status.identity).unwrap_or_default();
    let hostname = identity.hostname.to_lowercase();
    let is_own = |fqdn: &String| fqdn.to_lowercase().split('.').next() == Some(&hostname);
    names.extend([Some(identity.hostname), identity.fqdn.filter(is_own)].into_iter().flatten());
    names.retain(|name| !name.is_empty());
    names.dedup();
    Names { names, addresses: identity.addresses }
}

#[cfg(test)]
mod tests;
