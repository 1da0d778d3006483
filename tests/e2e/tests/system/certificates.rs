//! Devices whose identity is not what it was. Every status that a gateway answers to bad
//! certificates and messages is shown in `gateway/tests`, every refusal of the signer in
//! `controller/tests`; here is what becomes of the run.

use std::{collections::BTreeMap, path::Path};

use anyhow::Result;
use serde_json::json;
use tokio::time::timeout;
use wardring_api::{
    Device, LineState, PatchRollout, PermitStep, RolloutPhase, SliceLine, conditions,
    reasons::Reason,
};
use wardring_e2e::{FleetFile, TokenOptions};
use wardring_harness::wait_until;

use crate::support::{
    History, LONG, Place, Plan,
    history::Change,
    journal::{acts, acts_in, count},
    manifests::with,
    place::stage_of,
    rollout, shared, stage, world,
};

#[tokio::test]
async fn a_device_enrolled_anew_in_the_middle_of_its_job_counts_as_replaced() -> Result<()> {
    // Long enough for the other one to be enrolled meanwhile.
    let mut slow = world();
    slow["updates"][0]["installMs"] = json!(15_000);
    let plan = Plan::default().group("test", 3, &slow);
    let installation = shared().await?;
    let (place, fleet) = Place::open(installation, "replaced", &plan).await?;
    let mut history = History::begin(&place.client, &place.namespace).await;
    let tenant = installation.tenant_in(&place.namespace);
    let first = with(stage("test"), json!({ "maxFailures": 1, "minCoverage": "60%" }));
    place.create::<PatchRollout>(rollout(&[first], json!({}))).await?;
    timeout(LONG, history.next(has_install_permit)).await?;
    let (device, _) = history.permits().pop_first().expect("a permit was seen");

    // A reinstalled machine: same name, new key, and a token that may replace the old one.
    let options = TokenOptions { name: "again", labels: &[], max_uses: 1, may_replace: true };
    let token = tenant.token(&options).await?;
    let mut file = FleetFile::default();
    file.world("new", world());
    file.device(&device, "new", &token);
    let again = tenant.named_fleet("again", &file).await?;
    let status = place.until_phase(RolloutPhase::Completed).await?;

    let lines = place.lines().await?;
    let line = &lines[&device];
    assert_eq!((line.state, line.reason), (LineState::Failed, Some(Reason::Replaced)), "{line}");
    assert_eq!(stage_of(&status, "test").counts.succeeded, 2, "the others are unaffected");
    assert_eq!(acts(&again, &device)?, Vec::<serde_json::Value>::new());
    assert!(count(&fleet, &device, "install")? <= 1);
    assert_eq!(count(&fleet, &device, "uninstall")?, 0);
    Ok(())
}

#[tokio::test]
async fn an_agent_that_lost_its_journal_in_the_middle_says_so_and_installs_nothing_again()
-> Result<()> {
    let mut slow = world();
    slow["updates"][0]["installMs"] = json!(3_000);
    let plan = Plan::default().group("test", 1, &slow).group("production", 1, &world());
    let installation = shared().await?;
    let (place, mut fleet) = Place::open(installation, "forgetful", &plan).await?;
    let mut history = History::begin(&place.client, &place.namespace).await;
    let stages = [stage("test"), stage("production")];
    place.create::<PatchRollout>(rollout(&stages, json!({}))).await?;
    timeout(LONG, history.next(has_install_permit)).await?;
    wait_until(LONG, "the installation to begin", async || {
        (count(&fleet, "test-1", "install").ok()? == 1).then_some(())
    })
    .await?;

    fleet.process.kill()?;
    for name in ["journal", "journal.prev"] {
        std::fs::remove_file(fleet.data.join("test-1").join(name))?;
    }
    fleet.restart(&installation.gateway_urls()).await?;
    place.until_phase(RolloutPhase::Halted).await?;

    let has_ended = |lines: &BTreeMap<String, SliceLine>| {
        lines.get("test-1").is_some_and(|line| line.state != LineState::Granted)
    };
    let lines = place.until_lines("the outcome in the record", has_ended).await?;
    let line = &lines["test-1"];
    assert_eq!((line.state, line.reason), (LineState::Failed, Some(Reason::StateLost)), "{line}");
    assert_eq!(count(&fleet, "test-1", "install")?, 1);
    assert!(acts(&fleet, "production-1")?.is_empty());
    Ok(())
}

#[tokio::test]
async fn two_agents_with_one_key_are_quarantined_and_install_no_more_than_once() -> Result<()> {
    // Long enough for either of the two to be heard of while the other one installs.
    let mut slow = world();
    slow["updates"][0]["installMs"] = json!(15_000);
    let plan = Plan::default().group("test", 2, &slow);
    let installation = shared().await?;
    let (place, fleet) = Place::open(installation, "cloned", &plan).await?;
    let tenant = installation.tenant_in(&place.namespace);
    // A virtual machine that was copied while its agent was idle.
    let copy = installation.folder.join(&place.namespace).join("copy/devices/test-1");
    copy_folder(&fleet.data.join("test-1"), &copy)?;
    let mut file = FleetFile::default();
    file.world("copy", slow);
    file.device("test-1", "copy", "unused: it is enrolled");
    let _copied = tenant.named_fleet("copy", &file).await?;

    place.create::<PatchRollout>(rollout(&[stage("test")], json!({}))).await?;
    place
        .until::<Device>(LONG, "test-1", "to be quarantined", |device| {
            device.status.as_ref().is_some_and(|status| {
                conditions::is_true(&status.conditions, conditions::QUARANTINED)
            })
        })
        .await?;
    let status = place
        .until_status(LONG, "to have the other device proven", |status| {
            stage_of(status, "test").counts.succeeded == 1
        })
        .await?;

    assert_ne!(status.phase, Some(RolloutPhase::Completed));
    let both = [acts(&fleet, "test-1")?, acts_in(&copy)?];
    let installs = both.iter().flatten().filter(|act| act["event"] == "install").count();
    assert!(installs <= 1, "{both:?}");
    let reboots = both.iter().flatten().filter(|act| act["event"] == "reboot").count();
    assert_eq!(reboots, 0, "{both:?}");
    Ok(())
}

/// Copies a folder's files.
fn copy_folder(from: &Path, to: &Path) -> Result<()> {
    std::fs::create_dir_all(to)?;
    for entry in std::fs::read_dir(from)? {
        let entry = entry?;
        std::fs::copy(entry.path(), to.join(entry.file_name()))?;
    }
    Ok(())
}

fn has_install_permit(change: &Change) -> bool {
    matches!(change, Change::Job(job) if job.status.as_ref().is_some_and(|status| {
        status.permitted.iter().any(|permit| permit.step == PermitStep::Install)
    }))
}
