use super::*;

fn window(spec: &str) -> WindowView {
    let spec = serde_yaml::from_str(spec).expect("the window reads");
    WindowView::new(&MaintenanceWindow::new("w", spec))
}

fn at(text: &str) -> Timestamp {
    text.parse().unwrap()
}

/// The next openings from an instant on, as the zone's own clock shows them.
fn openings(schedule: &str, duration: &str, name: &str, from: &str, count: usize) -> Vec<String> {
    let view = window(&format!(
        "{{type: Allow, schedule: {{{schedule}}}, duration: {duration}, timeZone: {name}}}"
    ));
    assert_eq!(view.problem(), None);
    let (mut now, mut all, clock) = (at(from), Vec::new(), zone(name).unwrap());
    for _ in 0..count {
        let Some(opening) = view.opening(None, now) else { break };
        let show = |instant: Timestamp| {
            let local = instant.to_zoned(clock.clone());
            format!("{}{}", local.strftime("%m-%d %H:%M"), local.offset())
        };
        all.push(format!("{} to {}", show(opening.open), show(opening.close)));
        now = opening.close;
    }
    all
}

/// What clocks do on the days they change, in both hemispheres, and where they change by half an hour.
#[test]
fn windows_on_the_days_on_which_clocks_change() {
    let daily = |time: &str| format!("cron: {time} * * *");
    for (schedule, duration, name, from, expected) in [
        // Berlin, forward: 02:30 does not exist, so it opens at the jump and lasts its two hours.
        (
            daily("30 2"),
            "2h",
            "Europe/Berlin",
            "2026-03-28T12:00:00Z",
            "03-29 03:00+02 to 03-29 05:00+02",
        ),
        // Berlin, back: 02:30 comes twice; the first one counts.
        (
            daily("30 2"),
            "2h",
            "Europe/Berlin",
            "2026-10-24T12:00:00Z",
            "10-25 02:30+02 to 10-25 03:30+01",
        ),
        // A window over the change lasts as long as ever.
        (
            daily("0 23"),
            "6h",
            "Europe/Berlin",
            "2026-03-28T12:00:00Z",
            "03-28 23:00+01 to 03-29 06:00+02",
        ),
        (
            daily("0 23"),
            "6h",
            "Europe/Berlin",
            "2026-10-24T12:00:00Z",
            "10-24 23:00+02 to 10-25 04:00+01",
        ),
        // Sydney, the other way round.
        (
            daily("30 2"),
            "1h",
            "Australia/Sydney",
            "2026-10-03T05:00:00Z",
            "10-04 03:00+11 to 10-04 04:00+11",
        ),
        (
            daily("30 2"),
            "1h",
            "Australia/Sydney",
            "2026-04-04T05:00:00Z",
            "04-05 02:30+11 to 04-05 02:30+10",
        ),
        // Lord Howe changes by half an hour.
        (
            daily("15 2"),
            "1h",
            "Australia/Lord_Howe",
            "2026-10-03T05:00:00Z",
            "10-04 02:30+11 to 10-04 03:30+11",
        ),
        (
            daily("45 1"),
            "1h",
            "Australia/Lord_Howe",
            "2026-04-04T05:00:00Z",
            "04-05 01:45+11 to 04-05 02:15+10:30",
        ),
        // Several times of day, one of which does not exist.
        (
            "cron: '0 2,14 * * *'".to_owned(),
            "2h",
            "Europe/Berlin",
            "2026-03-28T20:00:00Z",
            "03-29 03:00+02 to 03-29 05:00+02",
        ),
        (
            "cron: '0,30 2 * * *'".to_owned(),
            "10m",
            "Europe/Berlin",
            "2026-03-28T20:00:00Z",
            "03-29 03:00+02 to 03-29 03:10+02",
        ),
        // New York.
        (
            daily("30 2"),
            "2h",
            "America/New_York",
            "2026-03-07T12:00:00Z",
            "03-08 03:00-04 to 03-08 05:00-04",
        ),
        // The same times written as a rule of the month.
        (
            "monthly: {week: Last, day: Sunday, at: '02:30'}".to_owned(),
            "2h",
            "Europe/Berlin",
            "2026-03-01T00:00:00Z",
            "03-29 03:00+02 to 03-29 05:00+02",
        ),
        (
            "monthly: {week: Last, day: Sunday, at: '02:00'}".to_owned(),
            "2h",
            "Europe/Berlin",
            "2026-03-01T00:00:00Z",
            "03-29 03:00+02 to 03-29 05:00+02",
        ),
        (
            "monthly: {week: Last, day: Sunday, at: '02:30'}".to_owned(),
            "1h",
            "Europe/Berlin",
            "2026-10-01T00:00:00Z",
            "10-25 02:30+02 to 10-25 02:30+01",
        ),
        // Zones far from UTC: still the local Saturday.
        (
            "cron: 0 22 * * SAT".to_owned(),
            "2h",
            "Pacific/Kiritimati",
            "2026-11-20T12:00:00Z",
            "11-21 22:00+14 to 11-22 00:00+14",
        ),
        (
            "cron: 0 22 * * SAT".to_owned(),
            "2h",
            "Pacific/Pago_Pago",
            "2026-11-20T12:00:00Z",
            "11-21 22:00-11 to 11-22 00:00-11",
        ),
    ] {
        let told = openings(&schedule, duration, name, from, 1);
        assert_eq!(told, [expected], "{schedule} {duration} {name} {from}");
    }
}

