//! Webhook: a service that is told of a stage once, and then asked for its verdict.
//!
//! The key in its address is of the rollout, stage, phase and gate. It is asked first; only what does
//! not know the key is told, so that one telling survives our restarts, and one that got lost on the
//! way is repeated with the same key.

use http::{HeaderMap, HeaderName, HeaderValue, StatusCode};
use serde::Deserialize;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use wardring_planner::condition::ConditionValue;

use super::{
    context::Context,
    reading::{Found, Reading},
    speak::{Speak, ask, read_answer, refused},
};
use crate::outbound::{Endpoint, Question};

/// The header that says that telling twice means telling once.
const KEY_HEADER: HeaderName = HeaderName::from_static("idempotency-key");

/// Measures. `told` is what this process told a service last: where, and under which key.
pub async fn read(endpoint: &Endpoint, context: &Context, told: &mut Option<String>) -> Reading {
    let key = key(context);
    let answer = verdict(endpoint, context, &key, told).await;
    Reading { query: format!("verdict on {key}"), found: answer.unwrap_or_else(Found::Fault) }
}

async fn verdict(
    endpoint: &Endpoint,
    context: &Context,
    key: &str,
    told: &mut Option<String>,
) -> Result<Found, String> {
    let question = Question { path: format!("/{key}"), ..Question::default() };
    let known = ask(endpoint, question, Speak::Webhook).await?;
    if known.status != StatusCode::NOT_FOUND {
        return found(read_answer(&known, Speak::Webhook)?);
    }
    let target = &endpoint.target;
    let news = format!("{}{}/{key}", target.authority(), target.path);
    if told.as_ref() == Some(&news) {
        return Err("the webhook was told and does not know of it".to_owned());
    }
    let mut headers = HeaderMap::new();
    headers.insert(KEY_HEADER, HeaderValue::from_str(key).map_err(|_| "no key".to_owned())?);
    let json = Some(announcement(context, key).to_string().into_bytes());
    let answer = ask(endpoint, Question { json, headers, ..Question::default() }, Speak::Webhook);
    let answer = answer.await?;
    if !answer.status.is_success() {
        return Err(refused(answer.status, Speak::Webhook));
    }
    *told = Some(news);
    // It may have its verdict at once; most have not.
    match read_answer(&answer, Speak::Webhook) {
        Ok(verdict) => found(verdict),
        Err(_) => Ok(states("wait", None)),
    }
}

#[derive(Deserialize)]
struct Verdict {
    state: State,
    value: Option<f64>,
}

#[derive(Clone, Copy, Deserialize)]
#[serde(rename_all = "lowercase")]
enum State {
    Pass,
    Fail,
    Wait,
}

fn found(verdict: Verdict) -> Result<Found, String> {
    let state = match verdict.state {
        State::Pass => "pass",
        State::Fail => "fail",
        State::Wait => "wait",
    };
    Ok(match verdict.value {
        Some(value) if !value.is_finite() => Err("the verdict's value is no number".to_owned())?,
        value => states(state, value),
    })
}

/// Conditions see the value as `result` or, without one, the state.
fn states(state: &str, value: Option<f64>) -> Found {
    let state = ConditionValue::Text(state.to_owned());
    let result = value.map_or_else(|| state.clone(), ConditionValue::Number);
    Found::values([("state", state), ("result", result)])
}

/// The same for the same gate in the same phase, however often it is measured and by whom.
fn key(context: &Context) -> String {
    let mut digest = Sha256::new();
    let phase = format!("{:?}", context.phase);
    for part in [&context.rollout_uid, &context.stage, &phase, &context.gate] {
        // Names hold no line break, so no two lists look the same.
        digest.update(part.as_bytes());
        digest.update(b"\n");
    }
    digest.update(context.gate_began.as_millisecond().to_be_bytes());
    digest.finalize().iter().take(20).map(|byte| format!("{byte:02x}")).collect()
}

