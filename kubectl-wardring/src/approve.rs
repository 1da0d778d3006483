//! `approve` and `reject`: a person's word on what a rollout, or an order about it, asks for. It is shown first, and the word goes
//! out with the hash of what was shown, so it counts for nothing else.

mod order;
mod rollback;

use std::io::{self, BufRead, IsTerminal, Write};

use anyhow::{Result, bail};
use jiff::Timestamp;
use k8s_openapi::api::authentication::v1::SelfSubjectReview;
use kube::{
    Api, ResourceExt,
    api::{ListParams, Patch, PatchParams, PostParams},
};
use serde_json::{Value, json};
use wardring_api::{
    ApprovalSubject, Cap, Decided, GateApproval, GatePhase, GateState, OrderApproval,
    PatchApproval, PatchApprovalSpec, PatchRollback, PatchRollout, PatchRolloutSlice,
    RollbackApproval, Stage, names,
};
use wardring_planner::{
    DEFAULT_CONCURRENCY, SliceView, approval_hash, approval_parts, freeze_id, order_hash,
    order_parts, rollback_hash, rollback_parts, same_form,
};

use crate::{
    args::{Approve, Format},
    cluster::{Cluster, pages},
    output::{done, resource_name},
    rollback::preview,
    table::printable,
};

/// Devices shown one by one.
const SHOWN: usize = 20;

/// What the rollout asks.
enum Question<'r> {
    Gate(Asked<'r>),
    Rollback(&'r RollbackApproval),
    Order(&'r PatchRollback, &'r OrderApproval),
}

impl<'r> Question<'r> {
    fn asked(&self) -> &'r GateApproval {
        match self {
            Question::Gate(gate) => gate.asked,
            Question::Rollback(known) => &known.asked,
            Question::Order(_, known) => &known.asked,
        }
    }

    /// The arguments that name it.
    fn name(&self) -> String {
        match self {
            Question::Gate(gate) => format!("--stage {} --gate {}", gate.stage.name, gate.gate),
            Question::Rollback(_) => "--rollback".to_owned(),
            Question::Order(order, _) => format!("--order {}", order.name_any()),
        }
    }

    fn is_meant(&self, args: &Approve) -> bool {
        match self {
            Question::Gate(gate) => {
                !args.rollback
                    && args.order.is_none()
                    && args.stage.as_ref().is_none_or(|stage| *stage == gate.stage.name)
                    && args.gate.as_ref().is_none_or(|name| name == gate.gate)
            }
            Question::Rollback(_) => {
                args.stage.is_none() && args.gate.is_none() && args.order.is_none()
            }
            Question::Order(order, _) => {
                let is_it = args.order.as_ref().is_none_or(|name| *name == order.name_any());
                !args.rollback && args.stage.is_none() && args.gate.is_none() && is_it
            }
        }
    }

    fn subject(&self) -> ApprovalSubject {
        match self {
            Question::Gate(gate) => ApprovalSubject::stage_gate(&gate.stage.name, gate.gate),
            Question::Rollback(known) => known.subject(),
            Question::Order(order, known) => known.subject(order),
        }
    }

    /// What it would be about now, and the hash of its asking.
    fn now(&self, rollout: &PatchRollout) -> (Vec<String>, String) {
        let (parts, hash) = match self {
            Question::Gate(gate) => (
                approval_parts(rollout, &gate.stage.name),
                approval_hash(rollout, &gate.stage.name, gate.gate, gate.asked),
            ),
            Question::Rollback(known) => {
                (rollback_parts(rollout), rollback_hash(rollout, &known.asked))
            }
            Question::Order(order, known) => {
                (order_parts(order, rollout), order_hash(order, rollout, &known.asked))
            }
        };
        (parts.unwrap_or_default(), hash)
    }

    /// Who wrote what is asked about, and may not approve it.
    fn authors(&self, rollout: &PatchRollout) -> Vec<String> {
        match self {
            Question::Order(order, _) => order.spec.authors.clone(),
            _ if self.may_author() => Vec::new(),
            _ => rollout.spec.authors.clone(),
        }
    }

    /// What asks anew after a no.
    fn after_no(&self, rollout: &PatchRollout) -> String {
        match self {
            Question::Order(order, _) => {
                format!("PatchRollback {} has ended; another one asks anew", order.name_any())
            }
            _ => format!("`kubectl wardring retry {}` asks anew", rollout.name_any()),
        }
    }

    /// Whether those who wrote the rollout may approve it.
    fn may_author(&self) -> bool {
        let Question::Gate(of) = self else { return false };
        let mut gates = of.stage.gates.all().filter(|(_, gate)| gate.name == of.gate);
        gates.any(|(_, gate)| {
            gate.approval.as_ref().is_some_and(|approval| approval.author_may_approve)
        })
    }
}

