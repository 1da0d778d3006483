//! Tickets: how many came in about the stage's devices, against how many came in about the same
//! devices before the stage began.

use jiff::{SignedDuration, Timestamp};
use serde::Deserialize;
use serde_json::{Value, json};
use wardring_api::{Span, TicketsGate};
use wardring_planner::condition::ConditionValue;

use super::{
    context::Context,
    reading::{Found, Reading, whole},
    speak::{Speak, read_json},
};
use crate::outbound::{Endpoint, Question};

/// How far back tickets count, unless the gate says.
const OVER: Span = Span::from_hours(4);
/// How far back the baseline goes, unless the gate says: two weeks know weekends.
const BASELINE: Span = Span::from_hours(14 * 24);
/// A shorter time counts as this long, so that one ticket a minute after the start is no flood.
const SHORTEST: SignedDuration = SignedDuration::from_hours(1);
/// Devices in one question; more are asked for in several.
const BATCH: usize = 1_000;
/// More tickets than anybody has: then the answer counts something else.
const MAX_COUNT: usize = 10_000_000;

/// Measures.
pub async fn read(endpoint: &Endpoint, gate: &TicketsGate, context: &Context) -> Reading {
    let windows = windows(gate, context);
    let query = format!(
        "tickets about {} devices since {}, against {} to {}",
        context.population.len(),
        stamp(windows[0].0),
        stamp(windows[1].0),
        stamp(windows[1].1),
    );
    let found = count(endpoint, context, &windows).await.unwrap_or_else(Found::Fault);
    Reading { query, found }
}

type Window = (Timestamp, Timestamp);

/// Now, and before the stage began.
fn windows(gate: &TicketsGate, context: &Context) -> [Window; 2] {
    let back = |from: Timestamp, span: Span| {
        from.checked_sub(span.duration()).unwrap_or(Timestamp::UNIX_EPOCH)
    };
    let (over, baseline) = (gate.over.unwrap_or(OVER), gate.baseline.unwrap_or(BASELINE));
    let began = context.stage_began.min(context.now);
    [(back(context.now, over).max(began), context.now), (back(began, baseline), began)]
}

#[derive(Deserialize)]
struct Counts {
    counts: Vec<u32>,
}

async fn count(
    endpoint: &Endpoint,
    context: &Context,
    windows: &[Window; 2],
) -> Result<Found, String> {
    if context.population.is_empty() {
        return Ok(Found::Nothing("the stage has no devices".to_owned()));
    }
    let mut sums = [0usize; 2];
    for batch in context.population.chunks(BATCH) {
        let windows: Vec<Value> = windows
            .iter()
            .map(|(from, to)| json!({ "from": stamp(*from), "to": stamp(*to) }))
            .collect();
        let devices: Vec<Value> = batch
            .iter()
            .map(|member| json!({ "name": member.device, "aliases": member.aliases }))
            .collect();
        let body = json!({ "windows": windows, "devices": devices });
        let question = Question {
            path: "/v1/count".to_owned(),
            json: Some(body.to_string().into_bytes()),
            ..Question::default()
        };
        let answer: Counts = read_json(endpoint, question, Speak::Tickets).await?;
        let [now, before] = answer.counts[..] else {
            return Err("the tickets service does not answer with one count per window".to_owned());
        };
        let counts = [(sums[0], now), (sums[1], before)];
        sums = counts.map(|(sum, more)| sum.saturating_add(more as usize));
        if sums.iter().any(|sum| *sum > MAX_COUNT) {
            return Err("the tickets service counts more tickets than there can be".to_owned());
        }
    }
    Ok(Found::values([
        ("result", ConditionValue::Number(a_day(sums[0], windows[0]))),
        ("baseline", ConditionValue::Number(a_day(sums[1], windows[1]))),
        ("count", whole(sums[0])),
        ("baselineCount", whole(sums[1])),
        ("devices", whole(context.population.len())),
    ]))
}

/// Tickets a day.
fn a_day(count: usize, (from, to): Window) -> f64 {
    let days = to.duration_since(from).max(SHORTEST).as_secs_f64() / 86_400.0;
    count as f64 / days
}

fn stamp(at: Timestamp) -> String {
    at.strftime("%Y-%m-%dT%H:%M:%SZ").to_string()
}

#[cfg(test)]
mod tests {
    use wardring_harness::https::{self, HttpsServer, reply};

    use super::{
        super::{
            context::{Member, tests::*},
            provider::tests::endpoint,
        },
        *,
    };

    fn gate() -> TicketsGate {
        serde_json::from_value(json!({ "provider": "desk", "over": "4h", "baseline": "10d" }))
            .unwrap()
    }

    #[tokio::test]
    async fn tickets_are_counted_since_the_stage_began_and_before_it_for_the_same_devices() {
        let server =
            HttpsServer::start(|_| https::json(&json!({ "counts": [3, 10] }))).await.unwrap();
        let reading = read(&endpoint(&server), &gate(), &context()).await;
        let expected = Found::values([
            ("result", ConditionValue::Number(72.0)),
            ("baseline", ConditionValue::Number(1.0)),
            ("count", whole(3)),
            ("baselineCount", whole(10)),
            ("devices", whole(2)),
        ]);
        assert_eq!(reading.found, expected);
        let asked: Value = serde_json::from_slice(&server.received()[0].body).unwrap();
        let expected = json!({
            "windows": [
                { "from": "2026-11-21T02:00:00Z", "to": "2026-11-21T03:00:00Z" },
                { "from": "2026-11-11T02:00:00Z", "to": "2026-11-21T02:00:00Z" },
            ],
            "devices": [
                { "name": "web-1", "aliases": ["WEB1.clinic.example"] },
                { "name": "web-2", "aliases": ["WEB2"] },
            ],
        });
        assert_eq!(asked, expected);
        assert_eq!(server.received()[0].target, "/v1/count");
    }

    #[tokio::test]
    async fn many_devices_are_asked_for_in_several_questions_and_added_up() {
        let server =
            HttpsServer::start(|_| https::json(&json!({ "counts": [1, 0] }))).await.unwrap();
        let population = (0..2_500)
            .map(|number| Member { device: format!("ws-{number}"), aliases: Vec::new() })
            .collect();
        let reading = read(&endpoint(&server), &gate(), &Context { population, ..context() }).await;
        let Found::Values(values) = reading.found else { panic!("{reading:?}") };
        assert_eq!((&values["count"], server.received().len()), (&whole(3), 3));
    }

    #[test]
    fn the_first_minutes_are_no_flood() {
        let (from, to) = (at("2026-11-21T02:00:00Z"), at("2026-11-21T02:01:00Z"));
        assert_eq!(a_day(1, (from, to)), 24.0);
    }

    #[tokio::test]
    async fn what_are_no_counts_is_a_fault() {
        for body in [
            "",
            "{}",
            r#"{"counts":[]}"#,
            r#"{"counts":[1]}"#,
            r#"{"counts":[1,2,3]}"#,
            r#"{"counts":[-1,0]}"#,
            r#"{"counts":[0.5,0]}"#,
            r#"{"counts":["0","0"]}"#,
            r#"{"counts":[null,0]}"#,
            r#"{"counts":[99999999999,0]}"#,
            r#"{"counts":[1e999,0]}"#,
            r#"[0,0]"#,
        ] {
            let answer = move |_: &https::Received| reply(200, "application/json", body);
            let server = HttpsServer::start(answer).await.unwrap();
            let found = read(&endpoint(&server), &gate(), &context()).await.found;
            assert!(matches!(found, Found::Fault(_)), "{body}: {found:?}");
        }
    }
}
