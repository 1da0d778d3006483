//! A captured gateway. What it may not touch by its rights is shown in `gateway/tests` and
//! `controller/tests`; here is what it can send and write, and that it comes to nothing.

use std::collections::BTreeMap;

use anyhow::{Context, Result};
use jiff::Timestamp;
use kube::{
    Api, ResourceExt,
    api::{ListParams, Patch, PatchParams},
};
use serde_json::{Value, json};
use wardring_api::{
    Device, LineState, PatchJob, PatchRollout, RolloutPhase, StageState, UpdateHold,
    reasons::Reason,
};
use wardring_e2e::Fleet;
use wardring_harness::wait_until_ok;
use wardring_protocol::Sealed;
use wardring_seal::{
    Action, Authority, DeviceKey, JobKey, JobPayload, OutcomePayload, OutcomeResult,
};

use crate::support::{
    History, LONG, Place, Plan,
    history::Change,
    impostor::Impostor,
    journal::{acts, count, touched},
    manifests::{BUILDS, PRODUCT, with},
    place::stage_of,
    rollout, shared, stage, world,
};

/// An update that every device is offered and that no rollout asks for.
const OTHER_KB: &str = "KB5999999";

#[tokio::test]
async fn agents_install_nothing_that_was_not_sealed_for_them() -> Result<()> {
    let mut tempting = world();
    let other = json!({ "kb": OTHER_KB, "installMs": 100 });
    tempting["updates"].as_array_mut().unwrap().push(other);
    let plan = Plan::default().group("test", 2, &tempting);
    let installation = shared().await?;
    let (place, mut fleet) = Place::open(installation, "impostor", &plan).await?;
    let impostor = Impostor::start(installation).await?;
    let jobs = granted(&place, &fleet, "test", 2).await?;
    let [(first, first_job), (second, second_job)] = jobs.iter().collect::<Vec<_>>()[..] else {
        panic!("{jobs:?}")
    };

    for (device, own, others) in [(first, first_job, second_job), (second, second_job, first_job)] {
        impostor.hand_out(device, forgeries(own, others)?);
    }
    // Where nobody but the impostor answers, and permits everything.
    fleet.restart(std::slice::from_ref(&impostor.url)).await?;
    impostor.until_all_judged(LONG).await?;

    assert_eq!(touched(&fleet, [first, second])?, Vec::<String>::new());

    // What it can do: start a job that was sealed for the device, within its time. Once.
    for (device, job) in &jobs {
        impostor.hand_out(device, [job.clone(), job.clone()]);
    }
    until_installed(&fleet, &jobs).await?;
    impostor.until_all_judged(LONG).await?;
    for device in jobs.keys() {
        let acts = acts(&fleet, device)?;
        assert_eq!(count(&fleet, device, "install")?, 1, "{acts:?}");
        assert!(!acts.iter().any(|act| act["kb"] == OTHER_KB), "{acts:?}");
    }
    Ok(())
}

/// Jobs that a gateway can make of what it sees.
fn forgeries(own: &Sealed, others: &Sealed) -> Result<Vec<Sealed>> {
    let mut payload: JobPayload = serde_json::from_str(&own.payload)?;
    OTHER_KB.clone_into(&mut payload.updates[0].kb);
    payload.sequence += 1_000;
    payload.key.attempt += 1;
    let altered = Sealed { payload: serde_json::to_string(&payload)?, ..own.clone() };
    let now = Timestamp::now();
    let foreign = Authority::create(now)?.issue_job_signer(now)?.seal(&payload)?;
    let borrowed = Sealed {
        certificate: own.certificate.clone(),
        key_id: own.key_id.clone(),
        ..foreign.clone()
    };
    let stripped = Sealed { signature: String::new(), ..own.clone() };
    Ok(vec![altered, foreign, borrowed, stripped, others.clone()])
}