/// What a gate of the rollout asks.
struct Asked<'r> {
    stage: &'r Stage,
    phase: GatePhase,
    gate: &'r str,
    freeze_id: &'r str,
    total: u32,
    asked: &'r GateApproval,
}

/// `approve NAME --reason TEXT` and `reject NAME --reason TEXT`.
pub async fn run(cluster: &Cluster, args: &Approve, decision: Decided) -> Result<()> {
    let rollout: PatchRollout = cluster.here().get(&args.name).await?;
    let orders = order::waiting(cluster, args).await?;
    let asked = only_one(&rollout, &orders, args)?;
    if let Some(why) = refusal(&rollout, &asked, Timestamp::now()) {
        bail!(why);
    }
    let is_wide = args.output == Some(Format::Wide);
    let told = match &asked {
        Question::Gate(gate) => {
            told(&rollout, gate, &devices(cluster, &rollout, gate).await?, is_wide)
        }
        Question::Rollback(known) => rollback::told(
            &rollout,
            known,
            &rollback::devices(cluster, &rollout, known).await?,
            is_wide,
        ),
        Question::Order(order, known) => {
            let preview = preview(cluster, &rollout, &order.spec).await?;
            order::told(&rollout, order, known, &preview, is_wide)
        }
    };
    if let Some(hash) = &args.hash {
        if *hash != asked.asked().hash {
            bail!(
                "what is asked is not (any more) what {hash} stands for; look at it again with --dry-run"
            );
        }
    } else if args.dry_run {
        tell(&told, args.output);
        tell(&[format!("To decide on exactly this: --hash {}", asked.asked().hash)], args.output);
    } else if !is_confirmed(&told, decision)? {
        bail!("nothing was decided");
    }
    let who = whoami(cluster).await?;
    let approval = send(cluster, &rollout, &asked, args, decision, &who).await?;
    let did = match (decision, args.dry_run) {
        (Decided::Approve, true) => "would be approved (dry run)",
        (Decided::Reject, true) => "would be rejected (dry run)",
        (Decided::Approve, false) => "is approved; the controller looks at it now",
        (Decided::Reject, false) if matches!(asked, Question::Order(..)) => {
            "is rejected; the order ends, and another one asks anew"
        }
        (Decided::Reject, false) => "is rejected; the rollout asks again only after a retry",
    };
    done(&approval, did, args.output)
}

/// Why what can be shown is not (any more) what is asked.
fn refusal(rollout: &PatchRollout, asked: &Question<'_>, now: Timestamp) -> Option<String> {
    let (parts, hash) = asked.now(rollout);
    let asked = asked.asked();
    if !same_form(&parts, &asked.parts) {
        return Some(
            "this plugin is of another version than the controller, and cannot tell whether what it shows is what is asked; use the same version"
                .to_owned(),
        );
    }
    // What is shown must be what the hash covers, and the hash must be the one of this asking.
    if parts != asked.parts || hash != asked.hash {
        return Some(format!(
            "{} was changed and has not been asked about anew yet; look again in a moment",
            resource_name(rollout)
        ));
    }
    asked.expires_at.is_some_and(|expires| expires <= now).then(|| {
        format!(
            "{} is about to ask anew, because nobody answered in time; look again in a moment",
            resource_name(rollout)
        )
    })
}

