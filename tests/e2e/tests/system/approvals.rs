//! People who approve and reject, under their own names, through the plugin and the policies of the chart.

use anyhow::{Context, Result};
use kube::api::{DeleteParams, ListParams};
use serde_json::json;
use wardring_api::{
    ApprovalPhase, LineState, PatchApproval, PatchRollback, PatchRollout, RollbackPhase,
    RolloutPhase, StageState, UpdateHold, approval_policy,
};
use wardring_e2e::Installation;
use wardring_harness::wait_until_ok;

use crate::support::{
    CONTROLLER, LONG, Place, Plan, SHORT, install,
    journal::count,
    manifests::with,
    people::{phase, request, write},
    place::{ROLLOUT, stage_of},
    rollout, stage, world, world_with,
};

/// alice's rollout, whose stage production asks.
async fn asked(installation: &Installation, place: &Place) -> Result<()> {
    let gates = json!({ "before": [{ "name": "board", "type": "Approval", "approval": {} }] });
    let production = with(stage("production"), json!({ "gates": gates }));
    let object = rollout(&[stage("test"), production], json!({ "authors": ["alice"] }));
    write(installation, place, object).await
}

#[tokio::test]
async fn a_stage_opens_by_the_word_of_somebody_else_though_controllers_die_between() -> Result<()> {
    let mut installation = install("approved", &CONTROLLER).await?;
    let plan = Plan::default().group("test", 1, &world()).group("production", 2, &world());
    let (place, fleet) = Place::open(&installation, "approved", &plan).await?;
    asked(&installation, &place).await?;
    let first = request(&place, ROLLOUT, "production", "").await?;

    // It waits, and the author cannot help it on.
    let tenant = installation.tenant_in("approved");
    let word =
        |user, verb, hash| ["--as", user, verb, ROLLOUT, "--reason", "CHG-4711", "--hash", hash];
    let refusal = tenant.plugin(&word("alice", "approve", &first.hash)).await.unwrap_err();
    assert!(format!("{refusal:#}").contains("may not approve it"), "{refusal:#}");
    // Nor does a word on something that was not shown.
    let other = format!("v1:{}", "0".repeat(64));
    let refusal = tenant.plugin(&word("bob", "approve", &other)).await.unwrap_err();
    assert!(format!("{refusal:#}").contains("is not (any more) what"), "{refusal:#}");
    let shown = tenant
        .plugin(&["--as", "bob", "approve", ROLLOUT, "--reason", "CHG-4711", "--dry-run"])
        .await?;
    for part in ["2 devices", "production-1", "KB5068787", "Written by alice", &first.hash] {
        assert!(shown.contains(part), "no {part} in {shown}");
    }

    // A changed cap is asked about anew, and what was shown before counts for nothing.
    let mut stages = place.api::<PatchRollout>().get(ROLLOUT).await?.spec.stages;
    stages[1].max_concurrency = Some(wardring_api::Cap::Count(1));
    let change = json!({ "spec": { "stages": stages, "authors": ["alice"] } }).to_string();
    let edit =
        ["patch", "patchrollout", ROLLOUT, "--as", "alice", "-n", "approved", "--type=merge", "-p"];
    installation.cluster.kubectl(&[&edit[..], &[change.as_str()]].concat()).await?.ok()?;
    let second = request(&place, ROLLOUT, "production", &first.hash).await?;
    let why = phase(&place, &first.request, ApprovalPhase::Void).await?;
    assert!(why.contains("the caps changed"), "{why}");
    let refusal = tenant.plugin(&word("bob", "approve", &first.hash)).await.unwrap_err();
    assert!(format!("{refusal:#}").contains("is not (any more) what"), "{refusal:#}");

    // The word is given while no controller is there to hear it.
    installation.controllers.pop().context("a controller runs")?.process.kill()?;
    let tenant = installation.tenant_in("approved");
    tenant.plugin(&word("bob", "approve", &second.hash)).await?;
    let status = place.api::<PatchRollout>().get(ROLLOUT).await?.status.unwrap_or_default();
    assert_eq!(stage_of(&status, "production").state, StageState::Gated);
    assert_eq!(count(&fleet, "production-1", "install")?, 0);
    installation.start_controller(&CONTROLLER).await?;
    let opened = place
        .until_status(LONG, "to open production", |status| {
            stage_of(status, "production").state == StageState::Open
        })
        .await?;
    let gate = &stage_of(&opened, "production").gates[0];
    assert!(gate.message.as_deref().unwrap_or_default().contains("bob approved it"), "{gate:?}");
    installation.controllers.pop().context("a controller runs")?.process.kill()?;
    installation.start_controller(&CONTROLLER).await?;
    place.until_phase(RolloutPhase::Completed).await?;
    phase(&place, &second.request, ApprovalPhase::Used).await?;

    // Who approved what is still there when the rollout is gone.
    place.api::<PatchRollout>().delete(ROLLOUT, &DeleteParams::default()).await?;
    place.until_gone::<PatchRollout>(SHORT, ROLLOUT).await?;
    let left = place.api::<PatchApproval>().get(&second.request).await?;
    assert_eq!(left.spec.approver.as_deref(), Some("bob"));
    Ok(())
}

