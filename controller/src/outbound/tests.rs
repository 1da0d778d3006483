use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use serde_json::json;
use wardring_harness::https::{self, HttpsServer, Reply, Step, reply};

use super::*;

const QUICK: Duration = Duration::from_millis(400);

fn networks(list: &[&str]) -> Vec<Network> {
    list.iter().map(|text| Network::parse(text).unwrap()).collect()
}

/// Every name resolves to these.
fn resolving_to(addresses: &[SocketAddr]) -> Lookup {
    let addresses = addresses.to_vec();
    Arc::new(move |_, _| {
        let addresses = addresses.clone();
        Box::pin(async move { Ok(addresses) })
    })
}

fn endpoint(server: &HttpsServer) -> Endpoint {
    let tls = (!server.ca().is_empty()).then(|| client_config(Some(server.ca()), None).unwrap());
    Endpoint {
        target: Target::parse(&server.url()).unwrap(),
        allowed: Allowed::networks(networks(&["127.0.0.1"])),
        tls,
        authorization: None,
        limits: Limits { time: Duration::from_secs(10), body: 64 * 1024 },
        lookup: system_lookup(),
    }
}

async fn refusal(endpoint: &Endpoint) -> OutboundError {
    endpoint.ask(Question::default()).await.expect_err("it was answered")
}

/// What becomes of an address under a provider that allows nothing beside public addresses, when its
/// name resolves to `resolved`.
async fn fate(url: &str, resolved: &str) -> String {
    let target = match Target::parse(url) {
        Ok(target) => target,
        Err(error) => return format!("{error:?}"),
    };
    let endpoint = Endpoint {
        allowed: Allowed::networks(Vec::new()),
        tls: client_config(Some(ROOT), None).ok(),
        authorization: None,
        limits: Limits { time: QUICK, body: 1 },
        lookup: resolving_to(&[SocketAddr::new(resolved.parse().unwrap(), target.port)]),
        target,
    };
    match endpoint.resolve().await {
        Ok(_) => "Asked".to_owned(),
        Err(OutboundError::Forbidden(Forbidden::Never(_))) => "Never".to_owned(),
        Err(OutboundError::Forbidden(Forbidden::NotListed(_))) => "NotListed".to_owned(),
        other => format!("{other:?}"),
    }
}

/// A self-signed certificate that nobody has the key of.
const ROOT: &str = include_str!("tests/root.pem");

