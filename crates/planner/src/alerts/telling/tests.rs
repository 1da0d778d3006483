use super::*;

fn at(text: &str) -> Timestamp {
    text.parse().unwrap()
}

fn now() -> Timestamp {
    at("2026-11-21T02:30:00Z")
}

fn alert(kind: AlertKind, device: &str) -> Alert {
    Alert {
        kind,
        rollout: "november".to_owned(),
        stage: "production".to_owned(),
        device: device.to_owned(),
        hostname: device.to_owned(),
        kbs: Vec::new(),
        since: at("2026-11-21T02:00:00Z"),
        until: None,
        devices: 1,
        summary: format!("{device} is Offline"),
    }
}

fn holding(active: &[Alert]) -> Alerts {
    Alerts { active: active.to_vec(), notices: Vec::new(), in_flight: active.len() }
}

fn lost(numbers: std::ops::Range<usize>) -> Alerts {
    let one = |number| alert(AlertKind::DeviceDidNotReturn, &format!("srv-{number:03}"));
    holding(&numbers.map(one).collect::<Vec<_>>())
}

/// A sink that takes all it is told.
struct Willing {
    told: Vec<Told>,
    wanted: Vec<AlertKind>,
    ended: Ended,
    now: Timestamp,
    /// What receivers tell repetitions by.
    ids: Vec<(&'static str, String)>,
}

impl Default for Willing {
    fn default() -> Willing {
        Willing {
            told: Vec::new(),
            wanted: AlertKind::ALL.to_vec(),
            ended: Ended::Over,
            now: now(),
            ids: Vec::new(),
        }
    }
}

impl Willing {
    fn hears(&mut self, alerts: &Alerts, sight: Sight) -> Vec<String> {
        let telling = self.telling(alerts, sight);
        let mut heard = Vec::new();
        for message in telling.messages {
            let ended = match message.state {
                MessageState::Resolved(ended) => format!(" {}", ended.as_str()),
                _ => String::new(),
            };
            heard.push(format!("{}{ended} {}", message.state.as_str(), message.alert.summary));
            self.ids.push((message.state.as_str(), message.told.to_string()));
            self.told.retain(|told| *told != message.told);
            let is_over = matches!(message.state, MessageState::Resolved(_));
            let state = if is_over { ToldState::Over } else { message.told.state };
            self.told.push(Told { state, ..message.told });
        }
        heard
    }

    fn telling(&mut self, alerts: &Alerts, sight: Sight) -> Telling {
        let since = at("2026-11-01T00:00:00Z");
        let ended = |entry: &Told| {
            let of_one = !entry.is_together();
            (if of_one { self.ended } else { Ended::Over }, "somebody looked")
        };
        to_tell(alerts, &mut self.told, &self.wanted, sight, since, self.now, &ended)
    }

