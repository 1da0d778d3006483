//! Peers that take their time: none may hold a connection for ever, and none that works is cut off.

use std::{
    future::pending,
    sync::Arc,
    time::{Duration, Instant},
};

use futures::future::join_all;
use reqwest::{Method, StatusCode};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time,
};
use tokio_rustls::client::TlsStream;
use wardring_protocol::{PermitAnswer, Step};

use crate::support::{before::Event, *};

/// What the gateway still sends until it closes the connection.
async fn until_closed(stream: &mut TlsStream<TcpStream>) -> String {
    let mut text = Vec::new();
    let read = time::timeout(PATIENCE, stream.read_to_end(&mut text)).await;
    // A connection that is cut without a farewell is as closed as any.
    drop(read.expect("the gateway closes the connection"));
    String::from_utf8(text).unwrap()
}

#[tokio::test]
async fn a_body_that_never_ends_is_refused_in_time_and_its_connection_closed() {
    let site = Site::new().await;
    let agent = site.device("ws-1").await;
    let gateway = site.gateway(&["--body-timeout", "500ms"]).await;
    let before = site.versions(&agent).await;
    for path in ["/v1/reports", "/v1/permits", "/v1/enroll", "/v1/renew"] {
        for length in ["content-length: 100", "transfer-encoding: chunked"] {
            let mut stream = gateway.raw(&agent).await;
            let head = format!("POST {path} HTTP/1.1\r\nhost: localhost\r\n{length}\r\n\r\n");
            stream.write_all(head.as_bytes()).await.unwrap();
            stream.write_all(b"1\r\n{").await.unwrap();
            let answer = until_closed(&mut stream).await;
            assert!(answer.starts_with("HTTP/1.1 408 "), "{path} {length}: {answer}");
            assert!(answer.contains("did not arrive in time"), "{answer}");
        }
    }
    // Also when it trickles: what counts is the whole body.
    let mut stream = gateway.raw(&agent).await;
    let head = b"POST /v1/reports HTTP/1.1\r\nhost: localhost\r\ncontent-length: 9999\r\n\r\n";
    stream.write_all(head).await.unwrap();
    let (mut reading, mut writing) = tokio::io::split(stream);
    let trickle = async {
        while writing.write_all(b" ").await.is_ok() && writing.flush().await.is_ok() {
            time::sleep(Duration::from_millis(20)).await;
        }
    };
    let mut start = [0; 13];
    let answer = time::timeout(PATIENCE, reading.read_exact(&mut start));
    let answered = tokio::select! {
        // An answer ends the trickle, too.
        biased;
        answered = answer => answered.unwrap().is_ok(),
        () = trickle => false,
    };
    assert!(answered && start == *b"HTTP/1.1 408 ", "{}", String::from_utf8_lossy(&start));

    assert_eq!(site.versions(&agent).await, before);
    assert_eq!(gateway.poll(&agent, "wait=0").await.status(), StatusCode::OK);
}

#[tokio::test]
async fn a_check_in_with_a_body_that_never_ends_is_answered_and_its_connection_closed() {
    let site = Site::new().await;
    let agent = site.device("ws-1").await;
    let gateway = site.gateway(&[]).await;
    let mut stream = gateway.raw(&agent).await;
    let ask =
        b"GET /v1/job?run=r&boot=b HTTP/1.1\r\nhost: localhost\r\ncontent-length: 100\r\n\r\n{";
    stream.write_all(ask).await.unwrap();
    let answer = until_closed(&mut stream).await;
    assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
}