async fn until_installed(fleet: &Fleet, jobs: &BTreeMap<String, Sealed>) -> Result<()> {
    wait_until_ok(LONG, "the sealed jobs to be carried out", async || {
        for device in jobs.keys() {
            let acts = acts(fleet, device).map_err(|error| format!("{error:#}"))?;
            if !acts.iter().any(|act| act["event"] == "boot") {
                return Err(format!("{device}: {acts:?}"));
            }
        }
        Ok(())
    })
    .await
}

/// Starts a rollout while the agents stand still, and returns the sealed jobs of a stage.
async fn granted(
    place: &Place,
    fleet: &Fleet,
    stage_name: &str,
    devices: usize,
) -> Result<BTreeMap<String, Sealed>> {
    fleet.process.freeze()?;
    place.create::<PatchRollout>(rollout(&[stage(stage_name)], json!({}))).await?;
    let jobs = until_jobs(place, devices).await?;
    jobs.iter()
        .map(|job| {
            let sealed = serde_json::from_value(json!(job.spec.sealed))?;
            Ok((job.name_any(), sealed))
        })
        .collect()
}

async fn until_jobs(place: &Place, devices: usize) -> Result<Vec<PatchJob>> {
    let api = place.api::<PatchJob>();
    wait_until_ok(LONG, "the devices to be granted", async || {
        let jobs = api.list(&ListParams::default()).await.map_err(|error| error.to_string())?.items;
        if jobs.len() == devices { Ok(jobs) } else { Err(format!("{} jobs", jobs.len())) }
    })
    .await
}

#[tokio::test]
async fn outcomes_that_a_gateway_copies_alters_or_takes_from_another_device_prove_nothing()
-> Result<()> {
    let plan = Plan::default().group("test", 3, &world()).group("production", 1, &world());
    let installation = shared().await?;
    let (place, fleet) = Place::open(installation, "faked", &plan).await?;
    let impostor = Impostor::start(installation).await?;
    let history = History::begin(&place.client, &place.namespace).await;
    // A month that went well, of which the impostor kept every outcome.
    let wide = with(stage("test"), json!({ "maxConcurrency": 3 }));
    let mut october = rollout(std::slice::from_ref(&wide), json!({}));
    october["metadata"]["name"] = json!("october");
    place.create::<PatchRollout>(october).await?;
    place
        .until::<PatchRollout>(LONG, "october", "to complete", |rollout| {
            let phase = rollout.status.as_ref().and_then(|status| status.phase);
            phase == Some(RolloutPhase::Completed)
        })
        .await?;
    let old = outcomes(&history);
    fleet.process.freeze()?;
    let first = with(wide, json!({ "deviceDeadline": "10s" }));
    place.create::<PatchRollout>(rollout(&[first, stage("production")], json!({}))).await?;
    let jobs = until_jobs(&place, 3).await?;

    let api: Api<PatchJob> = Api::namespaced(impostor.client.clone(), &place.namespace);
    for job in &jobs {
        let name = job.name_any();
        let copied = old[&name].clone();
        let forged = match &*name {
            "test-1" => copied,
            "test-2" => {
                let mut altered = copied;
                altered["payload"] = json!(serde_json::to_string(&success(&place, job)?)?);
                altered
            }
            _ => {
                // A captured device lends its key.
                let (key, certificate) = stolen(&fleet, "test-1")?;
                json!(key.sign_outcome(&success(&place, job)?, &certificate)?)
            }
        };
        let lie = json!({ "status": {
            "outcome": forged,
            "state": "Done",
            "attempt": 1,
            "permitted": [{
                "step": "Install", "at": Timestamp::now(), "attempt": 1, "bootId": "b",
                "agentRun": "r",
            }],
        } });
        api.patch_status(&name, &PatchParams::default(), &Patch::Merge(lie)).await?;
    }
    let status = place.until_phase(RolloutPhase::Halted).await?;

    // The first of them halted it; the others may end a pass later.
    wait_until_ok(LONG, "every device of the stage to end", async || {
        let lines = place.lines().await.map_err(|error| error.to_string())?;
        let has_ended = |state| matches!(state, LineState::Failed | LineState::Unreachable);
        let open = lines.values().find(|line| !has_ended(line.state));
        open.map_or(Ok(()), |line| Err(line.to_string()))
    })
    .await?;
    assert_eq!(stage_of(&status, "test").counts.succeeded, 0);
    assert_eq!(stage_of(&status, "production").state, StageState::Pending);
    assert!(place.api::<UpdateHold>().list(&ListParams::default()).await?.items.is_empty());
    Ok(())
}