#[test]
fn days_after_patch_tuesday_cross_months_and_years() {
    let rule = |days: u8| format!("patchTuesday: {{plusDays: {days}, at: '22:00'}}");
    // The second Tuesdays: 2026-11-10, 2026-12-08, 2027-01-12, 2027-02-09.
    assert_eq!(
        openings(&rule(0), "4h", "UTC", "2026-11-01T00:00:00Z", 3),
        [
            "11-10 22:00+00 to 11-11 02:00+00",
            "12-08 22:00+00 to 12-09 02:00+00",
            "01-12 22:00+00 to 01-13 02:00+00",
        ]
    );
    assert_eq!(
        openings(&rule(25), "4h", "UTC", "2026-12-05T00:00:00Z", 3),
        [
            "12-05 22:00+00 to 12-06 02:00+00",
            "01-02 22:00+00 to 01-03 02:00+00",
            "02-06 22:00+00 to 02-07 02:00+00",
        ]
    );
    // In the middle of the one that began last month.
    assert_eq!(
        openings(&rule(31), "4d", "UTC", "2026-12-12T00:00:00Z", 1),
        ["12-11 22:00+00 to 12-15 22:00+00"]
    );
}

/// November 2026 begins on a Sunday.
#[test]
fn the_nth_weekday_of_a_month_is_that_of_the_calendar() {
    for (week, day, expected) in [
        ("First", "Sunday", "11-01"),
        ("First", "Monday", "11-02"),
        ("Second", "Wednesday", "11-11"),
        ("Second", "Friday", "11-13"),
        ("Third", "Tuesday", "11-17"),
        ("Third", "Thursday", "11-19"),
        ("Fourth", "Saturday", "11-28"),
        ("Fourth", "Sunday", "11-22"),
        ("Last", "Sunday", "11-29"),
        ("Last", "Monday", "11-30"),
        ("Last", "Tuesday", "11-24"),
    ] {
        let rule = format!("monthly: {{week: {week}, day: {day}, at: '22:00'}}");
        let told = openings(&rule, "1h", "UTC", "2026-11-01T00:00:00Z", 1);
        let expected = format!("{expected} 22:00+00 to {expected} 23:00+00");
        assert_eq!(told, [expected], "{week} {day}");
    }
    let third = "monthly: {week: Third, day: Saturday, at: '22:00'}";
    assert_eq!(
        openings(third, "1h", "UTC", "2026-11-22T00:00:00Z", 3),
        [
            "12-19 22:00+00 to 12-19 23:00+00",
            "01-16 22:00+00 to 01-16 23:00+00",
            "02-20 22:00+00 to 02-20 23:00+00",
        ]
    );
}

#[test]
fn leap_days_and_fifth_weekdays_open_when_there_is_one_and_never_otherwise() {
    let leap = openings("cron: 0 22 29 2 *", "1h", "UTC", "2026-11-20T00:00:00Z", 1);
    assert_eq!(leap, ["02-29 22:00+00 to 02-29 23:00+00"]);
    let never = openings("cron: 0 22 30 2 *", "1h", "UTC", "2026-11-20T00:00:00Z", 1);
    assert_eq!(never, Vec::<String>::new());
    assert_eq!(
        openings(
            "monthly: {week: Last, day: Friday, at: '22:00'}",
            "1h",
            "UTC",
            "2027-02-01T00:00:00Z",
            1
        ),
        ["02-26 22:00+00 to 02-26 23:00+00"]
    );
}

