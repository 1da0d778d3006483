use http::StatusCode;
use serde_json::json;
use wardring_api::{AlertKind, SinkType};
use wardring_planner::Alert;

use super::{
    super::{message::tests::alert, send::SendError},
    *,
};

fn notifier(kind: SinkType) -> Notifier {
    let word = format!("{kind:?}");
    serde_json::from_value(json!({
        "apiVersion": "wardring.dev/v1alpha1", "kind": "Notifier",
        "metadata": { "name": "on-call", "namespace": "clinic", "generation": 1 },
        "spec": { "sinks": [{ "name": "chat", "type": word, "url": "https://chat.example" }] },
    }))
    .unwrap()
}

/// As many alerts, each in a stage of its own.
fn trouble(count: usize) -> Alerts {
    let of = |n| Alert {
        stage: format!("stage-{n}"),
        ..alert(AlertKind::DeviceDidNotReturn, &format!("srv-{n}"))
    };
    Alerts { active: (1..=count).map(of).collect(), in_flight: count, ..Alerts::default() }
}

fn turn(
    outbox: &mut Outbox,
    notifier: &Notifier,
    alerts: &Alerts,
    clock: Instant,
) -> Option<Parcel> {
    let now = "2026-11-21T02:30:00Z".parse().unwrap();
    turn_at(outbox, notifier, alerts, clock, now)
}

fn turn_at(
    outbox: &mut Outbox,
    notifier: &Notifier,
    alerts: &Alerts,
    clock: Instant,
    now: Timestamp,
) -> Option<Parcel> {
    let ended = &|_: &Told| (Ended::Over, "somebody looked");
    let is_disputed = &|device: &str| device == "liar";
    let turn = Turn { notifier, alerts, sight: Sight::Clear, now, clock, ended, is_disputed };
    outbox.parcel(&notifier.spec.sinks[0], &turn)
}

fn all(parcel: &Parcel) -> Delivered {
    Delivered { told: (0..parcel.messages.len()).collect(), ..Delivered::default() }
}

fn failed(error: SendError) -> Delivered {
    Delivered { error: Some(error), ..Delivered::default() }
}

fn said(notifier: &Notifier, outbox: Outbox) -> NotifierStatus {
    let outboxes = BTreeMap::from([("chat".to_owned(), outbox)]);
    status(notifier, &outboxes, &NotifierStatus::default(), Timestamp::now())
}

#[test]
fn more_than_one_turn_is_told_turn_by_turn_and_nothing_twice() {
    let (notifier, alerts) = (notifier(SinkType::Webhook), trouble(TURN + 3));
    let (mut outbox, clock) = (Outbox::default(), Instant::now());
    let first = turn(&mut outbox, &notifier, &alerts, clock).unwrap();
    assert!(outbox.is_busy(clock));
    outbox.settle(&first, &all(&first), Timestamp::now(), clock);
    assert!(!outbox.is_due(clock) && outbox.is_due(clock + BETWEEN));
    let second = turn(&mut outbox, &notifier, &alerts, clock + BETWEEN).unwrap();
    assert_eq!((first.messages.len(), second.messages.len()), (TURN, 3));
    outbox.settle(&second, &all(&second), Timestamp::now(), clock);
    assert!(turn(&mut outbox, &notifier, &alerts, clock).is_none());
    assert!(
        turn(&mut Outbox::recall(Some(&outbox.status("chat", None))), &notifier, &alerts, clock)
            .is_none()
    );
}

#[test]
fn a_dead_sink_is_tried_ever_less_often_and_costs_no_memory() {
    let (notifier, alerts) = (notifier(SinkType::Webhook), trouble(500));
    let (mut outbox, mut clock) = (Outbox::default(), Instant::now());
    for _ in 0..40 {
        let parcel = turn(&mut outbox, &notifier, &alerts, clock).unwrap();
        assert_eq!(parcel.messages.len(), TURN);
        let error = SendError::Status(StatusCode::SERVICE_UNAVAILABLE);
        outbox.settle(&parcel, &failed(error), Timestamp::now(), clock);
        assert!(!outbox.is_due(clock) && outbox.is_due(clock + BACKOFF.1));
        clock += BACKOFF.1;
    }
    assert!(outbox.told.is_empty());
    let told = said(&notifier, outbox);
    assert_eq!(told.sinks[0].last_error.as_deref(), Some("the server answered HTTP 503"));
    assert_eq!((told.sinks[0].failures, told.sinks[0].pending), (40, 500));
    let ready = &told.conditions[0];
    assert_eq!((ready.status.as_str(), ready.reason.as_str()), ("False", "SinkNotTold"));
    assert_eq!(ready.message, "Sink chat: the server answered HTTP 503.");
}