#[tokio::test]
async fn a_rejection_stays_and_no_word_counts_while_a_policy_is_weak() -> Result<()> {
    let installation = install("rejected", &CONTROLLER).await?;
    let plan = Plan::default().group("test", 1, &world()).group("production", 1, &world());
    let (place, fleet) = Place::open(&installation, "rejected", &plan).await?;
    asked(&installation, &place).await?;
    let first = request(&place, ROLLOUT, "production", "").await?;

    // Somebody weakens a policy in its place, approves in another name, and puts it back as it was.
    let name = approval_policy::APPROVALS;
    let kind = "validatingadmissionpolicybinding";
    let actions = async |actions: &str| -> Result<()> {
        let change = json!({ "spec": { "validationActions": [actions] } }).to_string();
        let args = ["patch", kind, name, "--type=merge", "-p", change.as_str()];
        installation.cluster.kubectl(&args).await?.ok()?;
        Ok(())
    };
    actions("Audit").await?;
    let forged = json!({ "spec": { "decision": "Approve", "approver": "boss", "reason": "r" } });
    let forged = forged.to_string();
    let args = ["patch", "patchapproval", &first.request, "--as", "carol", "-n", "rejected"];
    let patch = ["--type=merge", "-p", forged.as_str()];
    wait_until_ok(SHORT, "the policy to be weak", async || {
        let output = installation.cluster.kubectl(&[&args[..], &patch].concat()).await;
        let output = output.map_err(|error| error.to_string())?;
        if output.succeeded() { Ok(()) } else { Err(output.stderr) }
    })
    .await?;
    let waits = place
        .until_status(LONG, "to say that nobody vouches", |status| {
            status.waiting_for.iter().any(|all| all.reason == "ApprovalPolicyBroken")
        })
        .await?;
    let said = waits.waiting_for.iter().find(|all| all.reason == "ApprovalPolicyBroken");
    assert!(said.is_some_and(|all| all.message.contains(name)), "{waits:?}");
    actions("Deny").await?;
    let second = request(&place, ROLLOUT, "production", &first.hash).await?;
    phase(&place, &first.request, ApprovalPhase::Void).await?;

    let tenant = installation.tenant_in("rejected");
    let word = |user, verb, hash| {
        ["--as", user, verb, ROLLOUT, "--reason", "not on Friday", "--hash", hash]
    };
    tenant.plugin(&word("carol", "reject", &second.hash)).await?;
    place
        .until_status(SHORT, "to be rejected", |status| {
            status.waiting_for.iter().any(|all| {
                all.reason == "ApprovalRejected" && all.message.contains("carol rejected it")
            })
        })
        .await?;
    // A rejection is a record: nobody deletes it, not even an administrator.
    let deleted =
        place.api::<PatchApproval>().delete(&second.request, &DeleteParams::default()).await;
    assert!(deleted.is_err_and(|error| error.to_string().contains("a rejection stays")));
    let refusal = tenant.plugin(&word("bob", "approve", &second.hash)).await.unwrap_err();
    assert!(format!("{refusal:#}").contains("waits for no approval now"), "{refusal:#}");

    tenant.plugin(&["--as", "alice", "retry", ROLLOUT]).await?;
    let third = request(&place, ROLLOUT, "production", &second.hash).await?;
    // The rollout was made before the policy as it stands now: nobody vouches for who wrote it any more.
    tenant.plugin(&word("bob", "approve", &third.hash)).await?;
    let why = phase(&place, &third.request, ApprovalPhase::Void).await?;
    assert!(why.contains("make it anew"), "{why}");
    assert_eq!(count(&fleet, "production-1", "install")?, 0);
    Ok(())
}

