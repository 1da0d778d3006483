//! A month that does not go by the calendar: a fix that cannot wait takes the place of a running rollout,
//! and laptops that were away come back, in time and too late.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::Result;
use jiff::{SignedDuration, Timestamp};
use kube::{ResourceExt, api::ListParams};
use serde_json::json;
use tokio::time::timeout;
use wardring_api::{
    ApprovalPhase, GateState, JobState, LineState, MaintenanceWindow, PatchJob, PatchRollout,
    PatchRolloutStatus, PermitStep, RolloutPhase, StageState, Update, reasons::Reason,
};
use wardring_e2e::FleetFile;

use crate::support::{
    CONTROLLER, History, LONG, Place, Plan,
    history::{Change, Event},
    install,
    journal::{acts, count},
    manifests::{KB, PRODUCT, with},
    people::{phase, policies_in_force, request, write},
    place::{ROLLOUT, stage_of},
    rollout, shared, stage, world,
};

/// What Microsoft publishes out of band, and the build that it leads to.
const FIX: [&str; 2] = ["KB5070001", "20348.4501"];

#[tokio::test]
async fn a_fix_that_cannot_wait_takes_the_place_of_a_running_rollout_by_the_word_of_somebody_else()
-> Result<()> {
    let mut erp = world();
    // So slow that the fix meets it at work.
    erp["updates"][0]["installMs"] = json!(30_000);
    let fix = json!({ "kb": FIX[0], "targetBuild": FIX[1], "installMs": 200 });
    erp["updates"].as_array_mut().unwrap().push(fix);
    let plan = Plan::default().group("erp", 3, &erp);
    let installation = shared().await?;
    let (place, fleet) = Place::open(installation, "irregular", &plan).await?;
    place
        .create::<Update>(json!({
            "metadata": { "name": "kb5070001-windows-server-2022" },
            "spec": {
                "kb": FIX[0], "title": "2026-11 Out-of-band Update", "product": PRODUCT,
                "kind": "Quality", "release": "2026-11", "targetBuild": FIX[1],
            },
        }))
        .await?;
    let opens = Timestamp::now() + SignedDuration::from_hours(30 * 24);
    place
        .create::<MaintenanceWindow>(json!({
            "metadata": { "name": "next-month" },
            "spec": {
                "type": "Allow",
                "schedule": { "once": { "from": opens, "until": opens + SignedDuration::from_hours(4) } },
            },
        }))
        .await?;
    policies_in_force(&place).await?;
    let mut history = History::begin(&place.client, &place.namespace).await;
    let one = with(stage("erp"), json!({ "maxConcurrency": 1 }));
    place.create::<PatchRollout>(rollout(&[one], json!({}))).await?;
    timeout(LONG, history.next(|change| begun(change, ROLLOUT).is_some())).await?;

    // The fix waits for somebody's word, and until then the older rollout goes on.
    let gates = json!({ "before": [{ "name": "on-call", "type": "Approval", "approval": {} }] });
    let held = json!({ "soak": "1h", "windows": ["next-month"], "gates": gates });
    let haste = json!({
        "authors": ["alice"],
        "updates": { "kbs": [FIX[0]] },
        "supersedes": ROLLOUT,
        "expedite": { "reason": "it is exploited", "skipSoak": true, "ignoreWindows": true },
        // Whoever installed the old update restarts under the newer rollout.
        "preflight": { "pendingReboot": "RebootFirst" },
    });
    let mut object = rollout(&[with(stage("erp"), held)], haste);
    object["metadata"]["name"] = json!("fix");
    let mut unasked = object.clone();
    unasked["spec"].as_object_mut().expect("a spec").remove("expedite");
    unasked["spec"]["stages"][0].as_object_mut().expect("a stage").remove("gates");
    let refusal = write(installation, &place, unasked).await.unwrap_err();
    assert!(format!("{refusal:#}").contains("a second person has to agree"), "{refusal:#}");
    write(installation, &place, object).await?;
    let asked = request(&place, "fix", "erp", "").await?;
    let tenant = installation.tenant_in(&place.namespace);
    let word =
        |user| ["--as", user, "approve", "fix", "--reason", "INC-4711", "--hash", &asked.hash];
    let refusal = tenant.plugin(&word("alice")).await.unwrap_err();
    assert!(format!("{refusal:#}").contains("may not approve it"), "{refusal:#}");
    let look = ["--as", "bob", "approve", "fix", "--reason", "INC-4711", "--dry-run"];
    let shown = tenant.plugin(&look).await?;
    let haste = "EXPEDITED: the stage does not wait for its `soak` and does not wait for windows";
    let place_of = format!("ENDS ROLLOUT {ROLLOUT}: once the stage opens");
    for part in [haste, "Reason: it is exploited", place_of.as_str(), "3 devices", FIX[0]] {
        assert!(shown.contains(part), "no {part} in {shown}");
    }
    let older = place.api::<PatchRollout>().get(ROLLOUT).await?.status.unwrap_or_default();
    assert_eq!((older.halted, older.aborted), (None, None));

    tenant.plugin(&word("bob")).await?;
    let done = |rollout: &PatchRollout| {
        rollout.status.as_ref().and_then(|status| status.phase) == Some(RolloutPhase::Completed)
    };
    // Outside of its window, which opens in a month, and without its soak of an hour.
    place.until::<PatchRollout>(2 * LONG, "fix", "to be completed", done).await?;
    let why = phase(&place, &asked.request, ApprovalPhase::Used).await?;
    let said =
        format!("bob approved it (gate on-call), and that rollout {ROLLOUT} ends for it: INC-4711");
    assert!(why.contains(&said), "{why}");
    let kept = place.api::<PatchRollout>().get("fix").await?.status.and_then(|all| all.takeover);
    let kept = kept.expect("whose place it took");
    assert_eq!((&*kept.rollout, &*kept.approvals[0].approval), (ROLLOUT, &*asked.request));
    place.until_builds(|builds| builds.values().all(|build| build == FIX[1])).await?;

    // The older one ended, at a moment in which nothing of it was at work.
    let status = place.until_phase(RolloutPhase::Aborted).await?;
    let ended = status.aborted.expect("it is over");
    assert_eq!(ended.reason, Reason::SupersededByRollout.as_str());
    assert_eq!(ended.message, "Rollout fix took its place, as bob approved.");
    let lines = place.lines().await?;
    assert!(lines.values().all(|line| line.state != LineState::Granted), "{lines:?}");
    let jobs = place.api::<PatchJob>().list(&ListParams::default()).await?.items;
    assert!(jobs.is_empty(), "{:?}", jobs.iter().map(ResourceExt::name_any).collect::<Vec<_>>());

    // Who had begun with the old update when the fix opened ended it; nobody began with it afterwards.
    let events = history.events();
    let first = |is_it: &dyn Fn(&PatchRolloutStatus) -> bool| {
        let mut stored = events.iter().map(|event| match &event.change {
            Change::Rollout(all) if all.name_any() == ROLLOUT => all.status.as_ref(),
            _ => None,
        });
        stored.position(|status| status.is_some_and(is_it)).expect("it was halted and ended")
    };
    let (halt, end) = (first(&|all| all.halted.is_some()), first(&|all| all.aborted.is_some()));
    assert_eq!(at_work(&events[..end]), Vec::<String>::new(), "quiet when it ended");
    let began = |events: &[Event], rollout| -> BTreeSet<String> {
        events.iter().filter_map(|event| begun(&event.change, rollout)).collect()
    };
    assert_eq!(began(&events[..halt], "fix"), BTreeSet::new());
    let old = began(&events[..halt], ROLLOUT);
    assert!((1..3).contains(&old.len()), "the machine is too slow for this test: {old:?}");
    for device in plan.names("erp") {
        let installs = acts(&fleet, &device)?.into_iter().filter(|act| act["event"] == "install");
        let kbs: Vec<_> = installs.map(|act| act["kb"].clone()).collect();
        let had_begun = old.contains(&device);
        let expected = if had_begun { vec![KB, FIX[0]] } else { vec![FIX[0]] };
        assert_eq!(kbs, expected, "{device}");
    }
    Ok(())
}