#[test]
fn what_a_person_changed_is_tried_at_once() {
    let (notifier, alerts) = (notifier(SinkType::Webhook), trouble(1));
    let (mut outbox, clock) = (Outbox::default(), Instant::now());
    let sink = &notifier.spec.sinks[0];
    outbox.renew(Some(1), sink);
    let parcel = turn(&mut outbox, &notifier, &alerts, clock).unwrap();
    outbox.settle(&parcel, &failed(SendError::Plain), Timestamp::now(), clock);
    outbox.renew(Some(1), sink);
    assert!(!outbox.is_due(clock) && outbox.is_invalid);
    outbox.renew(Some(2), sink);
    assert!(outbox.is_due(clock) && !outbox.is_invalid);
}

#[test]
fn alertmanager_is_told_again_of_what_holds_and_a_webhook_is_not() {
    let alerts = trouble(2);
    for (kind, repeats) in [(SinkType::Alertmanager, true), (SinkType::Webhook, false)] {
        let (notifier, clock) = (notifier(kind), Instant::now());
        let mut outbox = Outbox::default();
        let first = turn(&mut outbox, &notifier, &alerts, clock).unwrap();
        outbox.settle(&first, &all(&first), Timestamp::now(), clock);
        assert!(turn(&mut outbox, &notifier, &alerts, clock + BETWEEN).is_none());
        let later = turn(&mut outbox, &notifier, &alerts, clock + REPEAT);
        assert_eq!(later.is_some_and(|parcel| parcel.holding.len() == 2), repeats, "{kind:?}");
    }
}

#[test]
fn while_all_is_well_a_status_is_written_rarely() {
    let notifier = notifier(SinkType::Webhook);
    let mut outbox = Outbox { last_success: Some(Timestamp::UNIX_EPOCH), ..Outbox::default() };
    let now = Timestamp::now();
    let written = {
        let outboxes = BTreeMap::from([("chat".to_owned(), std::mem::take(&mut outbox))]);
        status(&notifier, &outboxes, &NotifierStatus::default(), now)
    };
    for (later, is_same) in [(60, true), (601, false)] {
        let last_success = Timestamp::from_second(later).ok();
        let outbox = Outbox { last_success, ..Outbox::default() };
        let outboxes = BTreeMap::from([("chat".to_owned(), outbox)]);
        assert_eq!(status(&notifier, &outboxes, &written, now) == written, is_same, "{later}");
    }
}

#[test]
fn what_other_programs_act_on_is_told_only_to_whoever_asks_for_it() {
    let mut notifier = notifier(SinkType::Webhook);
    for kind in [AlertKind::DeviceRebootExpected, AlertKind::DeviceNeedsRecovery] {
        notifier.spec.events.clear();
        assert!(!wanted(&notifier).contains(&kind));
        notifier.spec.events = vec![kind];
        assert_eq!(wanted(&notifier), [kind]);
    }
}

#[test]
fn a_template_that_cannot_work_is_said_before_it_is_needed_and_keeps_nothing_back() {
    let mut notifier = notifier(SinkType::Webhook);
    let template = "{{ colour }}".to_owned();
    let webhook = wardring_api::WebhookSink { template: Some(template), signature: None };
    notifier.spec.sinks[0].webhook = Some(webhook);
    let mut outbox = Outbox::default();
    outbox.renew(Some(1), &notifier.spec.sinks[0]);
    assert!(turn(&mut outbox, &notifier, &trouble(1), Instant::now()).is_some());
    let told = said(&notifier, outbox);
    assert_eq!(told.conditions[0].reason, "SinkInvalid");
    assert_eq!(
        told.conditions[0].message,
        "Sink chat: template: line 1 names a field or filter that does not exist; all that is known is \
         sent in its place."
    );
}

#[test]
fn what_a_server_refuses_is_tried_again_and_keeps_back_nothing_else() {
    let (notifier, alerts) = (notifier(SinkType::Webhook), trouble(3));
    let (mut outbox, clock) = (Outbox::default(), Instant::now());
    let refuse_the_first = || Delivered {
        told: vec![1, 2],
        refused: vec![0],
        refusal: Some(SendError::Status(StatusCode::BAD_REQUEST)),
        ..Delivered::default()
    };
    let parcel = turn(&mut outbox, &notifier, &alerts, clock).unwrap();
    outbox.settle(&parcel, &refuse_the_first(), Timestamp::now(), clock);
    assert!(outbox.is_due(clock + BETWEEN));
    assert!(turn(&mut outbox, &notifier, &alerts, clock + BETWEEN).is_none(), "not at once");
    let again = turn(&mut outbox, &notifier, &alerts, clock + BACKOFF.0).unwrap();
    assert_eq!(again.messages, parcel.messages[..1], "and not never");
    let told = said(&notifier, std::mem::take(&mut outbox));
    assert_eq!((told.sinks[0].refused, told.sinks[0].failures), (1, 0));
    assert_eq!(
        told.conditions[0].message,
        "Sink chat: the server answered HTTP 400 to 1 of the messages; each is tried again."
    );
    // Nobody says of what was never told that it is over.
    let mut outbox = Outbox::recall(told.sinks.first());
    let over = turn(&mut outbox, &notifier, &Alerts::default(), clock).unwrap();
    assert_eq!(over.messages.len(), 2);
}

