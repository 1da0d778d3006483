use base64::{Engine, engine::general_purpose::STANDARD};
use wardring_api::{AlertKind, SinkType, WebhookSink};
use wardring_harness::{
    Monitor,
    https::{self, HttpsServer, Reply, Step, reply},
    monitoring::Setup,
};
use wardring_planner::Ended;

use super::{super::message::tests as made, *};
use crate::{
    events::tests::{api_server, refusal},
    outbound::Network,
};

const KEY: &[u8] = b"a key that nobody sees";

/// An API server with Secrets for the server at `host` and others, one that may not be read, and one
/// device.
fn cluster(server: &HttpsServer) -> Client {
    let host = server.url().trim_start_matches("https://").trim_end_matches('/').to_owned();
    cluster_for(host)
}

fn cluster_for(host: String) -> Client {
    let device = json!({
        "apiVersion": "wardring.dev/v1alpha1", "kind": "Device",
        "metadata": { "name": "srv-1", "namespace": "clinic" },
        "spec": {},
        "status": { "identity": {
            "hostname": "SRV-4711", "fqdn": "srv-4711.corp.example", "addresses": ["192.0.2.7"],
        } },
    });
    let secret = move |host: &str, kind: &str| {
        json!({
            "apiVersion": "v1", "kind": "Secret", "type": kind,
            "metadata": {
                "name": "chat", "namespace": "clinic",
                "annotations": { "wardring.dev/notify-host": host, "wardring.dev/gate-host": host },
            },
            "data": { "key": STANDARD.encode(KEY), "url": STANDARD.encode(format!("https://{host}/x")) },
        })
    };
    let gate = {
        let mut gate = secret(&host, "Opaque");
        gate["metadata"]["annotations"] = json!({ "wardring.dev/gate-host": host });
        gate
    };
    let (client, _) = api_server(move |path, _| match path.rsplit_once('/') {
        Some((_, "srv-1")) => (200, device.clone()),
        Some((_, "chat")) => (200, secret(&host, "Opaque")),
        Some((_, "other-host")) => (200, secret("elsewhere.example", "Opaque")),
        Some((_, "of-a-gate")) => (200, gate.clone()),
        Some((_, "account")) => (200, secret(&host, "kubernetes.io/service-account-token")),
        Some((_, "hidden")) => refusal(403, "Forbidden"),
        _ => refusal(404, "NotFound"),
    });
    client
}

fn courier(client: Client) -> Courier {
    Courier { client, allowed: loopback(), in_office: Arc::new(|| true) }
}

fn loopback() -> Allowed {
    Allowed::networks(vec![Network::parse("127.0.0.1").unwrap()])
}

fn webhook(server: &HttpsServer) -> Sink {
    Sink {
        name: "chat".to_owned(),
        kind: SinkType::Webhook,
        url: Some(server.url()),
        url_from: None,
        ca_bundle: Some(server.ca().to_owned()),
        bearer_token: None,
        alertmanager: None,
        webhook: Some(WebhookSink::default()),
    }
}

fn key(name: &str, key: &str) -> Option<SecretKey> {
    Some(SecretKey { name: name.to_owned(), key: key.to_owned() })
}

fn parcel(sink: Sink, devices: &[&str]) -> Parcel {
    let firing =
        |device: &&str| made::message(AlertKind::DeviceDidNotReturn, device, MessageState::Firing);
    Parcel {
        namespace: "clinic".to_owned(),
        sink,
        messages: devices.iter().map(firing).collect(),
        holding: Vec::new(),
        standing: BTreeSet::new(),
        disputed: BTreeSet::new(),
    }
}

async fn delivered(server: &HttpsServer, sink: Sink, devices: &[&str]) -> Delivered {
    deliver(&courier(cluster(server)), &parcel(sink, devices)).await
}

/// How many were told, and what went wrong.
async fn told(server: &HttpsServer, sink: Sink, devices: &[&str]) -> (usize, String) {
    let delivered = delivered(server, sink, devices).await;
    assert!(delivered.refused.is_empty() && delivered.template.is_none(), "{delivered:?}");
    (delivered.told.len(), delivered.error.map(|error| error.to_string()).unwrap_or_default())
}