#[test]
fn windows_that_touch_are_one_and_one_at_its_very_end_is_shut() {
    let view = window("{type: Allow, schedule: {cron: 0 * * * *}, duration: 1h, timeZone: UTC}");
    let opening = view.opening(None, at("2026-11-20T22:30:00Z")).unwrap();
    assert_eq!(opening.open, at("2026-11-20T22:00:00Z"));
    assert!(opening.close > at("2026-11-22T22:00:00Z"));
    let view = window("{type: Allow, schedule: {cron: 0 20 * * SAT}, duration: 4h, timeZone: UTC}");
    let opening = view.opening(None, at("2026-11-22T00:00:00Z")).unwrap();
    assert_eq!(opening.open, at("2026-11-28T20:00:00Z"), "the end itself is outside");
    let opening = view.opening(None, at("2026-11-21T23:59:59.999Z")).unwrap();
    assert_eq!(opening.open, at("2026-11-21T20:00:00Z"));
}

#[test]
fn what_cannot_be_read_is_said_in_a_sentence() {
    for (spec, told) in [
        ("schedule: {}, duration: 1h, timeZone: UTC", "exactly one of"),
        ("schedule: {cron: 0 22 * * *}, timeZone: UTC", "spec.duration is missing"),
        ("schedule: {cron: 0 22 * * *}, duration: 1h", "spec.timeZone is missing"),
        ("schedule: {cron: 0 22 * * *}, duration: 0s, timeZone: UTC", "more than 0s"),
        ("schedule: {cron: 0 22 * * *}, duration: 32d, timeZone: UTC", "at most 31d"),
        ("schedule: {cron: 0 22 * * *}, duration: 1h, timeZone: Mars/Base", "IANA"),
        ("schedule: {cron: 0 22 * *}, duration: 1h, timeZone: UTC", "five fields"),
        ("schedule: {cron: 0 0 22 * * *}, duration: 1h, timeZone: UTC", "five fields"),
        ("schedule: {cron: 0 22 8-14 * TUE}, duration: 1h, timeZone: UTC", "on either"),
        ("schedule: {cron: 61 22 * * *}, duration: 1h, timeZone: UTC", "61 22"),
        ("schedule: {cron: 0 22 * * *}, duration: 1h, startCutoff: 1h, timeZone: UTC", "shorter"),
        (
            "schedule: {once: {from: 2026-11-21T00:00:00Z, until: 2026-11-21T00:00:00Z}}",
            "later than",
        ),
        (
            "schedule: {once: {from: 2026-11-21T00:00:00Z, until: 2026-11-21T01:00:00Z}}, startCutoff: 1h",
            "shorter",
        ),
    ] {
        let view = window(&format!("{{type: Allow, {spec}}}"));
        let problem = view.problem().unwrap_or_default();
        assert!(problem.contains(told), "{spec}: {problem}");
        assert_eq!(view.opening(None, at("2026-11-20T00:00:00Z")), None);
    }
}

proptest::proptest! {
    /// Whoever looks at any instant before it opens sees the same opening, whoever looks while it is open
    /// too, and its very end is outside.
    #[test]
    fn an_opening_is_the_same_from_wherever_it_is_looked_at(
        schedule in proptest::sample::select(vec![
            "cron: 0 20 * * SAT", "cron: 30 2 * * *", "cron: 15 */6 * * *", "cron: 0 1 31 * *",
            "patchTuesday: {plusDays: 4, at: '22:00'}", "patchTuesday: {plusDays: 31, at: '02:30'}",
            "monthly: {week: Last, day: Sunday, at: '02:30'}",
        ]),
        duration in proptest::sample::select(vec!["7m", "4h", "5h59m"]),
        name in proptest::sample::select(vec![
            "UTC", "Europe/Berlin", "America/New_York", "Australia/Lord_Howe", "Asia/Kathmandu",
            "Pacific/Apia", "America/Sao_Paulo", "Africa/Casablanca",
        ]),
        second in 1_750_000_000_i64..1_900_000_000,
        share in 0.0..1.0_f64,
    ) {
        let view = window(&format!(
            "{{type: Allow, schedule: {{{schedule}}}, duration: {duration}, timeZone: {name}}}"
        ));
        let now = Timestamp::from_second(second).unwrap();
        let opening = view.opening(None, now).unwrap();
        proptest::prop_assert!(now < opening.close && opening.open < opening.close);
        let span = opening.close.duration_since(opening.open.min(now)).as_secs_f64() * share;
        let between = opening.open.min(now) + SignedDuration::from_secs_f64(span);
        let seen = view.opening(None, between).unwrap();
        proptest::prop_assert_eq!(seen, opening);
        let after = view.opening(None, opening.close).unwrap();
        proptest::prop_assert!(after.open >= opening.close);
    }
}