/// The one thing that is meant.
fn only_one<'r>(
    rollout: &'r PatchRollout,
    orders: &'r [PatchRollback],
    args: &Approve,
) -> Result<Question<'r>> {
    let gates = pending(rollout).into_iter().map(Question::Gate);
    let mut all: Vec<Question<'r>> = gates.collect();
    all.extend(rollback::pending(rollout).map(Question::Rollback));
    all.extend(
        orders
            .iter()
            .filter_map(|order| order::pending(order).map(|known| Question::Order(order, known))),
    );
    let count = all.iter().filter(|asked| asked.is_meant(args)).count();
    let named: Vec<String> = all.iter().map(Question::name).collect();
    match (count, all.is_empty()) {
        (1, _) => Ok(all.into_iter().find(|one| one.is_meant(args)).expect("one was counted")),
        (0, true) => bail!(
            "{} waits for no approval now; `kubectl wardring status {}` says what it waits for",
            resource_name(rollout),
            rollout.name_any()
        ),
        (0, false) => bail!("that is not asked; what is: {}", named.join(" or ")),
        _ => bail!("more than one thing is asked; say which: {}", named.join(" or ")),
    }
}

fn pending(rollout: &PatchRollout) -> Vec<Asked<'_>> {
    let stages = rollout.status.iter().flat_map(|status| &status.stages);
    let mut found = Vec::new();
    for known in stages {
        let Some(stage) = rollout.spec.stages.iter().find(|stage| stage.name == known.name) else {
            continue;
        };
        for gate in known.gates.iter().filter(|gate| gate.state != GateState::Failed) {
            let asked = gate.approval.as_ref().filter(|asked| !asked.hash.is_empty());
            let is_open =
                gate.state != GateState::Passed || known.state == wardring_api::StageState::Gated;
            if let (Some(asked), Some(freeze_id), true) = (asked, &known.freeze_id, is_open) {
                let (phase, total) = (gate.phase, known.counts.total);
                found.push(Asked { stage, phase, gate: &gate.name, freeze_id, total, asked });
            }
        }
    }
    found
}

/// The frozen devices, by the record that the rollout names.
async fn devices(
    cluster: &Cluster,
    rollout: &PatchRollout,
    asked: &Asked<'_>,
) -> Result<Vec<String>> {
    let uid = rollout.uid().unwrap_or_default();
    let ours = ListParams::default().labels(&format!(
        "{}={uid},{}={}",
        names::ROLLOUT_UID_LABEL,
        names::STAGE_LABEL,
        asked.stage.name
    ));
    let slices: Vec<PatchRolloutSlice> = pages(&cluster.here(), ours, |all| all).await?;
    named(&slices, &uid, asked)
}

/// The devices in the record, if it is exactly the one that is asked about.
fn named(slices: &[PatchRolloutSlice], uid: &str, asked: &Asked<'_>) -> Result<Vec<String>> {
    let mut views: Vec<SliceView> = slices.iter().map(SliceView::new).collect();
    views.retain(|view| view.freeze_id == asked.freeze_id && view.rollout_uid == uid);
    views.sort_by_key(|view| view.index);
    let names: Vec<String> =
        views.iter().flat_map(|view| &view.lines).map(|line| line.device.clone()).collect();
    let digests = views.iter().map(|view| view.names_digest.digest());
    if names.len() != asked.total as usize || freeze_id(digests) != asked.freeze_id {
        bail!(
            "the record of stage {} is not whole: {} of {} devices are in it; nothing can be shown that could be decided on",
            asked.stage.name,
            names.len(),
            asked.total
        );
    }
    Ok(names)
}

