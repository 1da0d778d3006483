//! What is sent: the fields of a message, Alertmanager's alerts, and nothing that a device could have
//! slipped in.

use jiff::{SignedDuration, Timestamp};
use serde_json::{Map, Value, json};
use sha2::{Digest, Sha256};
use wardring_api::{AlertKind, conditions::clip};
use wardring_planner::{Alert, Ended, Message, MessageState, Told, ToldState};

/// Longest text of a field.
const MAX_TEXT: usize = 512;
/// KBs and names of a message.
const MAX_LIST: usize = 16;
/// How long Alertmanager keeps an alert that nobody repeats. Long enough for an upgrade of the controller:
/// that nobody leads for a while must not read as "it is over".
pub const ALERT_LIFE: SignedDuration = SignedDuration::from_mins(30);

/// How long something that happened stands in Alertmanager.
const NOTICE_LIFE: SignedDuration = SignedDuration::from_mins(5);

/// A device as other systems know it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Names {
    /// Host name, full name, name of the Device.
    pub names: Vec<String>,
    /// IP addresses.
    pub addresses: Vec<String>,
}

/// How bad it is, in the word that routes go by.
pub fn severity(kind: AlertKind) -> &'static str {
    match kind {
        AlertKind::DeviceDidNotReturn
        | AlertKind::DeviceBootLoop
        | AlertKind::DeviceServiceDown
        | AlertKind::RollbackFailed
        | AlertKind::DeviceNeedsRecovery
        | AlertKind::ContactLost
        | AlertKind::StageHalted => "critical",
        AlertKind::DeviceOffline
        | AlertKind::DeviceReverted
        | AlertKind::DeviceFailed
        | AlertKind::StageHeld
        | AlertKind::EmergencyStop
        | AlertKind::RollbackStarted
        | AlertKind::HoldPlaced => "warning",
        AlertKind::DeviceRebootExpected
        | AlertKind::StageStarted
        | AlertKind::StageCompleted
        | AlertKind::RolloutCompleted
        | AlertKind::ApprovalWanted
        | AlertKind::RollbackFinished => "info",
    }
}

/// The same for the same message, whoever sends it how often: receivers tell repetitions by it.
pub fn id(namespace: &str, message: &Message) -> String {
    let mut hash = Sha256::new();
    for part in [namespace, message.state.as_str(), &message.told.to_string()] {
        hash.update(part);
        hash.update([0]);
    }
    hex::encode(&hash.finalize()[..16])
}

/// Everything that a webhook is told. All fields are always there.
pub fn fields(namespace: &str, message: &Message, names: &Names) -> Value {
    let alert = &message.alert;
    // What other monitoring waits for, and only where somebody saw the device back.
    // Whoever restores a device is told the end of exactly that.
    let is_back = message.state == MessageState::Resolved(Ended::Back)
        && alert.kind != AlertKind::DeviceNeedsRecovery;
    let event = if is_back { "DeviceBack" } else { alert.kind.as_str() };
    let ended = match message.state {
        MessageState::Resolved(ended) => ended.as_str(),
        MessageState::Firing | MessageState::Notice => "",
    };
    let (stage, stop) = place(alert);
    let time = |at: Option<Timestamp>| at.map(|at| at.to_string()).unwrap_or_default();
    json!({
        "version": 1,
        "id": id(namespace, message),
        "event": event,
        "state": message.state.as_str(),
        "ended": ended,
        "severity": severity(alert.kind),
        "summary": text(&alert.summary),
        "namespace": namespace,
        "rollout": text(&alert.rollout),
        "stage": text(stage),
        "stop": text(stop),
        "device": text(&alert.device),
        "hostname": text(&alert.hostname),
        "names": list(&names.names),
        "addresses": list(&names.addresses),
        "kbs": list(&alert.kbs),
        "devices": alert.devices,
        "since": time(Some(alert.since)),
        "until": time(alert.until),
    })
}

/// The stage that an alert is about, or the EmergencyStop.
fn place(alert: &Alert) -> (&str, &str) {
    match alert.kind {
        AlertKind::EmergencyStop => ("", &alert.stage),
        _ => (&alert.stage, ""),
    }
}