fn announcement(context: &Context, key: &str) -> Value {
    json!({
        "key": key,
        "namespace": context.namespace,
        "rollout": context.rollout,
        "rolloutUid": context.rollout_uid,
        "stage": context.stage,
        "phase": context.phase,
        "gate": context.gate,
        "stageBegan": context.stage_began,
        "devices": context.population.len(),
    })
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use wardring_api::GatePhase;
    use wardring_harness::https::{self, HttpsServer, reply};

    use super::{
        super::{context::tests::*, provider::tests::endpoint},
        *,
    };

    fn state(word: &str) -> Found {
        states(word, None)
    }

    #[tokio::test]
    async fn a_service_is_told_once_and_then_asked() {
        let keys = Mutex::new(Vec::<String>::new());
        let server = HttpsServer::start(move |request| {
            let mut keys = keys.lock().unwrap();
            if request.method == "POST" {
                let body: Value = serde_json::from_slice(&request.body).unwrap();
                assert_eq!(request.header("idempotency-key"), body["key"].as_str());
                keys.push(body["key"].as_str().unwrap().to_owned());
                return reply(202, "text/plain", "");
            }
            match keys.iter().any(|key| request.target == format!("/{key}")) {
                true => https::json(&json!({ "state": "pass", "value": 0.5, "more": [1] })),
                false => reply(404, "text/plain", ""),
            }
        })
        .await
        .unwrap();
        let (endpoint, context) = (endpoint(&server), context());
        let mut is_told = None;
        assert_eq!(read(&endpoint, &context, &mut is_told).await.found, state("wait"));
        let passed = states("pass", Some(0.5));
        assert_eq!(read(&endpoint, &context, &mut is_told).await.found, passed);
        // Another process, which knows nothing of it.
        assert_eq!(read(&endpoint, &context, &mut None).await.found, passed);
        let told = |received: &[https::Received]| {
            received.iter().filter(|request| request.method == "POST").count()
        };
        assert_eq!(told(&server.received()), 1);
        // A gate that begins anew, as after a retry, and another phase are other questions.
        let anew = Context { gate_began: at("2026-11-21T02:40:00Z"), ..context.clone() };
        assert_eq!(read(&endpoint, &anew, &mut is_told).await.found, state("wait"));
        assert_eq!(told(&server.received()), 2);
        let after = Context { phase: GatePhase::After, ..context };
        assert_eq!(read(&endpoint, &after, &mut None).await.found, state("wait"));
        assert_eq!(told(&server.received()), 3);
    }

    #[tokio::test]
    async fn a_service_that_forgets_is_not_told_again_and_again() {
        let server = HttpsServer::start(|request| {
            reply(if request.method == "POST" { 200 } else { 404 }, "text/plain", "")
        })
        .await
        .unwrap();
        let (endpoint, mut is_told) = (endpoint(&server), None);
        assert_eq!(read(&endpoint, &context(), &mut is_told).await.found, state("wait"));
        for _ in 0..3 {
            let found = read(&endpoint, &context(), &mut is_told).await.found;
            assert!(matches!(found, Found::Fault(_)), "{found:?}");
        }
        let posts = server.received().iter().filter(|request| request.method == "POST").count();
        assert_eq!(posts, 1);
    }

    #[tokio::test]
    async fn what_is_no_verdict_is_a_fault_and_is_not_repeated() {
        for body in [
            "",
            "pass",
            "{}",
            r#"{"state":"PASS"}"#,
            r#"{"state":true}"#,
            r#"{"state":"secret"}"#,
            r#"{"state":"pass","value":"0"}"#,
            r#"{"state":"pass","value":1e999}"#,
            r#"{"state":"pass","value":NaN}"#,
            r#"["pass"]"#,
            "<html>pass</html>",
        ] {
            let answer = move |_: &https::Received| reply(200, "application/json", body);
            let server = HttpsServer::start(answer).await.unwrap();
            let reading = read(&endpoint(&server), &context(), &mut None).await;
            assert!(matches!(reading.found, Found::Fault(_)), "{body}: {reading:?}");
            assert!(!format!("{reading:?}").contains("secret"), "{reading:?}");
        }
    }
}