    /// Another leader knows only what stands in the status.
    fn with_another_leader(self) -> Willing {
        let told = self.told.iter().map(|told| told.to_string().parse().unwrap()).collect();
        Willing { told, ..self }
    }
}

#[test]
fn an_alert_is_told_once_and_once_that_it_is_over_whoever_leads() {
    let mut sink = Willing::default();
    let failed = holding(&[alert(AlertKind::DeviceFailed, "srv-1")]);
    assert_eq!(sink.hears(&failed, Sight::Clear), ["firing srv-1 is Offline"]);
    assert!(sink.hears(&failed, Sight::Clear).is_empty());
    let mut sink = sink.with_another_leader();
    assert!(sink.hears(&failed, Sight::Settling).is_empty());
    assert_eq!(sink.telling(&failed, Sight::Settling).holding, failed.active);
    assert_eq!(
        sink.hears(&holding(&[]), Sight::Clear),
        [
            "resolved Over DeviceFailed of srv-1 is over — somebody looked (rollout november, stage production)"
        ]
    );
    assert!(sink.hears(&holding(&[]), Sight::Clear).is_empty());
    assert!(sink.told.iter().all(|told| told.state == ToldState::Over));
}

#[test]
fn an_outage_of_the_gateways_pages_once_and_ends_only_when_a_leader_sees_clearly() {
    let mut sink = Willing::default();
    let blind = |minute| Sight::Blind { since: at(&format!("2026-11-21T02:{minute}:00Z")) };
    let many = lost(0..90);
    let heard = sink.hears(&many, blind(10));
    assert_eq!(heard.len(), 1, "{heard:?}");
    assert!(
        heard[0].starts_with("firing Wardring hears no devices — 90 are in flight"),
        "{heard:?}"
    );
    // The next leader notices it anew, and at another time.
    let mut sink = sink.with_another_leader();
    assert!(sink.hears(&many, Sight::Settling).is_empty());
    assert_eq!(sink.telling(&many, Sight::Settling).holding.len(), 1, "it is still repeated");
    assert!(sink.hears(&many, blind(20)).is_empty());
    assert!(sink.hears(&holding(&[]), blind(20)).is_empty());
    let heard = sink.hears(&holding(&[]), Sight::Clear);
    assert_eq!(heard, ["resolved Over Wardring hears the devices again"]);
}

#[test]
fn a_device_that_is_missed_under_another_name_is_not_said_to_be_back() {
    let mut sink = Willing { ended: Ended::Back, ..Willing::default() };
    let expected = alert(AlertKind::DeviceRebootExpected, "srv-1");
    let slow = alert(AlertKind::DeviceOffline, "srv-1");
    let gone = alert(AlertKind::DeviceDidNotReturn, "srv-1");
    assert_eq!(sink.hears(&holding(std::slice::from_ref(&expected)), Sight::Clear).len(), 1);
    let heard = sink.hears(&holding(&[expected, slow]), Sight::Clear);
    assert_eq!(heard, ["firing srv-1 is Offline"], "the restart is still expected");
    let heard = sink.hears(&holding(&[gone]), Sight::Clear);
    assert_eq!(heard[0], "firing srv-1 is Offline", "the page goes first: {heard:?}");
    assert!(heard[1..].iter().all(|line| line.starts_with("resolved Away")), "{heard:?}");
    assert_eq!(heard.len(), 3);
    let heard = sink.hears(&holding(&[]), Sight::Clear);
    assert_eq!(heard.len(), 1);
    assert!(heard[0].starts_with("resolved Back srv-1 is back — somebody looked"), "{heard:?}");
}

#[test]
fn what_is_not_wanted_any_more_ends_without_a_word_about_the_device() {
    let mut sink = Willing { ended: Ended::Back, ..Willing::default() };
    let expected = holding(&[alert(AlertKind::DeviceRebootExpected, "srv-1")]);
    sink.hears(&expected, Sight::Clear);
    sink.wanted = vec![AlertKind::DeviceFailed];
    let heard = sink.hears(&expected, Sight::Clear);
    assert_eq!(heard.len(), 1);
    assert!(heard[0].starts_with("resolved NotWanted"), "{heard:?}");
}

#[test]
fn many_devices_are_one_page_and_nobody_is_paged_for_whom_the_group_had_room() {
    let mut sink = Willing { ended: Ended::Back, ..Willing::default() };
    let heard = sink.hears(&lost(0..40), Sight::Clear);
    assert_eq!(heard.len(), 1, "{heard:?}");
    assert!(heard[0].starts_with("firing 40 devices: DeviceDidNotReturn"), "{heard:?}");
    // The first ones return, others join: the group goes on, whoever is in it, and whoever leads.
    for range in [5..40, 5..90, 60..62, 61..62] {
        assert!(sink.hears(&lost(range.clone()), Sight::Clear).is_empty(), "{range:?}");
        assert_eq!(sink.telling(&lost(range), Sight::Clear).holding.len(), 1);
        sink = sink.with_another_leader();
    }
    let heard = sink.hears(&holding(&[]), Sight::Clear);
    assert_eq!(heard.len(), 1);
    assert!(heard[0].starts_with("resolved Over"), "nobody says who is back: {heard:?}");
    // Afterwards one is one.
    assert_eq!(sink.hears(&lost(7..8), Sight::Clear), ["firing srv-007 is Offline"]);
}

#[test]
fn who_was_told_of_by_name_stays_so_when_many_follow() {
    let mut sink = Willing::default();
    assert_eq!(sink.hears(&lost(0..3), Sight::Clear).len(), 3);
    let heard = sink.hears(&lost(0..40), Sight::Clear);
    assert_eq!(heard.len(), 1, "{heard:?}");
    assert!(heard[0].starts_with("firing 37 further devices"), "{heard:?}");
    assert!(sink.hears(&lost(0..40), Sight::Clear).is_empty());
    let heard = sink.hears(&lost(3..40), Sight::Clear);
    assert_eq!(heard.len(), 3);
    assert!(heard.iter().all(|line| line.starts_with("resolved")), "{heard:?}");
}

#[test]
fn while_nobody_is_seen_no_silence_begins() {
    let mut sink = Willing::default();
    assert!(sink.hears(&lost(0..1), Sight::Settling).is_empty());
    assert_eq!(sink.hears(&lost(0..1), Sight::Clear).len(), 1);
}

#[test]
fn the_urgent_goes_first_and_finds_room_when_all_else_has_none() {
    let mut sink = Willing::default();
    let restarts = (0..300).map(|n| alert(AlertKind::DeviceRebootExpected, &format!("ws-{n:03}")));
    let mut all: Vec<Alert> = restarts.collect();
    let stages = (0..60).flat_map(|stage| {
        let failed = move |device| Alert {
            stage: format!("stage-{stage}"),
            ..alert(AlertKind::DeviceFailed, &format!("srv-{device}"))
        };
        (0..3).map(failed)
    });
    all.extend(stages);
    let telling = sink.telling(&holding(&all), Sight::Clear);
    assert_eq!(telling.messages.len(), TOLD - RESERVE);
    assert_eq!(telling.waiting.len(), RESTARTS + 180 - (TOLD - RESERVE));
    sink.hears(&holding(&all), Sight::Clear);
    // Now a device is lost and the rollout halts.
    all.push(alert(AlertKind::StageHalted, ""));
    all.push(alert(AlertKind::DeviceDidNotReturn, "srv-9"));
    all.retain(|alert| alert.device != "ws-000");
    let telling = sink.telling(&holding(&all), Sight::Clear);
    let kinds: Vec<AlertKind> = telling.messages.iter().map(|one| one.alert.kind).collect();
    assert!(kinds[..2].contains(&AlertKind::StageHalted), "{kinds:?}");
    assert!(kinds[..2].contains(&AlertKind::DeviceDidNotReturn), "{kinds:?}");
}

#[test]
fn what_happened_is_told_once_and_old_news_never() {
    let happened = |when: &str| Alerts {
        notices: vec![Alert { since: at(when), ..alert(AlertKind::StageStarted, "") }],
        ..Alerts::default()
    };
    let mut sink = Willing::default();
    let news = happened("2026-11-21T02:29:00Z");
    assert_eq!(sink.hears(&news, Sight::Clear).len(), 1);
    assert!(sink.hears(&news, Sight::Clear).is_empty());
    assert!(sink.hears(&happened("2026-11-21T01:00:00Z"), Sight::Clear).is_empty());
    // Older than the Notifier.
    let ended = |_: &Told| (Ended::Over, "");
    let mut told = Vec::new();
    let telling = to_tell(&news, &mut told, AlertKind::ALL, Sight::Clear, now(), now(), &ended);
    assert!(telling.messages.is_empty());
}

/// Those devices, lost at that minute after two.
fn lost_at(numbers: std::ops::Range<usize>, minute: i64) -> Vec<Alert> {
    let since = later(at("2026-11-21T02:00:00Z"), SignedDuration::from_mins(minute));
    lost(numbers).active.into_iter().map(|alert| Alert { since, ..alert }).collect()
}

#[test]
fn a_group_that_grows_pages_again_and_not_for_every_few_who_join() {
    let mut sink = Willing::default();
    assert_eq!(sink.hears(&holding(&lost_at(0..6, 0)), Sight::Clear).len(), 1);
    // One stays lost. Soon after, many more follow, servers among them.
    let few = [lost_at(5..6, 0), lost_at(100..103, 5)].concat();
    sink.now = at("2026-11-21T02:09:00Z");
    assert!(sink.hears(&holding(&few), Sight::Clear).is_empty());
    let many = [lost_at(5..6, 0), lost_at(100..300, 9)].concat();
    assert!(sink.hears(&holding(&many), Sight::Clear).is_empty(), "not within minutes");
    sink.now = at("2026-11-21T02:10:00Z");
    let heard = sink.hears(&holding(&many), Sight::Clear);
    assert_eq!(heard.len(), 2, "{heard:?}");
    assert!(heard[0].starts_with("firing 201 devices: DeviceDidNotReturn"), "{heard:?}");
    assert!(heard[1].starts_with("resolved Away DeviceDidNotReturn goes on"), "{heard:?}");
    let mut sink = sink.with_another_leader();
    assert!(sink.hears(&holding(&many), Sight::Clear).is_empty());
    // After a quiet hour a single one is news.
    let one = [many, lost_at(400..401, 75)].concat();
    sink.now = at("2026-11-21T03:15:30Z");
    assert_eq!(sink.hears(&holding(&one), Sight::Clear).len(), 2);
    assert!(sink.hears(&holding(&one), Sight::Clear).is_empty());
}

#[test]
fn what_begins_anew_is_no_repetition_of_what_is_over() {
    let mut sink = Willing { ended: Ended::Back, ..Willing::default() };
    for kind in [AlertKind::DeviceDidNotReturn, AlertKind::DeviceRebootExpected] {
        let away = holding(&[alert(kind, "srv-1")]);
        for _ in 0..3 {
            assert_eq!(sink.hears(&away, Sight::Clear).len(), 1);
            sink = sink.with_another_leader();
            assert!(sink.hears(&away, Sight::Clear).is_empty());
            assert_eq!(sink.hears(&holding(&[]), Sight::Clear).len(), 1);
        }
    }
    let ids: std::collections::BTreeSet<_> = sink.ids.iter().collect();
    assert_eq!((ids.len(), sink.ids.len()), (12, 12), "{:#?}", sink.ids);
}

#[test]
fn of_what_is_over_little_is_remembered_and_pages_longest() {
    let mut sink = Willing::default();
    sink.hears(&lost(0..1), Sight::Clear);
    sink.hears(&holding(&[]), Sight::Clear);
    for number in 0..2 * OVER {
        let restart = alert(AlertKind::DeviceRebootExpected, &format!("ws-{number:03}"));
        sink.hears(&holding(&[restart]), Sight::Clear);
        sink.hears(&holding(&[]), Sight::Clear);
    }
    sink.hears(&holding(&[]), Sight::Clear);
    assert_eq!(sink.told.len(), OVER);
    assert!(sink.told.iter().any(|told| told.kind == AlertKind::DeviceDidNotReturn));
}