#[tokio::test]
async fn healthy_devices_are_taken_back_by_the_word_of_somebody_else_only() -> Result<()> {
    let mut installation = install("backed", &CONTROLLER).await?;
    let broken = world_with(json!({
        "afterReboot": [{ "stopService": "MSSQLSERVER", "refusesRestart": true }],
    }));
    let plan = Plan::default().group("test", 2, &world()).group("production", 1, &broken);
    let (place, fleet) = Place::open(&installation, "backed", &plan).await?;
    let careful = json!({ "action": "Rollback", "scope": "AllStages", "maxConcurrency": 3, "approvalAbove": 1 });
    let stages = [stage("test"), stage("production")];
    let object = rollout(&stages, json!({ "authors": ["alice"], "onFailure": careful }));
    write(&installation, &place, object).await?;

    // The halt and what is broken wait for nobody.
    let status = place
        .until_status(LONG, "to ask for the rollback", |status| {
            let known = status.rollback_approval.as_ref();
            status.halted.is_some() && known.is_some_and(|known| !known.asked.hash.is_empty())
        })
        .await?;
    let mended = async || -> Result<bool> {
        let lines = place.lines().await?;
        Ok(lines["production-1"].state == LineState::RolledBack)
    };
    wait_until_ok(LONG, "the broken device to be mended", async || {
        let is_mended = mended().await.map_err(|error| error.to_string())?;
        if is_mended { Ok(()) } else { Err("not yet".to_owned()) }
    })
    .await?;
    let asked = status.rollback_approval.context("it asks")?.asked;
    let tenant = installation.tenant_in("backed");
    let word = |user, hash| {
        ["--as", user, "approve", ROLLOUT, "--rollback", "--reason", "CHG-4712", "--hash", hash]
    };
    wait_until_ok(LONG, "the request to appear", async || {
        let found = place.api::<PatchApproval>().get_opt(&asked.request).await;
        found.map_err(|error| error.to_string())?.ok_or("no object yet".to_owned())
    })
    .await?;
    let refusal = tenant.plugin(&word("alice", &asked.hash)).await.unwrap_err();
    assert!(format!("{refusal:#}").contains("may not approve it"), "{refusal:#}");
    let look = ["--as", "bob", "approve", ROLLOUT, "--reason", "CHG-4712", "--dry-run"];
    let shown = tenant.plugin(&look).await?;
    for part in ["rollback of all stages", "up to 3 devices", "test-1 (proven", &asked.hash] {
        assert!(shown.contains(part), "no {part} in {shown}");
    }
    for device in ["test-1", "test-2"] {
        assert_eq!(count(&fleet, device, "uninstall")?, 0, "{device}");
    }

    // The word is given while no controller is there to hear it.
    installation.controllers.pop().context("a controller runs")?.process.kill()?;
    let tenant = installation.tenant_in("backed");
    tenant.plugin(&word("bob", &asked.hash)).await?;
    installation.start_controller(&CONTROLLER).await?;
    place.until_phase(RolloutPhase::RolledBack).await?;
    for (device, line) in place.lines().await? {
        assert_eq!(line.state, LineState::RolledBack, "{device}");
        assert_eq!(count(&fleet, &device, "uninstall")?, 1, "{device}");
    }
    let why = phase(&place, &asked.request, ApprovalPhase::Used).await?;
    assert!(why.contains("bob approved taking the updates back from up to 3 devices"), "{why}");
    Ok(())
}