#[tokio::test]
async fn a_webhook_is_told_everything_signed_and_with_a_key_against_repetitions() {
    let server = HttpsServer::start(|_| reply(204, "text/plain", "")).await.unwrap();
    let mut sink = webhook(&server);
    sink.webhook = Some(WebhookSink { template: None, signature: key("chat", "key") });
    sink.bearer_token = key("chat", "key");

    assert_eq!(told(&server, sink, &["srv-1"]).await, (1, String::new()));

    let received = server.received().remove(0);
    let body: Value = serde_json::from_slice(&received.body).unwrap();
    assert_eq!(body["event"], "DeviceDidNotReturn");
    assert_eq!(body["names"], json!(["srv-1", "SRV-4711", "srv-4711.corp.example"]));
    assert_eq!(body["addresses"], json!(["192.0.2.7"]));
    assert_eq!(received.header("idempotency-key"), body["id"].as_str());
    assert_eq!(received.header("authorization"), Some("Bearer a key that nobody sees"));
    let stamp = received.header("x-wardring-timestamp").unwrap();
    let signed = [stamp.as_bytes(), b".", &received.body].concat();
    let given = received.header("x-wardring-signature").unwrap().strip_prefix("sha256=").unwrap();
    let verified = hmac::verify(
        &hmac::Key::new(hmac::HMAC_SHA256, KEY),
        &signed,
        &hex::decode(given).unwrap(),
    );
    assert!(verified.is_ok());
}

