//! What keeps a stage or a whole namespace from going on: gates that hold, and EmergencyStops.

use std::sync::Arc;

use jiff::{SignedDuration, Timestamp};
use wardring_api::{AlertKind, EmergencyStopSpec};
use wardring_planner::{
    Alert, Alerts, Ended, Evidence, MessageState, Sight, Telling, Told, ToldState, alerts, to_tell,
};

use super::{
    of_kind,
    support::{self, SERVER, World, agent::Script},
    told, world,
};

#[test]
fn a_stage_that_a_gate_holds_is_told_of_once_and_over_when_the_gate_passes_or_halts() {
    for (action, state) in [("Hold", "Enforce"), ("Hold", "DryRun"), ("Halt", "Enforce")] {
        let mut world = world(2, Script::Good);
        world.meters.insert("errors".to_owned(), support::Meter::Value(0.0));
        let gate = format!(
            "[{{name: errors, type: Prometheus, interval: 1m, successCondition: result < 1.0, \
             onFailure: {action}, mode: {state}, prometheus: {{provider: prom, query: errors}}}}]"
        );
        world.edit("november", |spec| {
            spec.stages[0].soak = Some("2h".parse().unwrap());
            spec.stages[0].gates.during = serde_yaml::from_str(&gate).unwrap();
        });
        for _ in 0..40 {
            world.minute(|_| {});
        }
        let held = |world: &World| of_kind(&told(world).active, AlertKind::StageHeld);
        assert!(held(&world).is_empty());
        world.meters.insert("errors".to_owned(), support::Meter::Value(9.0));
        for _ in 0..5 {
            world.minute(|_| {});
        }
        let first = held(&world);
        if (action, state) != ("Hold", "Enforce") {
            assert!(first.is_empty(), "{first:?}");
            continue;
        }
        assert_eq!(first.len(), 1);
        let expected = "Rollout november is held — Stage test: gate errors failed: 9, at ";
        assert!(first[0].summary.starts_with(expected), "{}", first[0].summary);
        world.minute(|_| {});
        assert_eq!(held(&world)[0].since, first[0].since, "one alert however often it is measured");

        world.meters.insert("errors".to_owned(), support::Meter::Value(0.0));
        for _ in 0..5 {
            world.minute(|_| {});
        }
        assert!(held(&world).is_empty());

        world.meters.remove("errors");
        for _ in 0..30 {
            world.minute(|_| {});
        }
        let blind = held(&world).remove(0);
        assert!(blind.summary.contains("cannot be measured"), "{}", blind.summary);
    }
}

/// Orders a stop, from the YAML of its spec.
fn order(world: &mut World, name: &str, spec: &str) {
    let spec: EmergencyStopSpec = serde_yaml::from_str(spec).unwrap();
    world.stops.insert(name.to_owned(), spec);
    world.settle();
}

/// What there is to tell, where every stop was made at `made`.
fn under(world: &World, made: Timestamp) -> Alerts {
    let mut snapshot = world.snapshot();
    for stop in &mut snapshot.stops {
        Arc::make_mut(stop).since = Some(made);
    }
    alerts(&snapshot)
}

fn stops(alerts: &Alerts) -> Vec<Alert> {
    of_kind(&alerts.active, AlertKind::EmergencyStop)
}

/// A pass at `now` tells a sink.
fn telling(alerts: &Alerts, known: &mut Vec<Told>, lifted: bool, made: Timestamp) -> Telling {
    let evidence = Evidence { stopped_since: (!lifted).then_some(made), ..Evidence::default() };
    let kinds = [AlertKind::EmergencyStop];
    let ended = |entry: &Told| evidence.of(entry);
    let telling = to_tell(alerts, known, &kinds, Sight::Clear, made, made, &ended);
    for message in &telling.messages {
        known.retain(|entry| *entry != message.told);
        let state = match message.state {
            MessageState::Resolved(_) => ToldState::Over,
            _ => ToldState::Firing,
        };
        known.push(Told { state, ..message.told.clone() });
    }
    telling
}