fn told(
    rollout: &PatchRollout,
    asked: &Asked<'_>,
    devices: &[String],
    is_wide: bool,
) -> Vec<String> {
    let stage = asked.stage;
    let when = match asked.phase {
        GatePhase::Before => "before any of them begins",
        GatePhase::During | GatePhase::After => "before the next stage opens",
    };
    let count = match devices.len() {
        1 => "1 device".to_owned(),
        count => format!("{count} devices"),
    };
    let mut lines = vec![format!(
        "Rollout {}, stage {}, gate {}: {count}, {when}.",
        rollout.name_any(),
        stage.name,
        asked.gate
    )];
    if let Some(because) = &asked.asked.because {
        lines.push(format!("It is asked anew, because {because}."));
    }
    let updates = rollout.status.iter().flat_map(|status| &status.resolved_updates);
    lines.push("Updates:".to_owned());
    lines.extend(updates.map(|update| {
        let title = update.title.as_deref().map_or(String::new(), |title| format!(", {title}"));
        let package = update.package.as_ref().map_or(String::new(), |package| {
            format!(", {} (sha256 {})", package.url, package.sha256)
        });
        format!("  {} for {}{title}{package}", update.kb, update.product)
    }));
    let cap =
        |cap: Option<Cap>, default: &str| cap.map_or(default.to_owned(), |cap| cap.to_string());
    lines.push(format!(
        "Caps: {} at once, {} may fail, {} may fall silent.",
        cap(stage.max_concurrency, &DEFAULT_CONCURRENCY.to_string()),
        cap(stage.max_failures, "0"),
        cap(stage.max_unreachable.or(stage.max_failures), "0"),
    ));
    lines.push(match stage.windows.is_empty() {
        true => "Windows: none, so at any time but in a freeze.".to_owned(),
        false => format!("Windows: {}.", stage.windows.join(", ")),
    });
    if let (Some(expedite), GatePhase::Before) = (&rollout.spec.expedite, asked.phase) {
        let soak = expedite.skip_soak.then_some("does not wait for its `soak`");
        let windows =
            expedite.ignore_windows.then_some("does not wait for windows (freezes still hold)");
        let what: Vec<&str> = soak.into_iter().chain(windows).collect();
        let reason = expedite.reason.replace(char::is_control, " ");
        lines.push(format!("EXPEDITED: the stage {}. Reason: {reason}", what.join(" and ")));
    }
    lines.extend(takeover(rollout, asked));
    lines.push("The stage as it is written, all of which is approved:".to_owned());
    let written = serde_yaml::to_string(stage).unwrap_or_default();
    lines.extend(written.lines().map(|line| format!("  {line}")));
    lines.push("What holds for every stage of the rollout, and is approved with it:".to_owned());
    let written = serde_yaml::to_string(&common(rollout)).unwrap_or_default();
    lines.extend(written.lines().map(|line| format!("  {line}")));
    if !rollout.spec.authors.is_empty() {
        lines.push(format!("Written by {}.", rollout.spec.authors.join(", ")));
    }
    lines.push("Devices:".to_owned());
    let shown = if is_wide { devices.len() } else { SHOWN };
    lines.extend(devices.iter().take(shown).map(|name| format!("  {name}")));
    if devices.len() > shown {
        lines.push(format!("  and {} more; -o wide shows all", devices.len() - shown));
    }
    lines
}

/// Whose place the rollout takes with this approval, or took before.
fn takeover(rollout: &PatchRollout, asked: &Asked<'_>) -> Option<String> {
    let older = rollout.spec.supersedes.as_ref()?;
    let known = rollout.status.as_ref().and_then(|status| status.takeover.as_ref());
    let is_first = rollout.spec.stages.first().is_some_and(|first| first.name == asked.stage.name);
    match known {
        Some(takeover) => {
            let by: Vec<String> =
                takeover.approvals.iter().map(|said| printable(&said.by)).collect();
            let by = by.join(" and ");
            Some(format!("It took the place of rollout {older}, as {by} approved."))
        }
        None if is_first && asked.phase == GatePhase::Before => Some(format!(
            "ENDS ROLLOUT {older}: once the stage opens, nothing begins there any more, and it is over when \
             nothing is at work."
        )),
        None => None,
    }
}

