//! Probes against servers of the test's own.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Instant;

use tokio::io::AsyncWriteExt;
use tokio::net::TcpListener;

use super::*;

struct Answers(Result<(), String>);

impl Local for Answers {
    fn answer(&self, _check: &Check) -> Result<(), String> {
        self.0.clone()
    }
}

/// One that never answers.
struct Silent;

impl Local for Silent {
    fn answer(&self, _check: &Check) -> Result<(), String> {
        loop {
            std::thread::park();
        }
    }
}

fn probe(check: Check) -> Probe {
    Probe { name: "probe".to_owned(), timeout_ms: 10_000, check }
}

async fn sample(check: Check) -> ProbeSample {
    let local = Arc::new(Answers(Ok(())));
    ask(&[probe(check)], &local).await.remove("probe").unwrap()
}

/// A server that gives the answers one after the other, one for each thing it is told.
async fn server(answers: Vec<Vec<u8>>) -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    tokio::spawn(async move {
        loop {
            let (mut stream, _) = listener.accept().await.unwrap();
            for answer in &answers {
                let mut buffer = [0; 4096];
                if stream.read(&mut buffer).await.unwrap_or(0) > 0 {
                    let _ = stream.write_all(answer).await;
                }
            }
        }
    });
    port
}

fn why(sample: ProbeSample) -> String {
    match sample {
        ProbeSample::Good => panic!("it is good"),
        ProbeSample::Failed(why) => why,
    }
}

#[tokio::test]
async fn a_port_is_good_while_somebody_listens() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    assert_eq!(sample(Check::Tcp { host: None, port }).await, ProbeSample::Good);
    let host = Some("127.0.0.1".to_owned());
    assert_eq!(sample(Check::Tcp { host, port }).await, ProbeSample::Good);
    drop(listener);
    assert!(why(sample(Check::Tcp { host: None, port }).await).contains("takes no connection"));
}

#[tokio::test]
async fn a_url_is_judged_by_status_and_body_and_no_redirect_is_followed() {
    let answer = |head: &str, body: &str| {
        let length = body.len();
        format!("HTTP/1.1 {head}\r\ncontent-length: {length}\r\n\r\n{body}").into_bytes()
    };
    let get = async |head: &str, statuses: &[u16], contains: Option<&str>| {
        let port = server(vec![answer(head, "all is well")]).await;
        let url = format!("http://127.0.0.1:{port}/health");
        let contains = contains.map(str::to_owned);
        sample(Check::Http { url, statuses: statuses.to_vec(), contains }).await
    };
    assert_eq!(get("200 OK", &[], None).await, ProbeSample::Good);
    assert_eq!(get("200 OK", &[], Some("is well")).await, ProbeSample::Good);
    assert!(why(get("200 OK", &[], Some("is bad")).await).contains("does not contain"));
    assert!(why(get("503 No", &[], None).await).contains("status 503"));
    assert_eq!(get("503 No", &[503], None).await, ProbeSample::Good);
    assert!(why(get("200 OK", &[204], None).await).contains("status 200"));
    let moved = "302 Found\r\nlocation: http://127.0.0.1:1/elsewhere";
    assert_eq!(get(moved, &[302], None).await, ProbeSample::Good);
}

#[tokio::test]
async fn a_directory_must_bind_and_show_its_root() {
    use super::ldap::tests::{BOUND, root};
    let look = async |answers: Vec<Vec<u8>>| {
        let port = server(answers).await;
        sample(Check::Ldap { host: None, port }).await
    };
    assert_eq!(look(vec![BOUND.to_vec(), root(true)]).await, ProbeSample::Good);
    let behind = look(vec![BOUND.to_vec(), root(false)]).await;
    assert!(why(behind).contains("not synchronized"));
    let other = look(vec![b"220 mail.example ESMTP\r\n".to_vec()]).await;
    assert!(matches!(other, ProbeSample::Failed(_)));
}

#[tokio::test]
async fn a_sql_server_answers_before_anybody_logs_on() {
    let answer = [4, 1, 0, 12, 0, 0, 1, 0, 0xFF, 0, 0, 0].to_vec();
    let port = server(vec![answer]).await;
    assert_eq!(sample(Check::Sql { host: None, port }).await, ProbeSample::Good);
    let port = server(vec![b"HTTP/1.1 400 Bad Request\r\n\r\n".to_vec()]).await;
    assert!(why(sample(Check::Sql { host: None, port }).await).contains("protocol"));
    let port = server(vec![vec![4, 1]]).await;
    assert!(why(sample(Check::Sql { host: None, port }).await).contains("closed"));
}

#[tokio::test]
async fn what_the_system_says_is_told_as_it_is() {
    let local = Arc::new(Answers(Err("3 GB are free".to_owned())));
    let asked = probe(Check::Disk { drive: None, min_free_gb: 10 });
    let samples = ask(&[asked], &local).await;
    assert_eq!(samples["probe"], ProbeSample::Failed("3 GB are free".to_owned()));
}

#[tokio::test]
async fn a_system_that_never_answers_costs_its_time_and_no_more() {
    let began = Instant::now();
    let mut asked = probe(Check::Smb { share: "SYSVOL".to_owned() });
    asked.timeout_ms = 50;
    let samples = ask(&[asked], &Arc::new(Silent)).await;
    assert!(why(samples["probe"].clone()).contains("no answer within 50 ms"));
    assert!(began.elapsed() < Duration::from_secs(10));
}

/// One that never answers, and counts who asks it.
#[derive(Default)]
struct Hanging(AtomicUsize);

impl Local for Hanging {
    fn answer(&self, check: &Check) -> Result<(), String> {
        self.0.fetch_add(1, Ordering::SeqCst);
        Silent.answer(check)
    }
}

#[tokio::test]
async fn a_system_that_never_answers_is_asked_a_few_times_however_often_it_is_looked_at() {
    static FEW: Questions = Questions::new("test", 5);
    let mut asked = probe(Check::Smb { share: "SYSVOL".to_owned() });
    asked.timeout_ms = 1;
    let hanging = Arc::new(Hanging::default());
    for _ in 0..100 {
        ask_as(&[asked.clone()], &hanging, &FEW).await;
    }
    // The threads of those that were taken on may begin late.
    while hanging.0.load(Ordering::SeqCst) < 5 {
        tokio::task::yield_now().await;
    }
    assert_eq!(hanging.0.load(Ordering::SeqCst), 5);
    let samples = ask_as(&[asked], &hanging, &FEW).await;
    assert!(why(samples["probe"].clone()).contains("no answer yet"));
    // What else is asked has nothing to do with it.
    let other = probe(Check::Disk { drive: None, min_free_gb: 10 });
    let samples = ask_as(&[other], &Arc::new(Answers(Ok(()))), &FEW).await;
    assert_eq!(samples["probe"], ProbeSample::Good);
}

#[tokio::test]
async fn a_server_that_says_nothing_costs_its_time_and_no_more() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let url = format!("https://127.0.0.1:{port}/");
    let checks = [
        Check::Http { url, statuses: Vec::new(), contains: None },
        Check::Ldap { host: None, port },
        Check::Sql { host: None, port },
    ];
    for check in checks {
        let mut asked = probe(check);
        asked.timeout_ms = 50;
        let samples = ask(&[asked], &Arc::new(Silent)).await;
        assert!(why(samples["probe"].clone()).contains("no answer"));
    }
}