#[test]
fn an_emergency_stop_is_told_once_with_who_is_mid_flight_and_once_when_it_is_lifted() {
    let mut world = world(2, Script::Good);
    // In the group, and with nothing to do.
    world.device("test-3", "test", SERVER);
    while world.jobs.values().filter(|job| job.may_have_begun()).count() < 2 {
        world.minute(|_| {});
    }
    let (made, mut known) = (world.now, Vec::new());
    assert!(stops(&under(&world, made)).is_empty());
    order(&mut world, "erp-down", "{reason: the ERP does not answer}");

    let first = telling(&under(&world, made), &mut known, false, made);
    let [one] = &first.messages[..] else { panic!("{first:#?}") };
    assert_eq!((one.state, one.alert.stage.as_str()), (MessageState::Firing, "erp-down"));
    let begin = "EmergencyStop erp-down is in Force — the ERP does not answer (nothing that it \
                 matches begins; mid-flight: 2 devices: test-1 ";
    assert!(one.alert.summary.starts_with(begin), "{}", one.alert.summary);
    assert!(one.alert.summary.contains(", test-2 "), "{}", one.alert.summary);
    assert!(!one.alert.summary.contains("test-3"), "{}", one.alert.summary);
    assert_eq!(one.alert.devices, 2);

    // They end their step and wait for the lift: nobody is told again, the sentence follows.
    for _ in 0..30 {
        world.minute(|_| {});
        let again = telling(&under(&world, made), &mut known, false, made);
        assert!(again.messages.is_empty(), "{again:#?}");
        assert_eq!(again.holding.len(), 1);
    }
    let held = stops(&under(&world, made)).remove(0);
    assert!(held.summary.contains("test-1 awaiting reboot, test-2 awaiting reboot"), "{held:?}");

    world.stops.clear();
    world.settle();
    let over = telling(&under(&world, made), &mut known, true, made);
    let [one] = &over.messages[..] else { panic!("{over:#?}") };
    assert_eq!(one.state, MessageState::Resolved(Ended::Over));
    assert_eq!(one.alert.summary, "EmergencyStop erp-down is no longer in Force — it was lifted");
    assert_eq!(telling(&under(&world, made), &mut known, true, made), Telling::default());

    // The same name again is another stop, and nobody takes it for the first one.
    order(&mut world, "erp-down", "{reason: again}");
    let later = made + SignedDuration::from_hours(1);
    let anew = telling(&under(&world, later), &mut known, false, later);
    assert_eq!(anew.messages.len(), 1, "{anew:#?}");
    assert_ne!(anew.messages[0].told.since, first.messages[0].told.since);
}

#[test]
fn a_stop_made_anew_under_its_name_between_two_looks_ends_the_first_and_begins_the_second() {
    let mut world = world(1, Script::Good);
    order(&mut world, "erp-down", "{reason: r}");
    let (made, mut known) = (world.now, Vec::new());
    telling(&under(&world, made), &mut known, false, made);
    let later = made + SignedDuration::from_mins(1);
    let both = telling(&under(&world, later), &mut known, false, later);
    let states: Vec<MessageState> = both.messages.iter().map(|message| message.state).collect();
    assert_eq!(states, [MessageState::Firing, MessageState::Resolved(Ended::Over)]);
    assert!(both.messages[1].alert.summary.ends_with("it was lifted"), "{both:#?}");
}

#[test]
fn a_stop_of_some_is_told_where_it_matches_and_names_nobody_whom_it_lets_go_on() {
    let mut world = world(2, Script::Good);
    while world.jobs.values().filter(|job| job.may_have_begun()).count() < 2 {
        world.minute(|_| {});
    }
    let made = world.now;
    order(&mut world, "elsewhere", "{reason: r, selector: {matchLabels: {ward: '3'}}}");
    assert!(stops(&under(&world, made)).is_empty(), "no device here has that label");
    world.stops.clear();
    order(&mut world, "one", "{reason: r, kbs: [KB5000001]}");
    let told = stops(&under(&world, made)).remove(0);
    let whole = "EmergencyStop one of KB5000001 is in Force — r (nothing that it matches begins; \
                 nobody is mid-flight)";
    assert_eq!((told.summary.as_str(), told.kbs[0].as_str()), (whole, "KB5000001"));
    world.stops.clear();
    order(&mut world, "long", &format!("{{reason: {}}}", "x".repeat(500)));
    let told = stops(&under(&world, made)).remove(0);
    assert!(told.summary.contains("2 devices: test-1 "), "whatever is said first: {told:?}");
}