#[tokio::test]
async fn a_template_makes_the_body_and_a_bad_one_gives_way_to_all_that_is_known() {
    let server = HttpsServer::start(|_| reply(200, "text/plain", "ok")).await.unwrap();
    let with = |template: &str| {
        let webhook = WebhookSink { template: Some(template.to_owned()), signature: None };
        Sink { webhook: Some(webhook), ..self::webhook(&server) }
    };
    assert_eq!(told(&server, with(r#"{"text": {{ summary }}}"#), &["srv-1"]).await.0, 1);
    assert_eq!(server.received()[0].body, br#"{"text": "srv-1 is Offline"}"#);
    let delivered = delivered(&server, with("{{ colour }}"), &["srv-1", "srv-2"]).await;
    assert_eq!((delivered.told.as_slice(), delivered.error.is_none()), (&[0, 1][..], true));
    let why = delivered.template.unwrap().to_string();
    assert_eq!(why, "line 1 names a field or filter that does not exist");
    let body: Value = serde_json::from_slice(&server.received()[1].body).unwrap();
    assert_eq!(
        (&body["text"], &body["event"]),
        (&json!("srv-1 is Offline"), &json!("DeviceDidNotReturn"))
    );
}

#[tokio::test]
async fn what_went_through_before_a_failure_is_not_told_again() {
    let answer = |received: &https::Received| -> Reply {
        let is_second = String::from_utf8_lossy(&received.body).contains("srv-2");
        reply(if is_second { 503 } else { 200 }, "text/plain", "the body is a secret")
    };
    let server = HttpsServer::start(answer).await.unwrap();
    let (count, error) = told(&server, webhook(&server), &["srv-1", "srv-2", "srv-3"]).await;
    assert_eq!((count, error.as_str()), (1, "the server answered HTTP 503"));
    assert_eq!(server.received().len(), 2);
}

#[tokio::test]
async fn a_message_that_a_server_refuses_does_not_keep_back_the_next() {
    let answer = |received: &https::Received| -> Reply {
        let is_first = String::from_utf8_lossy(&received.body).contains("srv-1");
        reply(if is_first { 400 } else { 200 }, "text/plain", "no")
    };
    let server = HttpsServer::start(answer).await.unwrap();
    let alertmanager = Sink { kind: SinkType::Alertmanager, webhook: None, ..webhook(&server) };
    for sink in [webhook(&server), alertmanager] {
        let delivered = delivered(&server, sink, &["srv-1", "srv-2"]).await;
        assert_eq!((delivered.told, delivered.refused), (vec![1], vec![0]));
        assert!(delivered.error.is_none());
        assert_eq!(delivered.refusal.unwrap().to_string(), "the server answered HTTP 400");
    }
}

#[tokio::test]
async fn a_server_that_takes_its_time_for_each_message_gives_way_after_a_while() {
    let slow = |_: &https::Received| -> Reply {
        let mut answer = vec![Step::Pause(Duration::from_secs(4))];
        answer.extend(reply(200, "text/plain", "ok"));
        answer
    };
    let server = HttpsServer::start(slow).await.unwrap();
    let devices: Vec<String> = (0..20).map(|number| format!("srv-{number}")).collect();
    let devices: Vec<&str> = devices.iter().map(String::as_str).collect();
    let began = std::time::Instant::now();
    let (count, error) = told(&server, webhook(&server), &devices).await;
    assert!((1..=3).contains(&count) && error.is_empty(), "{count} {error}");
    assert!(began.elapsed() < TURN + LIMITS.time, "{:?}", began.elapsed());
}

#[tokio::test]
async fn hostile_servers_cost_little_and_learn_and_teach_nothing() {
    let secret = "inner-network-secret";
    let hostile: Vec<(Reply, &str)> = vec![
        (reply(500, "text/plain", secret), "the server answered HTTP 500"),
        (
            vec![Step::Send(
                format!("HTTP/1.1 302 X\r\nLocation: https://{secret}/\r\n\r\n").into_bytes(),
            )],
            "the server redirects (HTTP 302), and redirects are not followed",
        ),
        (vec![Step::Send(secret.as_bytes().to_vec())], "the answer is not HTTP as it should be"),
        (
            vec![
                Step::Send(b"HTTP/1.1 200 X\r\n\r\n".to_vec()),
                Step::Forever(secret.repeat(100).into_bytes()),
            ],
            "the answer is larger than 65536 bytes",
        ),
    ];
    for (answer, expected) in hostile {
        let server = HttpsServer::start(move |_| answer.clone()).await.unwrap();
        let (count, error) = told(&server, webhook(&server), &["srv-1"]).await;
        assert_eq!((count, error.as_str()), (0, expected));
    }
}

#[tokio::test]
async fn a_server_that_says_nothing_is_given_up() {
    let server = HttpsServer::start(|_| vec![Step::Hang]).await.unwrap();
    let began = std::time::Instant::now();
    let (count, error) = told(&server, webhook(&server), &["srv-1", "srv-2"]).await;
    assert_eq!((count, error.as_str()), (0, "no whole answer within 10s"));
    // Once, and not once for each message.
    assert!(began.elapsed() < LIMITS.time * 2, "{:?}", began.elapsed());
}

#[tokio::test]
async fn inner_networks_plain_http_and_unreadable_secrets_are_said_in_a_sentence() {
    let server = HttpsServer::start(|_| reply(200, "text/plain", "ok")).await.unwrap();
    let nobody = Allowed::networks(Vec::new());
    let parcel = parcel(webhook(&server), &["srv-1"]);
    let inside = Courier { allowed: nobody, ..courier(cluster(&server)) };
    let refused = deliver(&inside, &parcel).await;
    let error = refused.error.unwrap().to_string();
    assert_eq!(error, "127.0.0.1 is not a public address, and no allowed network holds it");
    let signed = |name: &str| Some(WebhookSink { template: None, signature: key(name, "key") });
    for (change, expected) in [
        (
            Sink { url: Some("http://127.0.0.1/".to_owned()), ..webhook(&server) },
            "url: the address must begin with `https://`",
        ),
        (
            Sink { url: None, url_from: key("hidden", "url"), ..webhook(&server) },
            "Secret hidden: the controller may not read it; bind its service account to a Role that \
             may `get` it",
        ),
        (
            Sink { url: None, url_from: key("nowhere", "url"), ..webhook(&server) },
            "Secret nowhere: it does not exist",
        ),
        (
            Sink { bearer_token: key("chat", "token"), ..webhook(&server) },
            "Secret chat: it has nothing under that key",
        ),
        (
            Sink { bearer_token: key("other-host", "key"), ..webhook(&server) },
            "Secret other-host: it must have the annotation wardring.dev/notify-host with the sink's host",
        ),
        (
            Sink { bearer_token: key("of-a-gate", "key"), ..webhook(&server) },
            "Secret of-a-gate: it must have the annotation wardring.dev/notify-host with the sink's host",
        ),
        (
            Sink { webhook: signed("of-a-gate"), ..webhook(&server) },
            "Secret of-a-gate: it must have the annotation wardring.dev/notify-host with the sink's host",
        ),
        (
            Sink { url: None, url_from: key("of-a-gate", "url"), ..webhook(&server) },
            "Secret of-a-gate: it must have the annotation wardring.dev/notify-host with the sink's host",
        ),
        (
            Sink { bearer_token: key("account", "key"), ..webhook(&server) },
            "Secret account: a service account's token is no credential for a sink",
        ),
        (
            Sink { bearer_token: key("wardring-ca", "key"), ..webhook(&server) },
            "Secret wardring-ca: what begins with `wardring-` is Wardring's own",
        ),
        (
            Sink { ca_bundle: Some("none".to_owned()), ..webhook(&server) },
            "caBundle holds no certificate (PEM) that can be trusted",
        ),
    ] {
        assert_eq!(told(&server, change, &["srv-1"]).await, (0, expected.to_owned()));
    }
    assert!(server.received().is_empty());
}

#[tokio::test]
async fn alertmanager_is_sent_no_end_of_what_stands_and_what_holds_by_itself() {
    let server = HttpsServer::start(|_| reply(200, "text/plain", "")).await.unwrap();
    let sink = Sink { kind: SinkType::Alertmanager, webhook: None, ..webhook(&server) };
    let mut parcel = parcel(sink, &["srv-1"]);
    parcel.holding.push(made::alert(AlertKind::DeviceReverted, "srv-2"));
    let is_over = MessageState::Resolved(Ended::Over);
    let over = made::message(AlertKind::DeviceDidNotReturn, "srv-1", is_over);
    let gone = made::message(AlertKind::DeviceFailed, "srv-3", is_over);
    parcel.standing.insert(label_key(&over.alert));
    parcel.messages.extend([over, gone]);

    let delivered = deliver(&courier(cluster(&server)), &parcel).await;

    assert!(delivered.error.is_none() && delivered.told.len() == 3, "{delivered:?}");
    let sent: Vec<Vec<Value>> = server
        .received()
        .iter()
        .map(|received| serde_json::from_slice(&received.body).unwrap())
        .collect();
    assert_eq!(server.received()[0].target, "/api/v2/alerts");
    let devices = |alerts: &[Value]| -> Vec<String> {
        alerts.iter().map(|alert| alert["labels"]["device"].to_string()).collect()
    };
    assert_eq!(sent.len(), 2);
    assert_eq!(devices(&sent[0]), ["\"srv-1\"", "\"srv-3\""]);
    assert_eq!(devices(&sent[1]), ["\"srv-2\""]);
    let ends = |at: usize| sent[0][at]["endsAt"].as_str().unwrap().parse::<Timestamp>().unwrap();
    assert!(ends(0) > Timestamp::now() && ends(1) <= Timestamp::now());
}

#[tokio::test]
async fn what_a_server_refuses_to_hear_again_keeps_nothing_new_from_it() {
    let answer = |received: &https::Received| -> Reply {
        let is_long = received.body.len() > 2_000;
        reply(if is_long { 413 } else { 200 }, "text/plain", "no")
    };
    let server = HttpsServer::start(answer).await.unwrap();
    let sink = Sink { kind: SinkType::Alertmanager, webhook: None, ..webhook(&server) };
    let mut parcel = parcel(sink, &["srv-1"]);
    let held = |number| made::alert(AlertKind::DeviceReverted, &format!("srv-{number}"));
    parcel.holding = (0..200).map(held).collect();
    let delivered = deliver(&courier(cluster(&server)), &parcel).await;
    assert!(delivered.error.is_none() && delivered.refused.is_empty(), "{delivered:?}");
    assert_eq!((delivered.told, delivered.refuses_held), (vec![0], true));
}

#[tokio::test]
async fn a_leader_whose_term_is_over_says_nothing_more() {
    let server = HttpsServer::start(|_| reply(200, "text/plain", "")).await.unwrap();
    let alertmanager = Sink { kind: SinkType::Alertmanager, webhook: None, ..webhook(&server) };
    for sink in [webhook(&server), alertmanager] {
        let asked = Arc::new(std::sync::atomic::AtomicUsize::new(0));
        let in_office =
            Arc::new(move || asked.fetch_add(1, std::sync::atomic::Ordering::SeqCst) < 1);
        let mut parcel = parcel(sink, &["srv-1", "srv-2"]);
        parcel.holding = vec![made::alert(AlertKind::DeviceReverted, "srv-3")];
        let before = server.received().len();
        let former = Courier { in_office, ..courier(cluster(&server)) };
        let delivered = deliver(&former, &parcel).await;
        assert_eq!(delivered.error.unwrap().to_string(), "the term of this leader is over");
        assert_eq!(server.received().len(), before + 1, "what was under way before");
    }
}

#[tokio::test]
async fn a_device_that_claims_another_ones_name_speaks_for_nobody_but_itself() {
    let server = HttpsServer::start(|_| reply(200, "text/plain", "")).await.unwrap();
    let mut parcel = parcel(webhook(&server), &["srv-1"]);
    parcel.disputed.insert("srv-1".to_owned());
    assert!(deliver(&courier(cluster(&server)), &parcel).await.error.is_none());
    let body: Value = serde_json::from_slice(&server.received()[0].body).unwrap();
    assert_eq!((&body["names"], &body["addresses"]), (&json!(["srv-1"]), &json!([])));
}

#[tokio::test(flavor = "multi_thread")]
async fn the_real_alertmanager_takes_an_alert_its_repetition_and_its_end() {
    let pems = https::pems().unwrap();
    let config = "route: {receiver: none}\nreceivers: [{name: none}]\n";
    let tls = Some((pems.chain.as_str(), pems.key.as_str()));
    let real = Monitor::alertmanager(Setup { config, tls, ..Setup::default() }).await.unwrap();
    let sink = Sink {
        name: "on-call".to_owned(),
        kind: SinkType::Alertmanager,
        url: Some(real.url()),
        url_from: None,
        ca_bundle: Some(pems.ca),
        bearer_token: None,
        alertmanager: None,
        webhook: None,
    };
    let mut parcel = parcel(sink, &["srv-1"]);
    assert!(deliver(&courier(cluster_for("nowhere".to_owned())), &parcel).await.error.is_none());
    // As after a change of leaders: once as new, once as held.
    parcel.holding = vec![parcel.messages[0].alert.clone()];
    assert!(deliver(&courier(cluster_for("nowhere".to_owned())), &parcel).await.error.is_none());
    let active = alerts_of(&parcel).await;
    assert_eq!(active.len(), 1, "{active:?}");
    assert_eq!(active[0]["labels"]["alertname"], "WardringDeviceDidNotReturn");
    assert_eq!(active[0]["annotations"]["summary"], "srv-1 is Offline");

    parcel.holding.clear();
    parcel.messages[0].state = MessageState::Resolved(Ended::Back);
    assert!(deliver(&courier(cluster_for("nowhere".to_owned())), &parcel).await.error.is_none());
    assert!(alerts_of(&parcel).await.is_empty());
}

/// What the Alertmanager of a parcel holds.
async fn alerts_of(parcel: &Parcel) -> Vec<Value> {
    let endpoint = endpoint(&cluster_for("nowhere".to_owned()), &loopback(), parcel).await.unwrap();
    let question = Question { path: "/api/v2/alerts".to_owned(), ..Question::default() };
    serde_json::from_slice(&endpoint.ask(question).await.unwrap().body).unwrap()
}
