//! Alertmanager: alerts that are new since the stage began and name one of its devices.
//!
//! An alert that a person silenced is known to that person and does not count. One that is silenced by
//! Wardring's own hand still does: what we keep from waking people must not keep us from seeing it.
//! What another alert inhibits does not count beside that other one, nor while a restart is expected; where
//! the other one is not counted either, it does.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
};

use http::StatusCode;
use jiff::{SignedDuration, Timestamp};
use serde::Deserialize;
use wardring_api::{AlertmanagerGate, names::SILENCE_AUTHOR};
use wardring_planner::condition::ConditionValue;

use super::{
    context::Context,
    reading::{Found, Reading, whole},
    speak::{Speak, ask, read_answer, read_json},
};
use crate::outbound::{Endpoint, Question};

/// Label that names an alert's device, unless the gate says another one.
const DEVICE_LABEL: &str = "instance";
/// Our own alert that says that a device restarts because we let it.
const EXPECTED: &str = "WardringRebootExpected";
/// An alert's time is its sender's: one that seems a little older than the stage may be its work.
const CLOCKS: SignedDuration = SignedDuration::from_mins(2);
/// Silences that are looked up for one measurement; alerts behind further ones count.
const MAX_SILENCES: usize = 20;

/// Measures.
pub async fn read(endpoint: &Endpoint, gate: &AlertmanagerGate, context: &Context) -> Reading {
    let label = gate.device_label.as_deref().unwrap_or(DEVICE_LABEL);
    let query = format!(
        "alerts with {{{}}} since {}, by {label}",
        gate.matchers.join(", "),
        context.stage_began.strftime("%Y-%m-%dT%H:%M:%SZ"),
    );
    let found = count(endpoint, gate, label, context).await.unwrap_or_else(Found::Fault);
    Reading { query, found }
}

async fn count(
    endpoint: &Endpoint,
    gate: &AlertmanagerGate,
    label: &str,
    context: &Context,
) -> Result<Found, String> {
    if let Some(watchdog) = &gate.watchdog
        && alerts(endpoint, std::slice::from_ref(watchdog)).await?.is_empty()
    {
        return Ok(Found::Nothing(
            "the watchdog alert, which must always fire, does not: no alert would come either"
                .to_owned(),
        ));
    }
    if context.population.is_empty() {
        return Ok(Found::Nothing("the stage has no devices".to_owned()));
    }
    let names = by_name(context);
    let all = alerts(endpoint, &gate.matchers).await?;
    let since = context.stage_began.checked_sub(CLOCKS).unwrap_or(context.stage_began);
    let mut fresh = Vec::new();
    for alert in all.iter().filter(|alert| alert.starts_at > since) {
        let value = alert.labels.get(label).map_or("", String::as_str);
        match device_of(value, &names) {
            Some(device) => fresh.push((alert, device)),
            // It may be one of ours under a name that we do not know.
            None if value.is_empty() || device_name(value).parse::<IpAddr>().is_ok() => {
                return Err(format!(
                    "a new alert names no device in its label {label}; choose `deviceLabel` or `matchers`"
                ));
            }
            None => {}
        }
    }
    let ours = our_silences(endpoint, fresh.iter().map(|(alert, _)| *alert)).await?;
    let is_known = |alert: &Alert| alert.status.silenced_by.iter().any(|id| !ours.contains(id));
    fresh.retain(|(alert, _)| !is_known(alert));
    let fresh = without_consequences(endpoint, fresh).await?;
    let devices: BTreeSet<usize> = fresh.iter().map(|(_, device)| *device).collect();
    let share = devices.len() as f64 / context.population.len().max(1) as f64;
    Ok(Found::values([
        ("result", whole(fresh.len())),
        ("devices", whole(devices.len())),
        ("share", ConditionValue::Number(share)),
    ]))
}