/// What tells alerts apart at an Alertmanager. Several devices together are another alert each time that
/// more joined, or nobody would be told.
pub fn label_key(alert: &Alert) -> String {
    format!("{} {}", alert.subject(), batch(alert).unwrap_or_default())
}

fn batch(alert: &Alert) -> Option<String> {
    let is_together = alert.device.is_empty() && alert.kind.is_of_devices();
    is_together.then(|| alert.since.to_string())
}

/// An alert as Alertmanager takes it. Its labels are its identity there, so nothing that changes while
/// it holds may be among them.
pub fn alertmanager(
    namespace: &str,
    source: Option<&str>,
    alert: &Alert,
    state: MessageState,
    now: Timestamp,
) -> Value {
    let mut labels = Map::new();
    let mut label = |name: &str, value: &str| {
        if !value.is_empty() {
            labels.insert(name.to_owned(), text(value));
        }
    };
    label("alertname", &format!("Wardring{}", alert.kind.as_str()));
    label("severity", severity(alert.kind));
    label("namespace", namespace);
    label("rollout", &alert.rollout);
    let (stage, stop) = place(alert);
    label("stage", stage);
    label("stop", stop);
    label("device", &alert.device);
    label("batch", &batch(alert).unwrap_or_default());
    label("source", source.unwrap_or_default());
    let ends = match state {
        MessageState::Resolved(_) => now,
        MessageState::Firing => now.checked_add(ALERT_LIFE).unwrap_or(Timestamp::MAX),
        MessageState::Notice => now.checked_add(NOTICE_LIFE).unwrap_or(Timestamp::MAX),
    };
    let mut annotations = Map::new();
    annotations.insert("summary".to_owned(), text(&alert.summary));
    if !alert.hostname.is_empty() {
        annotations.insert("hostname".to_owned(), text(&alert.hostname));
    }
    let next = match (alert.device.is_empty(), alert.rollout.is_empty()) {
        // Its status says who is mid-flight.
        _ if !stop.is_empty() => format!("kubectl get estop {stop} -o yaml"),
        (false, _) => format!("kubectl wardring explain device {} -n {namespace}", alert.device),
        (true, false) => format!("kubectl wardring explain {} -n {namespace}", alert.rollout),
        (true, true) => format!("kubectl wardring status -n {namespace}"),
    };
    annotations.insert("next".to_owned(), text(&next));
    json!({
        "labels": labels,
        "annotations": annotations,
        "startsAt": alert.since.min(now).to_string(),
        "endsAt": ends.to_string(),
    })
}

/// A message to try a template on.
pub fn sample() -> Message {
    let alert = Alert {
        kind: AlertKind::DeviceDidNotReturn,
        rollout: "rollout".to_owned(),
        stage: "stage".to_owned(),
        device: "device".to_owned(),
        hostname: "device".to_owned(),
        kbs: vec!["KB5068787".to_owned()],
        since: Timestamp::UNIX_EPOCH,
        until: None,
        devices: 1,
        summary: "device is Offline".to_owned(),
    };
    let told = Told::of(&alert, ToldState::Firing);
    Message { state: MessageState::Firing, alert, told }
}

/// A text without control characters, and not too long.
fn text(text: &str) -> Value {
    let clean: String =
        text.chars().map(|letter| if letter.is_control() { ' ' } else { letter }).collect();
    clip(&clean, MAX_TEXT).into()
}