/// What the stages have in common, without what people may change at any time.
fn common(rollout: &PatchRollout) -> Value {
    let mut spec = serde_json::to_value(&rollout.spec).unwrap_or_default();
    if let Some(fields) = spec.as_object_mut() {
        for free in ["stages", "authors", "suspend", "abort", "priority", "predownload"] {
            fields.remove(free);
        }
    }
    spec
}

pub(crate) async fn whoami(cluster: &Cluster) -> Result<String> {
    let api: Api<SelfSubjectReview> = cluster.everywhere();
    let review = api.create(&PostParams::default(), &SelfSubjectReview::default()).await?;
    let user = review.status.and_then(|status| status.user_info).and_then(|user| user.username);
    match user {
        Some(user) => Ok(user),
        None => bail!("the API server does not say who you are; an approval needs a user name"),
    }
}

/// How often a request is read anew that the controller wrote to in the same moment.
const TRIES: u32 = 5;

/// Fills in the controller's request, or makes an object of its own where that is not there (any more).
async fn send(
    cluster: &Cluster,
    rollout: &PatchRollout,
    question: &Question<'_>,
    args: &Approve,
    decision: Decided,
    who: &str,
) -> Result<PatchApproval> {
    let asked = question.asked();
    let api: Api<PatchApproval> = cluster.here();
    let params = PatchParams {
        dry_run: args.dry_run,
        field_manager: Some(names::PLUGIN_MANAGER.to_owned()),
        ..PatchParams::default()
    };
    for tries_left in (0..TRIES).rev() {
        let known = api.get_opt(&asked.request).await?;
        let known = known.filter(|known| known.spec.approval_hash == asked.hash);
        let Some(known) = known else { break };
        let by = printable(known.spec.approver.as_deref().unwrap_or("somebody"));
        match known.spec.decision {
            None => {}
            Some(known_decision) if known_decision == decision => {
                bail!("{} has that decision already, by {by}", resource_name(&known));
            }
            Some(Decided::Reject) => bail!(
                "{} was rejected by {by}; {}",
                resource_name(&known),
                question.after_no(rollout)
            ),
            Some(Decided::Approve) => break,
        }
        let change = json!({
            "metadata": { "uid": known.uid(), "resourceVersion": known.resource_version() },
            "spec": {
                // What was shown; it cannot change, so another one is refused.
                "approvalHash": asked.hash,
                "decision": decision, "approver": who, "reason": args.reason,
            },
        });
        match api.patch(&known.name_any(), &params, &Patch::Merge(&change)).await {
            // The controller keeps its view of a request in it, and may have written it just now.
            Err(kube::Error::Api(status)) if status.code == 409 && tries_left > 0 => {}
            answer => return Ok(answer?),
        }
    }
    let spec = PatchApprovalSpec {
        rollout: rollout.name_any(),
        rollout_uid: rollout.uid().unwrap_or_default(),
        subject: question.subject(),
        approval_hash: asked.hash.clone(),
        authors: question.authors(rollout),
        expires_at: asked.expires_at,
        decision: Some(decision),
        approver: Some(who.to_owned()),
        reason: Some(args.reason.clone()),
    };
    let mut wanted = PatchApproval::new("", spec);
    wanted.metadata.name = None;
    let stem: String = asked.request.chars().take(56).collect();
    wanted.metadata.generate_name = Some(format!("{stem}-"));
    let params =
        PostParams { dry_run: args.dry_run, field_manager: Some(names::PLUGIN_MANAGER.to_owned()) };
    Ok(api.create(&params, &wanted).await?)
}