#[tokio::test]
async fn every_way_to_write_an_inner_address_is_refused() {
    const PUBLIC: &str = "203.0.112.1";
    let table = [
        // Numbers that resolvers take for an IPv4 address.
        ("https://2130706433/", PUBLIC, "Host"),
        ("https://0x7f000001/", PUBLIC, "Host"),
        ("https://0x7f.0.0.1/", PUBLIC, "Host"),
        ("https://017700000001/", PUBLIC, "Host"),
        ("https://0177.0.0.1/", PUBLIC, "Host"),
        ("https://127.1/", PUBLIC, "Host"),
        ("https://127.0.1/", PUBLIC, "Host"),
        ("https://127.0.0.1./", PUBLIC, "Host"),
        ("https://127.0.0.01/", PUBLIC, "Host"),
        ("https://127.0.0.0x1/", PUBLIC, "Host"),
        ("https://1.1.1.256/", PUBLIC, "Host"),
        ("https://2852039166/", PUBLIC, "Host"),
        ("https://0xa9fea9fe/", PUBLIC, "Host"),
        ("https://①②⑦.⓪.⓪.①/", PUBLIC, "Host"),
        ("https://127。0。0。1/", PUBLIC, "Host"),
        ("https://%31%32%37.0.0.1/", PUBLIC, "Host"),
        // Plain inner addresses.
        ("https://127.0.0.1/", PUBLIC, "NotListed"),
        ("https://127.255.255.254/", PUBLIC, "NotListed"),
        ("https://10.0.0.1/", PUBLIC, "NotListed"),
        ("https://172.16.0.1/", PUBLIC, "NotListed"),
        ("https://172.31.255.255/", PUBLIC, "NotListed"),
        ("https://192.168.1.1/", PUBLIC, "NotListed"),
        ("https://100.64.0.1/", PUBLIC, "NotListed"),
        ("https://169.254.1.1/", PUBLIC, "NotListed"),
        ("https://192.0.2.1/", PUBLIC, "NotListed"),
        ("https://198.18.0.1/", PUBLIC, "NotListed"),
        ("https://0.0.0.0/", PUBLIC, "Never"),
        ("https://0.1.2.3/", PUBLIC, "Never"),
        ("https://224.0.0.1/", PUBLIC, "Never"),
        ("https://255.255.255.255/", PUBLIC, "Never"),
        ("https://240.0.0.1/", PUBLIC, "Never"),
        // Metadata services.
        ("https://169.254.169.254/latest/meta-data/", PUBLIC, "Never"),
        ("https://100.100.100.200/", PUBLIC, "Never"),
        ("https://168.63.129.16/", PUBLIC, "Never"),
        ("https://[fd00:ec2::254]/", PUBLIC, "Never"),
        // IPv6.
        ("https://[::1]/", PUBLIC, "NotListed"),
        ("https://[0:0:0:0:0:0:0:1]/", PUBLIC, "NotListed"),
        ("https://[::]/", PUBLIC, "Never"),
        ("https://[fe80::1]/", PUBLIC, "NotListed"),
        ("https://[fe80::1%25eth0]/", PUBLIC, "Host"),
        ("https://[fe80::1%eth0]/", PUBLIC, "Host"),
        ("https://[fc00::1]/", PUBLIC, "NotListed"),
        ("https://[fdff::1]/", PUBLIC, "NotListed"),
        ("https://[fec0::1]/", PUBLIC, "NotListed"),
        ("https://[ff02::1]/", PUBLIC, "Never"),
        ("https://[2001:db8::1]/", PUBLIC, "NotListed"),
        ("https://[100::1]/", PUBLIC, "NotListed"),
        ("https://[5f00::1]/", PUBLIC, "NotListed"),
        ("https://[::1", PUBLIC, "Host"),
        ("https://::1/", PUBLIC, "Port"),
        // IPv4 inside of IPv6: mapped, compatible, translated, 6to4, NAT64, Teredo, ISATAP.
        ("https://[::ffff:127.0.0.1]/", PUBLIC, "NotListed"),
        ("https://[::ffff:7f00:1]/", PUBLIC, "NotListed"),
        ("https://[::ffff:169.254.169.254]/", PUBLIC, "Never"),
        ("https://[::127.0.0.1]/", PUBLIC, "NotListed"),
        ("https://[::ffff:0:127.0.0.1]/", PUBLIC, "NotListed"),
        ("https://[2002:7f00:1::]/", PUBLIC, "NotListed"),
        ("https://[2002:a9fe:a9fe::]/", PUBLIC, "Never"),
        ("https://[64:ff9b::10.0.0.1]/", PUBLIC, "NotListed"),
        ("https://[64:ff9b::169.254.169.254]/", PUBLIC, "Never"),
        ("https://[64:ff9b:1::10.0.0.1]/", PUBLIC, "NotListed"),
        ("https://[2001:0:1:1:1:1:80ff:fffe]/", PUBLIC, "NotListed"),
        ("https://[2a00::5efe:127.0.0.1]/", PUBLIC, "NotListed"),
        // Names that resolve inwards, now or since a moment ago (rebinding).
        ("https://localhost/", "127.0.0.1", "NotListed"),
        ("https://LOCALHOST/", "::1", "NotListed"),
        ("https://kubernetes.default.svc/", "10.96.0.1", "NotListed"),
        ("https://metadata.google.internal/", "169.254.169.254", "Never"),
        ("https://rebinding.example/", "::ffff:10.0.0.1", "NotListed"),
        ("https://six.example/", "fd12::1", "NotListed"),
        // Credentials, other schemes, other tricks.
        ("https://user:secret@example.com/", PUBLIC, "Credentials"),
        ("https://user@example.com/", PUBLIC, "Credentials"),
        ("https://example.com@127.0.0.1/", PUBLIC, "Credentials"),
        ("https://127.0.0.1\\@example.com/", PUBLIC, "Credentials"),
        ("https://example.com/?token=secret", PUBLIC, "Query"),
        ("https://example.com/#@127.0.0.1", PUBLIC, "Credentials"),
        ("https://example.com#127.0.0.1", PUBLIC, "Query"),
        ("file:///etc/passwd", PUBLIC, "Scheme"),
        ("gopher://127.0.0.1/", PUBLIC, "Scheme"),
        ("HTTPS://example.com/", PUBLIC, "Scheme"),
        (" https://example.com/", PUBLIC, "Scheme"),
        ("//example.com/", PUBLIC, "Scheme"),
        ("https:///example.com/", PUBLIC, "Host"),
        ("https://exa mple.com/", PUBLIC, "Host"),
        ("https://example.com\r\nHost: inner/", PUBLIC, "Port"),
        ("https://exämple.com/", PUBLIC, "Host"),
        ("https://example.com./", PUBLIC, "Host"),
        ("https://-a.example/", PUBLIC, "Host"),
        ("https://example.com:0/", PUBLIC, "Port"),
        ("https://example.com:65536/", PUBLIC, "Port"),
        ("https://example.com:+443/", PUBLIC, "Port"),
        ("https://example.com:/", PUBLIC, "Port"),
        ("https://example.com/a/../../admin", PUBLIC, "Path"),
        ("https://example.com/a%2f..", PUBLIC, "Path"),
        ("https://example.com//a", PUBLIC, "Path"),
        // And what may be asked.
        ("https://prometheus.example.com:9090/prom/", PUBLIC, "Asked"),
        ("https://203.0.112.9", PUBLIC, "Asked"),
        ("https://[64:ff9b::203.0.112.9]/", PUBLIC, "Asked"),
    ];
    assert!(table.len() >= 40);
    let mut wrong = Vec::new();
    for (url, resolved, expected) in table {
        let found = fate(url, resolved).await;
        if found != expected {
            wrong.push(format!("{url} ({resolved}): {found} instead of {expected}"));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[tokio::test]
async fn the_address_that_was_judged_is_the_one_that_is_connected_to() {
    let server = HttpsServer::start(|_| https::json(&json!({}))).await.unwrap();
    // The first look-up is answered well; a second one would lead somewhere else.
    let asked = Arc::new(AtomicUsize::new(0));
    let (count, port) = (asked.clone(), server.address().port());
    let lookup: Lookup = Arc::new(move |_, _| {
        let first = count.fetch_add(1, Ordering::Relaxed) == 0;
        let address = if first { [127, 0, 0, 1] } else { [10, 0, 0, 1] };
        Box::pin(async move { Ok(vec![SocketAddr::from((address, port))]) })
    });
    let target = Target::parse(&format!("https://localhost:{port}")).unwrap();
    let endpoint = Endpoint { target, lookup, ..endpoint(&server) };
    endpoint.ask(Question::default()).await.unwrap();
    assert_eq!(asked.load(Ordering::Relaxed), 1);

    let mixed = [SocketAddr::from(([127, 0, 0, 1], port)), SocketAddr::from(([10, 0, 0, 1], port))];
    let endpoint = Endpoint { lookup: resolving_to(&mixed), ..endpoint };
    let refused = refusal(&endpoint).await;
    assert!(matches!(refused, OutboundError::Forbidden(_)), "{refused}");
    assert_eq!(server.received().len(), 1, "one bad address spoils them all");
}

#[tokio::test]
async fn a_question_carries_what_it_was_given_and_nothing_of_this_process() {
    // Whatever stands in the environment: nothing in this module reads it.
    let server = HttpsServer::start(|_| https::json(&json!({ "a": 1 }))).await.unwrap();
    let plain = endpoint(&server);
    let with_token =
        Endpoint { authorization: Some("Bearer t0ken".parse().unwrap()), ..plain.clone() };
    let query = vec![("query", "up{a=\"b\"} > 0 & more".to_owned())];
    let question = Question { path: "/api".to_owned(), query, ..Question::default() };
    let answer = plain.ask(question).await.unwrap();
    assert_eq!((answer.status.as_u16(), &answer.body[..]), (200, &br#"{"a":1}"#[..]));
    let question = Question { json: Some(b"{}".to_vec()), ..Question::default() };
    with_token.ask(question).await.unwrap();

    let received = server.received();
    let names = |index: usize| {
        let received: &https::Received = &received[index];
        let mut names: Vec<_> = received.headers.iter().map(|(name, _)| name.clone()).collect();
        names.sort();
        names.join(" ")
    };
    assert_eq!(names(0), "accept connection host user-agent");
    assert_eq!(received[0].method, "GET");
    assert_eq!(received[0].target, "/api?query=up%7Ba%3D%22b%22%7D+%3E+0+%26+more");
    assert_eq!(
        names(1),
        "accept authorization connection content-length content-type host user-agent"
    );
    assert_eq!((received[1].method.as_str(), received[1].target.as_str()), ("POST", "/"));
    assert!(!format!("{with_token:?}").contains("t0ken"));
}

#[tokio::test]
async fn no_redirect_is_followed() {
    let inner = HttpsServer::start_plain(|_| https::json(&json!({}))).await.unwrap();
    for status in [301, 302, 303, 307, 308] {
        for to in [inner.url(), "http://169.254.169.254/latest/meta-data/".to_owned()] {
            let head =
                format!("HTTP/1.1 {status} X\r\nLocation: {to}\r\nContent-Length: 0\r\n\r\n");
            let answer = move |_: &https::Received| vec![Step::Send(head.clone().into_bytes())];
            let server = HttpsServer::start(answer).await.unwrap();
            let refused = refusal(&endpoint(&server)).await;
            assert!(matches!(refused, OutboundError::Redirect(_)), "{refused}");
            assert_eq!(server.received().len(), 1);
        }
    }
    assert!(inner.received().is_empty());
}

#[tokio::test]
async fn an_answer_costs_its_limits_and_no_more() {
    let head = b"HTTP/1.1 200 X\r\nTransfer-Encoding: chunked\r\n\r\n".to_vec();
    let chunk = [b"1000\r\n".to_vec(), vec![b'x'; 4096], b"\r\n".to_vec()].concat();
    let endless = vec![Step::Send(head), Step::Forever(chunk)];
    let announced = "HTTP/1.1 200 X\r\nContent-Length: 9999999999\r\n\r\n{";
    let announced = vec![Step::Send(announced.into()), Step::Hang];
    let mut drip = vec![Step::Send(b"HTTP/1.1 200 X\r\nContent-Length: 50\r\n\r\n".to_vec())];
    for _ in 0..50 {
        drip.extend([Step::Send(b" ".to_vec()), Step::Pause(Duration::from_millis(60))]);
    }
    let many = (0..2_000).map(|number| format!("x-{number}: y\r\n")).collect::<String>();
    let many = vec![Step::Send(format!("HTTP/1.1 200 X\r\n{many}\r\n").into_bytes())];
    let huge = vec![Step::Send(b"HTTP/1.1 200 X\r\nx: ".to_vec()), Step::Forever(vec![b'y'; 4096])];
    let packed = vec![Step::Send(
        b"HTTP/1.1 200 X\r\nContent-Encoding: gzip\r\nContent-Length: 1\r\n\r\n\x1f".to_vec(),
    )];
    let nonsense = vec![Step::Send(b"SSH-2.0-OpenSSH_9.2 secret\r\n".to_vec())];
    let cut = vec![Step::Send(b"HTTP/1.1 200 X\r\nContent-Length: 10\r\n\r\n{".to_vec())];
    type Row = (&'static str, Reply, fn(&OutboundError) -> bool);
    let table: [Row; 9] = [
        ("endless", endless, |error| matches!(error, OutboundError::TooLarge { .. })),
        ("announced", announced, |error| matches!(error, OutboundError::TooLarge { .. })),
        ("silent", vec![Step::Hang], |error| matches!(error, OutboundError::TooSlow { .. })),
        ("drip", drip, |error| matches!(error, OutboundError::TooSlow { .. })),
        ("many headers", many, |error| matches!(error, OutboundError::Protocol)),
        ("a huge header", huge, |error| matches!(error, OutboundError::Protocol)),
        ("packed", packed, |error| matches!(error, OutboundError::Encoded)),
        ("nonsense", nonsense, |error| matches!(error, OutboundError::Protocol)),
        ("cut off", cut, |error| matches!(error, OutboundError::Protocol)),
    ];
    for (name, steps, expected) in table {
        let server = HttpsServer::start(move |_| steps.clone()).await.unwrap();
        let slow = matches!(name, "silent" | "drip");
        let time = if slow { QUICK } else { Duration::from_secs(10) };
        let endpoint = Endpoint { limits: Limits { time, body: 64 * 1024 }, ..endpoint(&server) };
        let began = Instant::now();
        let refused = refusal(&endpoint).await;
        assert!(expected(&refused), "{name}: {refused}");
        assert!(began.elapsed() < Duration::from_secs(9), "{name}: {:?}", began.elapsed());
    }
}

#[tokio::test]
async fn no_error_repeats_what_a_server_said_or_what_a_credential_is() {
    let secret = "s3cret-from-inside";
    let body = format!("HTTP/1.1 {secret}\r\n{secret}: {secret}\r\n\r\n{secret}");
    let server =
        HttpsServer::start(move |_| vec![Step::Send(body.clone().into_bytes())]).await.unwrap();
    let refused = refusal(&endpoint(&server)).await;
    assert!(!format!("{refused} {refused:?}").contains(secret), "{refused:?}");
    for url in
        [format!("https://admin:{secret}@a.example/"), format!("https://a.example/?{secret}")]
    {
        let refused = Target::parse(&url).unwrap_err();
        assert!(!format!("{refused} {refused:?}").contains(secret), "{refused:?}");
    }
}

#[tokio::test]
async fn only_the_servers_that_the_bundle_names_are_trusted() {
    let server = HttpsServer::start(|_| reply(200, "application/json", "{}")).await.unwrap();
    let other = HttpsServer::start(|_| reply(200, "application/json", "{}")).await.unwrap();
    let stranger =
        Endpoint { tls: Some(client_config(Some(other.ca()), None).unwrap()), ..endpoint(&server) };
    let refused = refusal(&stranger).await;
    assert!(refused.to_string().contains("unknown issuer"), "{refused}");
    // The right root, and a name that the certificate does not carry.
    let target = Target::parse(&format!("https://prom.example:{}", server.address().port()));
    let misnamed = Endpoint {
        target: target.unwrap(),
        lookup: resolving_to(&[server.address()]),
        ..endpoint(&server)
    };
    let refused = refusal(&misnamed).await;
    assert!(refused.to_string().contains("another name"), "{refused}");
    assert!(!refused.to_string().contains("localhost"), "{refused}");
    assert!(server.received().is_empty() && other.received().is_empty());
    let no_roots = client_config(Some("-----BEGIN NONSENSE-----"), None);
    assert!(matches!(no_roots, Err(TlsError::Roots)), "an empty bundle trusts nobody");
}

#[tokio::test]
async fn plain_http_is_spoken_where_it_is_set_up_and_listed_only() {
    let server = HttpsServer::start_plain(|_| https::json(&json!({}))).await.unwrap();
    let listed = Endpoint { allowed: Allowed::only(networks(&["127.0.0.1"])), ..endpoint(&server) };
    assert_eq!(listed.ask(Question::default()).await.unwrap().status.as_u16(), 200);
    let elsewhere = Endpoint { allowed: Allowed::only(networks(&["10.0.0.0/8"])), ..listed };
    let refused = refusal(&elsewhere).await;
    assert!(matches!(refused, OutboundError::Forbidden(_)), "{refused}");
    // With TLS wanted, a server that speaks none is not asked.
    let target = Target::parse(&format!("https://{}", server.address())).unwrap();
    let tls = client_config(Some(ROOT), None).ok();
    let limits = Limits { time: QUICK, body: 1 };
    let refused = refusal(&Endpoint { target, tls, limits, ..endpoint(&server) }).await;
    let is_refused = matches!(refused, OutboundError::Tls { .. } | OutboundError::TooSlow { .. });
    assert!(is_refused, "{refused}");
    assert_eq!(server.received().len(), 1);
}