/// Leaves out what another alert explains: one that is counted itself, or a restart that is expected.
async fn without_consequences<'a>(
    endpoint: &Endpoint,
    mut fresh: Vec<(&'a Alert, usize)>,
) -> Result<Vec<(&'a Alert, usize)>, String> {
    if fresh.iter().all(|(alert, _)| alert.status.inhibited_by.is_empty()) {
        return Ok(fresh);
    }
    let expected = alerts(endpoint, &[format!("alertname=\"{EXPECTED}\"")]).await?;
    let counted = fresh.iter().filter(|(alert, _)| alert.status.inhibited_by.is_empty());
    let explains: BTreeSet<String> = counted
        .map(|(alert, _)| &alert.fingerprint)
        .chain(expected.iter().map(|alert| &alert.fingerprint))
        .cloned()
        .collect();
    fresh.retain(|(alert, _)| !alert.status.inhibited_by.iter().any(|id| explains.contains(id)));
    Ok(fresh)
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Alert {
    fingerprint: String,
    labels: BTreeMap<String, String>,
    starts_at: Timestamp,
    status: Status,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Status {
    silenced_by: Vec<String>,
    inhibited_by: Vec<String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Silence {
    created_by: String,
}

async fn alerts(endpoint: &Endpoint, matchers: &[String]) -> Result<Vec<Alert>, String> {
    // Whatever state they are in: which of them count is decided here.
    let states = ["active", "silenced", "inhibited", "unprocessed"];
    let mut query: Vec<(&str, String)> =
        states.into_iter().map(|state| (state, "true".to_owned())).collect();
    query.extend(matchers.iter().map(|matcher| ("filter", matcher.clone())));
    let path = "/api/v2/alerts".to_owned();
    read_json(endpoint, Question { path, query, ..Question::default() }, Speak::Alertmanager).await
}

/// Silences that do not hide an alert from us: our own, those that are gone, and those beyond the
/// number that is looked up.
async fn our_silences(
    endpoint: &Endpoint,
    alerts: impl Iterator<Item = &Alert>,
) -> Result<BTreeSet<String>, String> {
    let ids: BTreeSet<&String> = alerts.flat_map(|alert| &alert.status.silenced_by).collect();
    let mut ours = BTreeSet::new();
    for (number, id) in ids.into_iter().enumerate() {
        // It becomes a part of an address.
        let is_id = id.len() <= 64 && id.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-');
        if number >= MAX_SILENCES || !is_id || is_ours(endpoint, id).await? {
            ours.insert(id.clone());
        }
    }
    Ok(ours)
}

async fn is_ours(endpoint: &Endpoint, id: &str) -> Result<bool, String> {
    let question = Question { path: format!("/api/v2/silence/{id}"), ..Question::default() };
    let answer = ask(endpoint, question, Speak::Alertmanager).await?;
    if answer.status == StatusCode::NOT_FOUND {
        return Ok(true);
    }
    let silence: Silence = read_answer(&answer, Speak::Alertmanager)?;
    Ok(silence.created_by == SILENCE_AUTHOR)
}

/// Places in the population by every name that a device goes by.
fn by_name(context: &Context) -> BTreeMap<String, usize> {
    let members = context.population.iter().enumerate();
    members.flat_map(|(place, member)| member.names().map(move |name| (name, place))).collect()
}

/// The device that a label such as `WEB-1.clinic.example:9182` names. Where the whole name is nobody's
/// its first part decides: an alert too many is seen by a person, one too few by nobody.
fn device_of(value: &str, names: &BTreeMap<String, usize>) -> Option<usize> {
    let name = device_name(value);
    let short = || match name.parse::<IpAddr>() {
        Ok(_) => None,
        Err(_) => names.get(name.split('.').next().unwrap_or_default()),
    };
    names.get(&name).or_else(short).copied()
}

fn device_name(value: &str) -> String {
    if value.parse::<IpAddr>().is_ok() {
        return value.to_owned();
    }
    let name = match value.rsplit_once(':') {
        Some((name, port)) if port.bytes().all(|byte| byte.is_ascii_digit()) => name,
        _ => value,
    };
    let name = name.strip_prefix('[').and_then(|name| name.strip_suffix(']')).unwrap_or(name);
    name.trim_end_matches('.').to_ascii_lowercase()
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};
    use wardring_harness::https::{self, HttpsServer, reply};

    use super::{
        super::{context::tests::*, provider::tests::endpoint},
        *,
    };

    const NEW: &str = "2026-11-21T02:30:00.000Z";
    const OLD: &str = "2026-11-21T01:57:59.000Z";

    fn alert(instance: &str, since: &str, silenced: &[&str], inhibited: &[&str]) -> Value {
        json!({
            "labels": { "alertname": "Down", "instance": instance }, "annotations": {},
            "startsAt": since, "endsAt": "2026-11-21T04:00:00Z", "updatedAt": since,
            "fingerprint": format!("f-{instance}"), "receivers": [],
            "status": { "state": "active", "silencedBy": silenced, "inhibitedBy": inhibited },
        })
    }

    async fn measured(list: Value) -> Found {
        let server = HttpsServer::start(move |request| {
            let silence = |author: &str| https::json(&json!({ "createdBy": author }));
            match request.target.as_str() {
                "/api/v2/silence/ours" => silence("wardring"),
                "/api/v2/silence/theirs" => silence("amtool"),
                "/api/v2/silence/gone" => reply(404, "application/json", "{}"),
                target if target.contains("WardringRebootExpected") => {
                    https::json(&json!([alert("reboot", NEW, &[], &[])]))
                }
                _ => https::json(&list),
            }
        })
        .await
        .unwrap();
        let matchers = vec!["severity=\"critical\"".to_owned()];
        let gate = AlertmanagerGate { matchers, ..gate() };
        read(&endpoint(&server), &gate, &context()).await.found
    }

    fn gate() -> AlertmanagerGate {
        serde_json::from_value(json!({ "provider": "am" })).unwrap()
    }

    fn counted(result: usize, devices: usize, share: f64) -> Found {
        Found::values([
            ("result", whole(result)),
            ("devices", whole(devices)),
            ("share", ConditionValue::Number(share)),
        ])
    }

    #[tokio::test]
    async fn alerts_count_that_are_new_and_of_the_stage_and_not_known_to_a_person() {
        let list = json!([
            alert("web-1", NEW, &[], &[]),
            alert("WEB1.clinic.example:9182", NEW, &[], &[]),
            // Explained by a counted one, and by a restart that is expected.
            alert("web-2.clinic.example", NEW, &[], &["f-web-1"]),
            alert("web-2", NEW, &[], &["f-reboot"]),
            // Neither new nor of this stage.
            alert("10.0.0.1:9182", OLD, &[], &[]),
            alert("web-2", OLD, &[], &[]),
            alert("web-3", NEW, &[], &[]),
            alert("web-10", NEW, &[], &[]),
            // Known to a person; only our own silence is no reason to look away.
            alert("web-2:9182", NEW, &["theirs"], &[]),
            alert("web-2:9182", NEW, &["ours", "theirs"], &[]),
        ]);
        assert_eq!(measured(list).await, counted(2, 1, 0.5));
        let list = json!([
            alert("web-1", NEW, &["ours"], &[]),
            alert("web-2", NEW, &["gone"], &[]),
            alert("web-2", NEW, &["../../secret"], &[]),
        ]);
        assert_eq!(measured(list).await, counted(3, 2, 1.0));
        assert_eq!(measured(json!([])).await, counted(0, 0, 0.0));
        // Such as one of ours that pages in its place and does not match the gate.
        let list = json!([alert("web-2", NEW, &[], &["f-not-counted"])]);
        assert_eq!(measured(list).await, counted(1, 1, 0.5));
        // Clocks differ by a little.
        let list = json!([alert("web-2", "2026-11-21T01:59:00Z", &[], &[])]);
        assert_eq!(measured(list).await, counted(1, 1, 0.5));
    }

    #[tokio::test]
    async fn a_new_alert_that_could_be_any_devices_is_no_silence() {
        for instance in ["", "10.0.0.1", "10.0.0.1:9182", "[fd12::1]:9182", "fd12::1"] {
            let found = measured(json!([alert(instance, NEW, &[], &[])])).await;
            assert!(matches!(found, Found::Fault(_)), "{instance}: {found:?}");
        }
        let server = HttpsServer::start(|_| https::json(&json!([]))).await.unwrap();
        let nobody = Context { population: Vec::new(), ..context() };
        let reading = read(&endpoint(&server), &gate(), &nobody).await;
        assert!(matches!(reading.found, Found::Nothing(_)), "{reading:?}");
    }

    #[tokio::test]
    async fn an_alertmanager_without_its_watchdog_says_nothing_about_the_stage() {
        let server = HttpsServer::start(|_| https::json(&json!([]))).await.unwrap();
        let watchdog = Some("alertname=\"Watchdog\"".to_owned());
        let gate = AlertmanagerGate { watchdog, ..gate() };
        let reading = read(&endpoint(&server), &gate, &context()).await;
        assert!(matches!(reading.found, Found::Nothing(_)), "{reading:?}");
    }

    #[tokio::test]
    async fn what_is_no_list_of_alerts_is_a_fault() {
        for answer in [
            json!({}),
            json!({ "status": "success", "data": [] }),
            json!([{ "labels": { "instance": "web-1" } }]),
            json!([{ "labels": { "instance": 1 }, "startsAt": NEW, "status": {} }]),
            json!("[]"),
            json!(null),
        ] {
            let found = measured(answer.clone()).await;
            assert!(matches!(found, Found::Fault(_)), "{answer}: {found:?}");
        }
    }
}