/// Asks at a terminal; anywhere else the hash says what was looked at.
fn is_confirmed(told: &[String], decision: Decided) -> Result<bool> {
    if !io::stdin().is_terminal() {
        bail!(
            "nobody can be asked here: look at it with --dry-run, then give --hash with what that prints"
        );
    }
    for line in told {
        eprintln!("{}", printable(line));
    }
    let verb = if decision == Decided::Approve { "Approve" } else { "Reject" };
    eprint!("{verb} exactly this? [y/N] ");
    io::stderr().flush()?;
    let mut answer = String::new();
    io::stdin().lock().read_line(&mut answer)?;
    Ok(matches!(answer.trim(), "y" | "Y" | "yes"))
}

/// Beside what scripts read: to standard error where standard output is an object.
fn tell(lines: &[String], format: Option<Format>) {
    for line in lines {
        let line = printable(line);
        match format {
            None | Some(Format::Wide) => println!("{line}"),
            Some(_) => eprintln!("{line}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rollout() -> PatchRollout {
        serde_yaml::from_str(
            "{metadata: {name: november, uid: u-1}, \
             spec: {updates: {kbs: [KB5068787]}, authors: [alice], stages: [{name: ward, group: ward, \
             maxConcurrency: 2, gates: {before: [{name: sign-off, type: Approval, approval: {}}]}}]}, \
             status: {resolvedUpdates: [{product: Windows Server 2022, kb: KB5068787, kind: Quality}], \
             stages: [{name: ward, state: Gated, freezeId: 'v1:0', counts: {total: 2}, gates: [{name: sign-off, \
             phase: Before, state: Waiting, since: '2026-11-21T02:00:00Z', \
             startedAt: '2026-11-21T02:00:00Z', definition: d, approval: {round: 1, hash: 'v1:1', \
             request: r, because: the caps changed since it was last asked}}]}]}}",
        )
        .unwrap()
    }

    fn args(stage: Option<&str>) -> Approve {
        Approve {
            name: "november".to_owned(),
            stage: stage.map(ToOwned::to_owned),
            gate: None,
            rollback: false,
            order: None,
            reason: "r".to_owned(),
            hash: None,
            dry_run: false,
            output: None,
        }
    }

    fn gate(rollout: &PatchRollout) -> Asked<'_> {
        match only_one(rollout, &[], &args(None)).unwrap() {
            Question::Gate(gate) => gate,
            _ => panic!("a gate asks"),
        }
    }

    #[test]
    fn what_is_asked_is_shown_with_devices_updates_and_caps() {
        let rollout = rollout();
        let asked = gate(&rollout);
        let devices: Vec<String> = (0..30).map(|number| format!("ws-{number}")).collect();
        let lines = told(&rollout, &asked, &devices, false);
        assert_eq!(
            lines[..6],
            [
                "Rollout november, stage ward, gate sign-off: 30 devices, before any of them begins.",
                "It is asked anew, because the caps changed since it was last asked.",
                "Updates:",
                "  KB5068787 for Windows Server 2022",
                "Caps: 2 at once, 0 may fail, 0 may fall silent.",
                "Windows: none, so at any time but in a freeze.",
            ]
        );
        let text = lines.join("\n");
        for part in [
            "  maxConcurrency: 2",
            "  correlatedFailures:",
            "  onFailure:",
            "Written by alice.",
            "  ws-19",
            "and 10 more; -o wide",
        ] {
            assert!(text.contains(part), "no {part} in {text}");
        }
        assert!(told(&rollout, &asked, &devices, true).join("\n").contains("  ws-29"));
    }

    /// A rollout that asks exactly what it is about to do.
    fn whole() -> PatchRollout {
        let mut rollout = rollout();
        let parts = {
            rollout.status.as_mut().unwrap().plan_hash = Some("v1:0".to_owned());
            approval_parts(&rollout, "ward").unwrap()
        };
        let mut asked = gate(&rollout).asked.clone();
        asked.parts = parts;
        asked.nonce = "n".to_owned();
        asked.hash = approval_hash(&rollout, "ward", "sign-off", &asked);
        asked.expires_at = Some("2026-11-22T02:00:00Z".parse().unwrap());
        rollout.status.as_mut().unwrap().stages[0].gates[0].approval = Some(asked);
        rollout
    }

    #[test]
    fn nothing_can_be_decided_on_but_what_is_asked_and_shown() {
        let why = |change: fn(&mut PatchRollout)| {
            let mut rollout = whole();
            change(&mut rollout);
            let asked = only_one(&rollout, &[], &args(None)).unwrap();
            refusal(&rollout, &asked, "2026-11-22T01:00:00Z".parse().unwrap()).unwrap_or_default()
        };
        fn asked(rollout: &mut PatchRollout) -> &mut GateApproval {
            let stage = &mut rollout.status.as_mut().unwrap().stages[0];
            stage.gates[0].approval.as_mut().unwrap()
        }
        assert_eq!(why(|_| {}), "");
        let changes: [fn(&mut PatchRollout); 6] = [
            |all| all.spec.stages[0].max_failures = Some(Cap::Count(9)),
            |all| all.spec.correlated_failures.devices = Some(9),
            |all| all.status.as_mut().unwrap().stages[0].freeze_id = Some("v1:1".to_owned()),
            |all| all.metadata.uid = Some("u-2".to_owned()),
            |all| asked(all).nonce = "m".to_owned(),
            |all| asked(all).hash = format!("v1:{}", "0".repeat(64)),
        ];
        for (index, change) in changes.into_iter().enumerate() {
            let why = why(change);
            assert!(why.contains("not been asked about anew"), "{index}: {why}");
        }
        let other = why(|all| asked(all).parts[0] = "form=another".to_owned());
        assert!(other.contains("another version"), "{other}");
        let late = why(|all| asked(all).expires_at = Some("2026-11-22T01:00:00Z".parse().unwrap()));
        assert!(late.contains("nobody answered in time"), "{late}");
    }

    #[test]
    fn devices_are_shown_only_from_the_record_that_is_asked_about() {
        let slice = |lines: &[&str], freeze: &str| -> PatchRolloutSlice {
            serde_json::from_value(json!({
                "metadata": { "name": "s" },
                "spec": { "rollout": "november", "rolloutUid": "u-1", "stage": "ward", "index": 0,
                          "of": 1, "freezeId": freeze, "lines": lines },
            }))
            .unwrap()
        };
        let lines = ["ws-1 0 Pending", "ws-2 0 Pending"];
        let view = SliceView::new(&slice(&lines, ""));
        let id = freeze_id([view.names_digest.digest()].into_iter());
        let rollout = rollout();
        let mut asked = gate(&rollout);
        asked.freeze_id = &id;
        assert_eq!(named(&[slice(&lines, &id)], "u-1", &asked).unwrap(), ["ws-1", "ws-2"]);
        let forged = ["ws-1 0 Pending", "dc-1 0 Pending"];
        for (lines, uid) in [(forged, "u-1"), (lines, "u-2")] {
            let error = named(&[slice(&lines, &id)], uid, &asked).unwrap_err().to_string();
            assert!(error.contains("is not whole"), "{error}");
        }
    }

    #[test]
    fn what_is_not_asked_is_said() {
        let mut rollout = rollout();
        let error = only_one(&rollout, &[], &args(Some("lab"))).err().unwrap().to_string();
        assert_eq!(error, "that is not asked; what is: --stage ward --gate sign-off");
        rollout.status.as_mut().unwrap().stages[0].gates.clear();
        let error = only_one(&rollout, &[], &args(None)).err().unwrap().to_string();
        assert!(error.contains("waits for no approval now"), "{error}");
    }
}