#[test]
fn what_was_never_told_is_counted_and_named() {
    let notifier = notifier(SinkType::Webhook);
    let notice = Alert { device: String::new(), ..alert(AlertKind::StageStarted, "") };
    let alerts = Alerts { notices: vec![notice], ..Alerts::default() };
    let (mut outbox, clock) = (Outbox::default(), Instant::now());
    let parcel = turn(&mut outbox, &notifier, &alerts, clock).unwrap();
    let error = SendError::Status(StatusCode::BAD_GATEWAY);
    outbox.settle(&parcel, &failed(error), Timestamp::now(), clock);
    let later = "2026-11-21T03:00:01Z".parse().unwrap();
    assert!(turn_at(&mut outbox, &notifier, &alerts, clock + BACKOFF.1, later).is_none());
    let told = said(&notifier, outbox);
    assert_eq!(told.sinks[0].dropped, 1);
    assert_eq!(
        told.sinks[0].last_dropped.as_deref(),
        Some("Notice StageStarted november/production/ 2026-11-21T02:00:00Z")
    );
    let mut next = Outbox::recall(told.sinks.first());
    assert!(turn_at(&mut next, &notifier, &alerts, clock, later).is_none());
    assert_eq!(said(&notifier, next).sinks[0].dropped, 1, "another leader counts on");
}

#[test]
fn another_server_is_told_all_that_holds_and_the_answer_of_the_first_one_counts_for_nothing() {
    let (mut notifier, alerts) = (notifier(SinkType::Webhook), trouble(2));
    let (mut outbox, clock) = (Outbox::default(), Instant::now());
    outbox.renew(Some(1), &notifier.spec.sinks[0]);
    let first = turn(&mut outbox, &notifier, &alerts, clock).unwrap();
    outbox.settle(&first, &all(&first), Timestamp::now(), clock);
    // Another leader, the same server.
    let mut outbox = Outbox::recall(said(&notifier, outbox).sinks.first());
    outbox.renew(Some(1), &notifier.spec.sinks[0]);
    assert!(turn(&mut outbox, &notifier, &alerts, clock).is_none());
    // Something else about it was changed.
    outbox.renew(Some(2), &notifier.spec.sinks[0]);
    assert!(turn(&mut outbox, &notifier, &alerts, clock).is_none());
    let epoch = outbox.epoch();
    notifier.spec.sinks[0].url = Some("https://right.example".to_owned());
    outbox.renew(Some(3), &notifier.spec.sinks[0]);
    assert_eq!(turn(&mut outbox, &notifier, &alerts, clock).unwrap().messages.len(), 2);
    assert_ne!(outbox.epoch(), epoch);
    let status = said(&notifier, outbox);
    let target = status.sinks[0].target.clone().unwrap();
    assert!(target.len() == 16 && !target.contains("right"), "{target}");
}

#[test]
fn an_end_is_not_sent_of_what_fires_again_in_a_later_turn() {
    let notifier = notifier(SinkType::Alertmanager);
    let (mut outbox, clock) = (Outbox::default(), Instant::now());
    let alerts = trouble(TURN + 5);
    for _ in 0..2 {
        let parcel = turn(&mut outbox, &notifier, &alerts, clock).unwrap();
        outbox.settle(&parcel, &all(&parcel), Timestamp::now(), clock);
    }
    // All of them again, later.
    let since = "2026-11-21T02:20:00Z".parse().unwrap();
    let again = alerts.active.iter().map(|alert| Alert { since, ..alert.clone() }).collect();
    let again = Alerts { active: again, ..alerts };
    let mut ends = 0;
    while let Some(parcel) = turn(&mut outbox, &notifier, &again, clock) {
        for end in parcel.messages.iter().filter(|message| is_over(message)) {
            ends += 1;
            assert!(parcel.standing.contains(&label_key(&end.alert)), "{end:?}");
        }
        outbox.settle(&parcel, &all(&parcel), Timestamp::now(), clock);
    }
    assert_eq!(ends, TURN + 5);
}