#[tokio::test]
async fn an_order_beyond_its_share_takes_back_by_the_word_of_somebody_else_only() -> Result<()> {
    let installation = install("ordered", &CONTROLLER).await?;
    let plan = Plan::default().group("test", 1, &world()).group("production", 2, &world());
    let (place, fleet) = Place::open(&installation, "ordered", &plan).await?;
    let stages = [stage("test"), stage("production")];
    write(&installation, &place, rollout(&stages, json!({ "authors": ["alice"] }))).await?;
    place.until_phase(RolloutPhase::Completed).await?;

    let tenant = installation.tenant_in("ordered");
    let order = ["--as", "alice", "rollback", ROLLOUT, "--order-name", "erp-down"];
    let whom = ["--group", "production", "--max-concurrency", "2", "--approval-above", "1"];
    let why = ["--reason", "the ERP does not answer"];
    tenant.plugin(&[&order[..], &whom, &why].concat()).await?;
    let asked = place
        .until::<PatchRollback>(LONG, "erp-down", "to ask", |order| {
            let known = order.status.as_ref().and_then(|status| status.approval.as_ref());
            known.is_some_and(|known| !known.asked.hash.is_empty())
        })
        .await?;
    let asked = asked.status.and_then(|status| status.approval).context("it asks")?.asked;
    wait_until_ok(LONG, "the request to appear", async || {
        let found = place.api::<PatchApproval>().get_opt(&asked.request).await;
        found.map_err(|error| error.to_string())?.ok_or("no object yet".to_owned())
    })
    .await?;

    // Whoever wrote it cannot help it on, and nothing of it begins meanwhile.
    let word = |user, hash| {
        let which = ["--as", user, "approve", ROLLOUT, "--order", "erp-down"];
        [&which[..], &["--reason", "INC-4712", "--hash", hash]].concat()
    };
    let refusal = tenant.plugin(&word("alice", &asked.hash)).await.unwrap_err();
    assert!(format!("{refusal:#}").contains("may not approve it"), "{refusal:#}");
    let look = ["--as", "bob", "approve", ROLLOUT, "--reason", "INC-4712", "--dry-run"];
    let shown = tenant.plugin(&look).await?;
    let devices = "production-1 (stage production)";
    for part in ["up to 2 devices", devices, "Written by alice", &asked.hash] {
        assert!(shown.contains(part), "no {part} in {shown}");
    }
    for (device, line) in place.lines().await? {
        assert_eq!((line.state, line.ordered), (LineState::Succeeded, false), "{device}");
    }
    let holds = place.api::<UpdateHold>();
    assert!(holds.list(&ListParams::default()).await?.items.is_empty());

    tenant.plugin(&word("bob", &asked.hash)).await?;
    let ended = place
        .until::<PatchRollback>(LONG, "erp-down", "to end", |order| {
            order.status.as_ref().is_some_and(|status| status.completed_at.is_some())
        })
        .await?;
    let status = ended.status.context("it has ended")?;
    assert_eq!(status.phase, Some(RollbackPhase::Completed), "{status:?}");
    for (device, line) in place.lines().await? {
        let is_reached = device.contains("production");
        let state = if is_reached { LineState::RolledBack } else { LineState::Succeeded };
        assert_eq!(line.state, state, "{device}");
        assert_eq!(count(&fleet, &device, "uninstall")?, usize::from(is_reached), "{device}");
    }
    let why = phase(&place, &asked.request, ApprovalPhase::Used).await?;
    assert!(why.contains("bob approved PatchRollback erp-down for up to 2 devices"), "{why}");
    Ok(())
}