/// The outcomes that jobs carried, by device.
fn outcomes(history: &History) -> BTreeMap<String, Value> {
    let jobs = history.events().into_iter().filter_map(|event| match event.change {
        Change::Job(job) => Some(*job),
        _ => None,
    });
    jobs.filter_map(|job| {
        let outcome = job.status.as_ref()?.outcome.as_ref()?;
        Some((job.name_any(), json!(outcome)))
    })
    .collect()
}

/// The outcome that the controller would count for this job, if the device had signed it.
fn success(place: &Place, job: &PatchJob) -> Result<OutcomePayload> {
    let key = JobKey {
        rollout_uid: job.spec.rollout_uid.clone(),
        device_id: job.spec.enrolment_id.clone(),
        attempt: job.spec.attempt,
        action: Action::Install,
    };
    serde_json::from_value(json!({
        "version": 1, "key": key, "sequence": job.spec.sequence, "namespace": place.namespace,
        "device": job.name_any(), "result": OutcomeResult::Succeeded, "message": "fine",
        "bootId": "b2", "installedInBoot": "b1", "rebootRequired": true, "started": true,
        "build": BUILDS[1], "reboots": 1, "at": Timestamp::now(),
    }))
    .context("the payload is complete")
}

/// Key and certificate of a device, from its identity file.
fn stolen(fleet: &Fleet, device: &str) -> Result<(DeviceKey, Vec<u8>)> {
    use base64::{Engine, engine::general_purpose::STANDARD};
    let file = fleet.data.join(device).join("identity.json");
    let identity: Value = serde_json::from_slice(&std::fs::read(file)?)?;
    let text = |field: &str| identity[field].as_str().context("the identity is complete");
    Ok((DeviceKey::from_pem(text("key")?)?, STANDARD.decode(text("certificate")?)?))
}

#[tokio::test]
async fn inventory_that_a_gateway_makes_up_opens_no_stage() -> Result<()> {
    let plan = Plan::default().group("test", 2, &world()).group("production", 1, &world());
    let installation = shared().await?;
    let (place, fleet) = Place::open(installation, "inventory", &plan).await?;
    let impostor = Impostor::start(installation).await?;
    fleet.process.freeze()?;
    let api: Api<Device> = Api::namespaced(impostor.client.clone(), &place.namespace);
    // The one has it all already, and the other is something that nothing is for.
    let lies = [
        ("test-1", json!({ "os": { "product": PRODUCT, "build": BUILDS[1] }, "missing": [] })),
        ("test-2", json!({ "os": { "product": "Windows NT 4.0", "build": "1381.1" } })),
    ];
    for (device, status) in lies {
        let lie = Patch::Merge(json!({ "status": status }));
        api.patch_status(device, &PatchParams::default(), &lie).await?;
    }

    let first = with(stage("test"), json!({ "startWithin": "3s" }));
    place.create::<PatchRollout>(rollout(&[first, stage("production")], json!({}))).await?;
    // The one that looks compliant is asked all the same: only its own answer counts.
    let asked = until_jobs(&place, 1).await?;
    assert_eq!(asked[0].name_any(), "test-1");
    let status = place
        .until_status(LONG, "to wait for the one and to leave out the other", |status| {
            let counts = stage_of(status, "test").counts;
            counts.not_applicable == 1
                && status.waiting_for.iter().any(|on| on.reason == Reason::Backoff.as_str())
        })
        .await?;

    assert_eq!(stage_of(&status, "test").counts.succeeded, 0);
    assert_eq!(stage_of(&status, "production").state, StageState::Pending);
    assert_eq!(touched(&fleet, &plan.names("production"))?, Vec::<String>::new());
    Ok(())
}
