//! Silence on virtual time.

use super::*;

const TIMEOUT: Duration = Duration::from_secs(600);

fn secs(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

fn device(number: usize) -> DeviceRef {
    ("acme".to_owned(), format!("ws-{number}"))
}

/// A gateway's side of a session.
struct Gateway {
    name: &'static str,
    session: u32,
    number: u64,
}

impl Gateway {
    fn new(name: &'static str) -> Gateway {
        Gateway { name, session: 0, number: 0 }
    }

    fn batch(&mut self, online: &[usize], offline: &[usize]) -> PresenceBatch {
        let batch = PresenceBatch {
            gateway: self.name.to_owned(),
            session: self.session.to_string(),
            number: self.number,
            complete: true,
            online: online.iter().map(|&n| (device(n).0, device(n).1, 7)).collect(),
            offline: offline.iter().map(|&n| device(n)).collect(),
        };
        self.number += 1;
        batch
    }

    fn say(&mut self, judge: &mut Judge, now: u64, online: &[usize], offline: &[usize]) {
        judge.take(self.batch(online, offline), secs(now)).unwrap();
    }

    fn reconnect(&mut self) {
        self.session += 1;
        self.number = 0;
    }
}

/// Lets time pass with heartbeats of `gateways`, one second a step.
fn pass(judge: &mut Judge, gateways: &mut [&mut Gateway], from: u64, until: u64) {
    for now in from..=until {
        for gateway in gateways.iter_mut() {
            gateway.say(judge, now, &[], &[]);
        }
        judge.tick(secs(now));
    }
}

fn contact(judge: &Judge, number: usize, now: u64) -> Contact {
    let (namespace, name) = device(number);
    judge.contact(&namespace, &name, secs(now))
}

fn offline(judge: &Judge, devices: std::ops::Range<usize>, now: u64) -> usize {
    let judged = |n| matches!(contact(judge, n, now), Contact::Offline { .. });
    devices.filter(|&n| judged(n)).count()
}

fn all(range: std::ops::Range<usize>) -> Vec<usize> {
    range.collect()
}

#[test]
fn a_device_is_offline_only_after_the_whole_timeout() {
    let (mut judge, mut gateway) = (Judge::new(TIMEOUT), Gateway::new("g1"));
    gateway.say(&mut judge, 0, &[1, 2], &[]);
    gateway.say(&mut judge, 10, &[], &[1]);
    pass(&mut judge, &mut [&mut gateway], 11, 609);
    assert_eq!(offline(&judge, 1..3, 609), 0);
    pass(&mut judge, &mut [&mut gateway], 610, 611);
    assert_eq!(contact(&judge, 1, 611), Contact::Offline { since: secs(10) });
    assert_eq!(contact(&judge, 2, 611), Contact::Online { since: secs(0) });
}

#[test]
fn a_device_that_returns_is_online_at_once_and_says_since_when() {
    let (mut judge, mut gateway) = (Judge::new(TIMEOUT), Gateway::new("g1"));
    gateway.say(&mut judge, 0, &[1], &[]);
    gateway.say(&mut judge, 1, &[], &[1]);
    pass(&mut judge, &mut [&mut gateway], 2, 700);
    judge.take_changes();
    gateway.say(&mut judge, 701, &[1], &[]);
    assert_eq!(contact(&judge, 1, 701), Contact::Online { since: secs(701) });
    assert!(judge.take_changes().contains("acme"));
}

#[test]
fn a_reboot_shorter_than_the_timeout_flips_nothing() {
    let (mut judge, mut gateway) = (Judge::new(TIMEOUT), Gateway::new("g1"));
    gateway.say(&mut judge, 0, &[1], &[]);
    judge.take_changes();
    gateway.say(&mut judge, 1, &[], &[1]);
    pass(&mut judge, &mut [&mut gateway], 2, 500);
    gateway.say(&mut judge, 501, &[1], &[]);
    assert_eq!(contact(&judge, 1, 501), Contact::Online { since: secs(0) });
    assert!(judge.take_changes().is_empty());
}

#[test]
fn with_all_gateways_gone_nobody_is_marked_offline() {
    let (mut judge, mut gateway) = (Judge::new(TIMEOUT), Gateway::new("g1"));
    gateway.say(&mut judge, 0, &all(0..10), &[]);
    pass(&mut judge, &mut [], 1, 5_000);
    assert_eq!(judge.gateways(), 0);
    assert_eq!(offline(&judge, 0..10, 5_000), 0);

    // The gateways return and the devices get the whole timeout to do so too.
    let mut gateway = Gateway::new("g2");
    gateway.say(&mut judge, 5_001, &[1], &[]);
    pass(&mut judge, &mut [&mut gateway], 5_002, 5_600);
    assert_eq!(offline(&judge, 0..10, 5_600), 0);
    pass(&mut judge, &mut [&mut gateway], 5_601, 5_602);
    assert_eq!(offline(&judge, 0..10, 5_602), 9);
}

#[test]
fn devices_of_a_dead_gateway_that_return_elsewhere_never_flip() {
    let mut judge = Judge::new(TIMEOUT);
    let (mut one, mut two) = (Gateway::new("g1"), Gateway::new("g2"));
    one.say(&mut judge, 0, &all(0..100), &[]);
    two.say(&mut judge, 0, &all(100..200), &[]);
    pass(&mut judge, &mut [&mut two], 1, 30);
    two.say(&mut judge, 31, &all(0..99), &[]);
    pass(&mut judge, &mut [&mut two], 32, 3_000);
    assert_eq!(offline(&judge, 0..99, 3_000), 0);
    assert_eq!(offline(&judge, 99..100, 3_000), 1, "the one that never came back is judged alone");
}

#[test]
fn mass_silence_of_idle_devices_is_our_own_fault() {
    let (mut judge, mut gateway) = (Judge::new(TIMEOUT), Gateway::new("g1"));
    gateway.say(&mut judge, 0, &all(0..1_000), &[]);
    for n in 0..20 {
        gateway.say(&mut judge, 100 + 2 * n as u64, &[], &[n]);
        judge.tick(secs(100 + 2 * n as u64));
    }
    pass(&mut judge, &mut [&mut gateway], 141, 5_000);
    assert_eq!(offline(&judge, 0..1_000, 5_000), 0);
}

#[test]
fn below_either_threshold_silence_is_the_devices_own() {
    // 19 of 500 are more than 2 %, but fewer than 20.
    let (mut judge, mut gateway) = (Judge::new(TIMEOUT), Gateway::new("g1"));
    gateway.say(&mut judge, 0, &all(0..500), &[]);
    gateway.say(&mut judge, 1, &[], &all(0..19));
    pass(&mut judge, &mut [&mut gateway], 2, 700);
    assert_eq!(offline(&judge, 0..500, 700), 19);

    // 20 of 1,001 are fewer than 2 %.
    let (mut judge, mut gateway) = (Judge::new(TIMEOUT), Gateway::new("g1"));
    gateway.say(&mut judge, 0, &all(0..1_001), &[]);
    gateway.say(&mut judge, 1, &[], &all(0..20));
    pass(&mut judge, &mut [&mut gateway], 2, 700);
    assert_eq!(offline(&judge, 0..1_001, 700), 20);
}

#[test]
fn slow_losses_are_not_mass_silence() {
    let (mut judge, mut gateway) = (Judge::new(TIMEOUT), Gateway::new("g1"));
    gateway.say(&mut judge, 0, &all(0..100), &[]);
    for n in 0..30 {
        let now = 10 + 4 * n as u64;
        gateway.say(&mut judge, now, &[], &[n]);
        judge.tick(secs(now));
    }
    pass(&mut judge, &mut [&mut gateway], 130, 900);
    assert_eq!(offline(&judge, 0..100, 900), 30);
}

#[test]
fn silence_of_devices_with_a_job_is_not_taken_for_our_fault() {
    let (mut judge, mut gateway) = (Judge::new(TIMEOUT), Gateway::new("g1"));
    gateway.say(&mut judge, 0, &all(0..100), &[]);
    judge.set_jobs("acme", (0..40).map(|n| device(n).1).collect());
    gateway.say(&mut judge, 1, &[], &all(0..40));
    pass(&mut judge, &mut [&mut gateway], 2, 700);
    assert_eq!(offline(&judge, 0..100, 700), 40);
}

#[test]
fn when_most_are_back_the_rest_is_judged_alone() {
    let (mut judge, mut gateway) = (Judge::new(TIMEOUT), Gateway::new("g1"));
    gateway.say(&mut judge, 0, &all(0..100), &[]);
    gateway.say(&mut judge, 1, &[], &all(0..50));
    pass(&mut judge, &mut [&mut gateway], 2, 1_000);
    gateway.say(&mut judge, 1_001, &all(0..47), &[]);
    pass(&mut judge, &mut [&mut gateway], 1_002, 1_500);
    assert_eq!(offline(&judge, 0..100, 1_500), 0);
    pass(&mut judge, &mut [&mut gateway], 1_501, 1_700);
    assert_eq!(offline(&judge, 0..100, 1_700), 3);
}

#[test]
fn a_reconnecting_gateway_loses_nobody_and_what_it_no_longer_holds_counts_as_gone() {
    let (mut judge, mut gateway) = (Judge::new(TIMEOUT), Gateway::new("g1"));
    gateway.say(&mut judge, 0, &[1, 2, 3], &[]);
    gateway.reconnect();
    let mut first = gateway.batch(&[1], &[]);
    first.complete = false;
    judge.take(first, secs(5)).unwrap();
    assert_eq!(judge.in_contact(), 3);
    gateway.say(&mut judge, 6, &[2], &[]);
    assert_eq!(judge.in_contact(), 2);
}

#[test]
fn a_batch_out_of_order_asks_for_a_new_session_and_changes_nothing() {
    let (mut judge, mut gateway) = (Judge::new(TIMEOUT), Gateway::new("g1"));
    gateway.say(&mut judge, 0, &[1], &[]);
    gateway.batch(&[2], &[]);
    let late = gateway.batch(&[], &[1]);
    assert_eq!(judge.take(late, secs(1)), Err(NewSessionNeeded));
    assert_eq!(judge.in_contact(), 1);
}

#[test]
fn a_device_nobody_mentions_is_unknown_until_gateways_had_time_to() {
    let (mut judge, mut gateway) = (Judge::new(TIMEOUT), Gateway::new("g1"));
    assert_eq!(contact(&judge, 9, 9_999), Contact::Unknown);
    gateway.say(&mut judge, 10_000, &[1], &[]);
    pass(&mut judge, &mut [&mut gateway], 10_001, 10_599);
    assert_eq!(contact(&judge, 9, 10_599), Contact::Unknown);
    pass(&mut judge, &mut [&mut gateway], 10_600, 10_600);
    assert_eq!(offline(&judge, 9..10, 10_600), 1);
}

#[test]
fn the_highest_sequence_only_grows() {
    let (mut judge, mut gateway) = (Judge::new(TIMEOUT), Gateway::new("g1"));
    let mut batch = gateway.batch(&[1], &[]);
    batch.online[0].2 = 41;
    judge.take(batch, secs(0)).unwrap();
    gateway.say(&mut judge, 1, &[1], &[]);
    assert!(judge.sequences("acme").contains(&41));
    assert!(judge.sequences("other").is_empty());
}

#[test]
fn the_ends_of_every_terms_numbers_are_kept_and_made_up_marks_are_bounded() {
    let (mut judge, mut gateway) = (Judge::new(TIMEOUT), Gateway::new("g1"));
    let mut present = |judge: &mut Judge, numbers: &mut dyn Iterator<Item = i64>| {
        let mut batch = gateway.batch(&[], &[]);
        batch.online = numbers.map(|number| (device(1).0, device(1).1, number)).collect();
        judge.take(batch, secs(0)).unwrap();
    };
    present(&mut judge, &mut [5_000_042, 3_000_042, 4_000_042, 4_000_007].into_iter());
    let mut known = judge.sequences("acme");
    known.sort_unstable();
    known.dedup();
    assert_eq!(known, [3_000_042, 4_000_007, 5_000_042]);
    assert!(judge.take_changes().contains("acme"));
    present(&mut judge, &mut [4_000_042].into_iter());
    assert!(!judge.has_changes(), "nothing that could tell of a restore");

    present(&mut judge, &mut (6_000_000..6_005_000));
    assert!(judge.sequences("acme").len() <= 2 * MARKS + 1);
    assert!(judge.sequences("acme").contains(&6_004_999), "the highest is never forgotten");
}

#[test]
fn nobody_is_heard_before_a_gateway_told_whom_it_sees() {
    let (mut judge, mut gateway) = (Judge::new(TIMEOUT), Gateway::new("g1"));
    assert_eq!(judge.hears_until(), None);
    let unfinished = PresenceBatch { complete: false, ..gateway.batch(&[1], &[]) };
    judge.take(unfinished, secs(5)).unwrap();
    assert_eq!(judge.hears_until(), None, "more of its set is to come");
    gateway.say(&mut judge, 6, &[2], &[]);
    assert_eq!(judge.hears_until(), Some(secs(6) + TIMEOUT));
}