#[tokio::test]
async fn a_connection_without_requests_is_closed_and_one_at_work_is_not() {
    let site = Site::new().await;
    let agent = site.device("ws-1").await;
    let idle = Duration::from_secs(3);
    let gateway = site.gateway(&["--idle-timeout", "3s"]).await;

    // One polls now and then, one waits long for its answer.
    let mut waiting = gateway.raw(&agent).await;
    let ask = b"GET /v1/job?run=r&boot=b&wait=9 HTTP/1.1\r\nhost: localhost\r\n\r\n";
    waiting.write_all(ask).await.unwrap();
    let mut polling = gateway.raw(&agent).await;
    let polls = async {
        let began = Instant::now();
        while began.elapsed() < 2 * idle {
            let ask = b"GET /v1/job?run=r&boot=b HTTP/1.1\r\nhost: localhost\r\n\r\n";
            polling.write_all(ask).await.unwrap();
            let mut answer = [0; 4096];
            let read = polling.read(&mut answer).await.unwrap();
            assert!(answer[..read].starts_with(b"HTTP/1.1 200 "), "cut off while it polled");
            time::sleep(idle / 10).await;
        }
    };
    // One says nothing, one never ends its headers.
    let mut silent = gateway.raw(&agent).await;
    let trickling = gateway.raw(&agent).await;
    let trickle = async {
        let (mut reading, mut writing) = tokio::io::split(trickling);
        writing.write_all(b"GET /v1/job HTTP/1.1\r\nx: ").await.unwrap();
        let trickle = async {
            while writing.write_all(b"y").await.is_ok() && writing.flush().await.is_ok() {
                time::sleep(Duration::from_millis(50)).await;
            }
        };
        let mut byte = [0];
        let closed = async { matches!(reading.read(&mut byte).await, Ok(0) | Err(_)) };
        tokio::select! {
            () = trickle => true,
            closed = closed => closed,
        }
    };
    let ((), silent, trickling) =
        tokio::join!(polls, until_closed(&mut silent), time::timeout(PATIENCE, trickle));
    assert_eq!(silent, "");
    assert_eq!(trickling, Ok(true), "a connection whose headers never end is closed");
    // Its wait is spread between 0.8 and 1 of what it asked for.
    let mut answer = [0; 13];
    time::timeout(PATIENCE, waiting.read_exact(&mut answer)).await.unwrap().unwrap();
    assert_eq!(&answer, b"HTTP/1.1 200 ");
}

#[tokio::test]
async fn a_check_in_takes_one_method_only_and_names_it() {
    let site = Site::new().await;
    let agent = site.device("ws-1").await;
    let gateway = site.gateway(&[]).await;
    let url = gateway.url("/v1/job?run=r&boot=b&wait=0");
    for method in [Method::HEAD, Method::POST, Method::PUT, Method::DELETE, Method::OPTIONS] {
        let sent = gateway.client(&agent).request(method.clone(), &url).send().await.unwrap();
        assert_eq!(sent.status(), StatusCode::METHOD_NOT_ALLOWED, "{method}");
        assert_eq!(sent.headers()["allow"], "GET", "{method}");
    }
    // Near the path is beside it.
    for path in ["/v1/job/", "/v1/jobs", "/v1/j%6Fb", "//v1/job", "/V1/job"] {
        let url = gateway.url(&format!("{path}?run=r&boot=b&wait=0"));
        let sent = gateway.client(&agent).get(url).send().await.unwrap();
        refusal(sent, StatusCode::NOT_FOUND).await;
    }
}

#[tokio::test]
async fn a_device_that_gets_no_turn_for_a_permit_is_told_so() {
    let site = Site::new().await;
    let agent = site.device("ws-1").await;
    let key = site.grant(&agent, &site.rollout().await).await;
    // No read of the job is ever answered.
    let never: Event = Arc::new(|method, path| {
        let is_it = method == "GET" && path.ends_with("/patchjobs/ws-1");
        Box::pin(async move {
            if is_it {
                pending::<()>().await;
            }
        })
    });
    let gateway = site.gateway_after(&[], never).await;
    gateway.sees_leader().await;

    let asked = (0..40).map(|_| gateway.permit(&agent, &key, Step::Install));
    let (mut unread, mut crowded) = (0, 0);
    for answer in join_all(asked).await {
        let PermitAnswer::Refused { reason, message, .. } = answer else { panic!("{answer:?}") };
        assert_eq!(reason, "ApiUnavailable");
        match &*message {
            "The gateway could not read or write what the permit depends on." => unread += 1,
            "Too many devices ask this gateway for permits at once; it has not come to this one." =>
            {
                crowded += 1;
            }
            _ => panic!("{message}"),
        }
    }
    assert!(unread > 0 && crowded > 0, "{unread} {crowded}");
}