fn list(all: &[String]) -> Vec<Value> {
    all.iter().take(MAX_LIST).map(|one| text(one)).collect()
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    pub(crate) fn alert(kind: AlertKind, device: &str) -> Alert {
        Alert {
            kind,
            rollout: "november".to_owned(),
            stage: "production".to_owned(),
            device: device.to_owned(),
            hostname: device.to_owned(),
            kbs: vec!["KB5068787".to_owned()],
            since: "2026-11-21T02:00:00Z".parse().unwrap(),
            until: None,
            devices: 1,
            summary: format!("{device} is Offline"),
        }
    }

    pub(crate) fn message(kind: AlertKind, device: &str, state: MessageState) -> Message {
        let alert = alert(kind, device);
        let is_notice = state == MessageState::Notice;
        let told = if is_notice { ToldState::Notice } else { ToldState::Firing };
        let told = Told::of(&alert, told);
        Message { state, alert, told }
    }

    #[test]
    fn no_control_character_leaves_and_no_text_is_long() {
        let mut message = message(AlertKind::DeviceFailed, "srv-1", MessageState::Firing);
        message.alert.summary = format!("a\nb\u{1b}[31m\u{7f}{}", "x".repeat(2_000));
        message.alert.hostname = "srv\r\n1".to_owned();
        let now = message.alert.since;
        for sent in [
            fields("clinic", &message, &Names::default()),
            alertmanager("clinic", None, &message.alert, message.state, now),
        ] {
            let mut texts = Vec::new();
            collect(&sent, &mut texts);
            for text in texts {
                assert!(text.len() <= MAX_TEXT && !text.contains(char::is_control), "{text:?}");
            }
        }
    }

    fn collect(value: &Value, into: &mut Vec<String>) {
        match value {
            Value::String(text) => into.push(text.clone()),
            Value::Array(all) => all.iter().for_each(|one| collect(one, into)),
            Value::Object(all) => all.values().for_each(|one| collect(one, into)),
            _ => {}
        }
    }

    #[test]
    fn a_device_is_said_to_be_back_only_where_it_was_seen_back() {
        let expected = message(AlertKind::DeviceRebootExpected, "srv-1", MessageState::Firing);
        let over = |ended| Message { state: MessageState::Resolved(ended), ..expected.clone() };
        let back = over(Ended::Back);
        let event =
            |message: &Message| fields("clinic", message, &Names::default())["event"].clone();
        assert_eq!(event(&expected), "DeviceRebootExpected");
        assert_eq!(event(&back), "DeviceBack");
        for ended in [Ended::Lost, Ended::Away, Ended::Unwatched, Ended::NotWanted, Ended::Over] {
            let message = over(ended);
            assert_eq!(event(&message), "DeviceRebootExpected");
        }
        assert_ne!(id("clinic", &expected), id("clinic", &back));
        assert_eq!(id("clinic", &expected), id("clinic", &expected.clone()));
    }

    #[test]
    fn an_emergency_stop_is_no_stage_and_says_where_to_look() {
        let mut stop = message(AlertKind::EmergencyStop, "", MessageState::Firing);
        stop.alert.stage = "erp-down".to_owned();
        stop.alert.rollout.clear();
        let told = fields("clinic", &stop, &Names::default());
        assert_eq!((&told["stage"], &told["stop"]), (&json!(""), &json!("erp-down")));
        let now = stop.alert.since;
        let sent = alertmanager("clinic", None, &stop.alert, stop.state, now);
        assert_eq!(sent["labels"]["stop"], "erp-down");
        assert_eq!(sent["labels"].get("stage"), None);
        assert_eq!(sent["labels"]["alertname"], "WardringEmergencyStop");
        assert_eq!(sent["annotations"]["next"], "kubectl get estop erp-down -o yaml");
    }

    #[test]
    fn what_identifies_an_alert_does_not_change_while_it_holds() {
        let alert = alert(AlertKind::DeviceDidNotReturn, "srv-1");
        let later = Alert { summary: "another minute".to_owned(), ..alert.clone() };
        let now = alert.since;
        let sent = |alert, state| alertmanager("clinic", Some("east"), alert, state, now);
        let (first, second) =
            (sent(&alert, MessageState::Firing), sent(&later, MessageState::Firing));
        assert_eq!(first["labels"], second["labels"]);
        assert_eq!(first["labels"]["alertname"], "WardringDeviceDidNotReturn");
        assert_eq!(first["endsAt"], "2026-11-21T02:30:00Z");
        assert_eq!(
            sent(&alert, MessageState::Resolved(Ended::Over))["endsAt"],
            "2026-11-21T02:00:00Z"
        );
    }
}