/// Devices that install or restart for the older rollout, by the last versions of their jobs.
fn at_work(events: &[Event]) -> Vec<String> {
    let mut jobs: BTreeMap<String, &PatchJob> = BTreeMap::new();
    for event in events {
        match &event.change {
            Change::Job(job) => drop(jobs.insert(job.name_any(), job)),
            Change::JobGone(name) => drop(jobs.remove(name)),
            _ => {}
        }
    }
    let is_at_work = |job: &&PatchJob| {
        job.spec.rollout == ROLLOUT
            && job.status.as_ref().is_some_and(|status| {
                let waits = status.state == Some(JobState::AwaitingReboot);
                !status.permitted.is_empty() && status.outcome.is_none() && !waits
            })
    };
    jobs.into_values().filter(is_at_work).map(ResourceExt::name_any).collect()
}

/// The device that may install, if this is its job of that rollout.
fn begun(change: &Change, rollout: &str) -> Option<String> {
    let Change::Job(job) = change else { return None };
    let permits = job.status.iter().flat_map(|status| &status.permitted);
    let installs = permits.filter(|permit| permit.step == PermitStep::Install).count();
    (job.spec.rollout == rollout && installs > 0).then(|| job.name_any())
}

#[tokio::test]
async fn a_laptop_that_comes_late_is_patched_in_the_tail_under_its_gate_and_one_too_late_is_not()
-> Result<()> {
    let flags = [&CONTROLLER[..], &["--offline-after", "10s"]].concat();
    let installation = install("latecomers", &flags).await?;
    let (tenant, place) = Place::prepare(&installation, "latecomers").await?;
    let laptops = place.group(&tenant, "laptops", 4).await?;
    let servers = place.group(&tenant, "servers", 1).await?;
    let mut slow = world();
    slow["updates"][0]["installMs"] = json!(20_000);
    let fleet = |devices: &[&str]| {
        let mut file = FleetFile::default();
        file.world("quick", world());
        file.world("slow", slow.clone());
        for device in devices {
            let is_server = device.starts_with("server");
            let (world, token) = if is_server { ("slow", &servers) } else { ("quick", &laptops) };
            file.device(device, world, token);
        }
        file
    };
    let office = fleet(&["laptop-1", "laptop-2", "server-1"]);
    let office = tenant.named_fleet("office", &office).await?;
    let mut train = tenant.named_fleet("train", &fleet(&["laptop-3"])).await?;
    let mut drawer = tenant.named_fleet("drawer", &fleet(&["laptop-4"])).await?;
    for device in ["laptop-1", "laptop-2", "server-1", "laptop-3", "laptop-4"] {
        place.until_heard(LONG, device).await?;
    }
    train.process.kill()?;
    drawer.process.kill()?;
    for device in ["laptop-3", "laptop-4"] {
        place.until_away(LONG, device).await?;
    }
    let history = History::begin(&place.client, &place.namespace).await;

    // Nobody of the tail begins while anything of another stage is at work.
    let gate = json!({
        "name": "servers-first", "type": "Cel", "interval": "5s",
        "cel": { "expression": "rollout.inProgress - stage.inProgress" },
        "successCondition": "result == 0",
    });
    let offline = json!({ "action": "CatchUp", "after": "1s", "closeAfter": "75s" });
    let first = with(
        stage("laptops"),
        json!({ "minCoverage": "50%", "offline": offline, "gates": { "during": [gate] } }),
    );
    place.create::<PatchRollout>(rollout(&[first, stage("servers")], json!({}))).await?;
    let status = place
        .until_status(LONG, "to go on without who is late, and to hold the tail", |status| {
            let laptops = stage_of(status, "laptops");
            laptops.state == StageState::Tail && laptops.gates[0].state == GateState::Failed
        })
        .await?;
    let counts = stage_of(&status, "laptops").counts;
    assert_eq!((counts.succeeded, counts.pending), (2, 2), "{counts:?}");

    // Back in time.
    train.restart(&installation.gateway_urls()).await?;
    place
        .until_lines("the late laptop to be proven", |lines| {
            lines.get("laptop-3").is_some_and(|line| line.state == LineState::Succeeded)
        })
        .await?;
    let events = history.events();
    let first_of = |wanted: &dyn Fn(&PatchJob) -> bool| {
        let is_it = |change: &Change| matches!(change, Change::Job(job) if wanted(job));
        events.iter().position(|event| is_it(&event.change))
    };
    let permitted = first_of(&|job| {
        let status = job.status.as_ref();
        job.name_any() == "laptop-3" && status.is_some_and(|all| !all.permitted.is_empty())
    });
    let served = first_of(&|job| {
        let status = job.status.as_ref();
        job.name_any() == "server-1" && status.is_some_and(|all| all.outcome.is_some())
    });
    assert!(served.is_some() && served < permitted, "{served:?} {permitted:?}");

    // Back too late.
    let status = place.until_phase(RolloutPhase::Completed).await?;
    let tail = stage_of(&status, "laptops").tail.expect("it had one");
    assert!(tail.closed_at.is_some_and(|closed| closed >= tail.closes_at), "{tail:?}");
    drawer.restart(&installation.gateway_urls()).await?;
    place.until_heard(LONG, "laptop-4").await?;
    let said = tenant.plugin(&["explain", "device", "laptop-4"]).await?;
    assert!(said.contains("the stage's tail closed before the device could begin"), "{said}");
    let counts = stage_of(&status, "laptops").counts;
    assert_eq!((counts.succeeded, counts.deferred), (3, 1), "{counts:?}");
    assert_eq!(acts(&drawer, "laptop-4")?, Vec::<serde_json::Value>::new());
    for (fleet, device) in [(&office, "laptop-1"), (&office, "server-1"), (&train, "laptop-3")] {
        assert_eq!(count(fleet, device, "install")?, 1, "{device}");
    }
    Ok(())
}
