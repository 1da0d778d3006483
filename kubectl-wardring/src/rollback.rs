//! `rollback NAME`: a person's order to take back what a rollout brought.

use std::{collections::BTreeMap, sync::Arc};

use anyhow::{Result, bail};
use jiff::Timestamp;
use kube::{
    Api, ResourceExt,
    api::{ListParams, PostParams},
};
use wardring_api::{
    Cap, Device, DeviceGroup, IncludeSuperseding, LabelSelector, PatchRollback, PatchRollbackSpec,
    PatchRollout, PatchRolloutSlice, RollbackWindows, Update, names,
};
use wardring_planner::{
    DeviceRow, DeviceTable, GroupView, Guards, LedgerView, RollbackPreview, SliceView, Snapshot,
    preview_rollback,
};

use crate::{
    approve::whoami,
    args::{Format, Rollback},
    cluster::{Cluster, pages},
    output::{done, resource_name},
    table::printable,
};

/// Devices shown one by one.
const SHOWN: usize = 20;

/// `rollback NAME --reason TEXT`.
pub async fn run(cluster: &Cluster, args: &Rollback) -> Result<()> {
    let rollout: PatchRollout = cluster.here().get(&args.name).await?;
    let mut spec = spec(args);
    if spec.approval_above.is_some() {
        spec.authors = vec![whoami(cluster).await?];
    }
    exists(cluster, &spec).await?;
    let name = args.order.clone().unwrap_or_else(|| name_of(&args.name, Timestamp::now()));
    let params =
        PostParams { dry_run: args.dry_run, field_manager: Some(names::PLUGIN_MANAGER.to_owned()) };
    let wanted = PatchRollback::new(&name, spec);
    let api: Api<PatchRollback> = cluster.here();
    if args.approval_above.is_some() {
        // An API server that does not know the field leaves it out, and the order would ask nobody.
        let trial = PostParams { dry_run: true, ..params.clone() };
        let kept = api.create(&trial, &wanted).await?.spec.approval_above;
        if kept != args.approval_above {
            bail!(
                "this cluster's PatchRollbacks do not know approvalAbove yet; nothing was ordered: upgrade the CRDs and the controller first"
            );
        }
    }
    if args.dry_run {
        // What a person looks at before has to be whole, so it comes first and may fail.
        let preview = preview(cluster, &rollout, &wanted.spec).await?;
        let order = api.create(&params, &wanted).await?;
        done(&order, "would be made (dry run)", args.output)?;
        tell(&told(&preview, SHOWN), args.output);
        tell(&asks(&preview, &wanted.spec), args.output);
        return Ok(());
    }
    let order = api.create(&params, &wanted).await?;
    let place = format!("-n {}", cluster.namespace);
    if let Some(above) = args.approval_above {
        let does = "is made; what is under way halts, and what goes beyond approvalAbove waits for a second person";
        done(&order, does, args.output)?;
        tell(&[asking(&args.name, &name, above, &place)], args.output);
    } else {
        let does = "is made; it halts the rollout and takes back what it reaches";
        done(&order, does, args.output)?;
    }
    tell(
        &[
            format!("How far it is: `kubectl get patchrollback {name} {place} -w`."),
            format!(
                "`kubectl delete patchrollback {name} {place}` ends it; what had not begun is left."
            ),
        ],
        args.output,
    );
    Ok(())
}

fn spec(args: &Rollback) -> PatchRollbackSpec {
    let labels: BTreeMap<String, String> = args.selector.iter().flatten().cloned().collect();
    PatchRollbackSpec {
        rollout: args.name.clone(),
        reason: args.reason.clone(),
        devices: args.devices.clone(),
        group: args.group.clone(),
        selector: (!labels.is_empty())
            .then_some(LabelSelector { match_labels: Some(labels), match_expressions: None }),
        max_concurrency: args.max_concurrency,
        windows: if args.in_windows { RollbackWindows::Respect } else { RollbackWindows::Ignore },
        include_superseding: if args.superseding {
            IncludeSuperseding::Hold
        } else {
            IncludeSuperseding::Warn
        },
        approval_above: args.approval_above,
        // Filled in by whoever makes it.
        authors: Vec::new(),
    }
}

/// For whom an order waits that asks somebody.
fn asking(rollout: &str, order: &str, above: Cap, place: &str) -> String {
    format!(
        "Beyond {above}, nothing of it begins until somebody else approves, who has the role wardring-approve: \
         `kubectl wardring approve {rollout} --order {order} {place} --reason …`."
    )
}

/// Whether a second person would be asked now.
fn asks(preview: &RollbackPreview, spec: &PatchRollbackSpec) -> Vec<String> {
    let Some(above) = spec.approval_above else { return Vec::new() };
    let share = above.of(preview.size);
    let reach = preview.devices.len() + preview.taken + preview.before;
    let before = match preview.before {
        0 => String::new(),
        before => format!(" ({before} of them counted from before a retry)"),
    };
    let what = format!(
        "the updates would be taken back from {reach} devices of {} in all{before}, and approvalAbove lets {share} go unasked",
        preview.size
    );
    vec![match preview.devices.is_empty() || reach <= share {
        true => format!("Nobody else is asked: {what}."),
        false => format!("It would wait for a second person's approval: {what}."),
    }]
}

/// An order for a name that is mistyped would reach nothing, and halt the rollout all the same.
async fn exists(cluster: &Cluster, spec: &PatchRollbackSpec) -> Result<()> {
    for name in &spec.devices {
        cluster.here::<Device>().get_metadata(name).await?;
    }
    if let Some(name) = &spec.group {
        cluster.here::<DeviceGroup>().get_metadata(name).await?;
    }
    Ok(())
}

/// `2026-11-at-20261122-080130`: every order is one of its own, also the second one for the same.
fn name_of(rollout: &str, now: Timestamp) -> String {
    let at = now.strftime("%Y%m%d-%H%M%S").to_string();
    let room = names::MAX_NAME - at.len() - "-at-".len();
    let rollout: String = rollout.chars().take(room).collect();
    format!("{rollout}-at-{at}")
}

/// What the order would reach, by the same function that decides it in the controller.
pub(crate) async fn preview(
    cluster: &Cluster,
    rollout: &PatchRollout,
    spec: &PatchRollbackSpec,
) -> Result<RollbackPreview> {
    let uid = rollout.uid().unwrap_or_default();
    let ours = ListParams::default().labels(&format!("{}={uid}", names::ROLLOUT_UID_LABEL));
    let slices: Vec<PatchRolloutSlice> = pages(&cluster.here(), ours, |all| all).await?;
    let groups: Vec<DeviceGroup> = pages(&cluster.here(), ListParams::default(), |all| all).await?;
    let updates: Vec<Update> = pages(&cluster.here(), ListParams::default(), |all| all).await?;
    let devices = devices(cluster, spec).await?;
    let snapshot = Snapshot {
        namespace: cluster.namespace.clone(),
        now: Timestamp::now(),
        guards: Guards::default(),
        ledger: LedgerView::default(),
        rollouts: vec![Arc::new(rollout.clone())],
        slices: slices.iter().map(|slice| Arc::new(SliceView::new(slice))).collect(),
        jobs: Vec::new(),
        devices: Arc::new(DeviceTable::new(
            devices.iter().map(DeviceRow::new).collect(),
            groups.iter().map(GroupView::new).collect(),
        )),
        updates: updates.into_iter().map(|update| Arc::new(update.spec)).collect(),
        holds: Vec::new(),
        orders: Vec::new(),
        approvals: Vec::new(),
        approval_policy: Default::default(),
        nonce: String::new(),
        windows: Vec::new(),
        measurements: Vec::new(),
        stops: Vec::new(),
        uncreated: Default::default(),
        cannot_create: Default::default(),
        refused_holds: Default::default(),
    };
    match preview_rollback(&snapshot, spec) {
        Some(preview) => Ok(preview),
        None => bail!("{} is gone meanwhile", resource_name(rollout)),
    }
}

/// The devices that the order could mean: no more are read than it names.
async fn devices(cluster: &Cluster, spec: &PatchRollbackSpec) -> Result<Vec<Device>> {
    let api: Api<Device> = cluster.here();
    if spec.devices.is_empty() {
        let wanted = spec.selector.as_ref().and_then(|all| all.match_labels.as_ref());
        let text: Vec<String> =
            wanted.into_iter().flatten().map(|(key, value)| format!("{key}={value}")).collect();
        let these = ListParams::default().labels(&text.join(","));
        return Ok(pages(&api, these, |all| all).await?);
    }
    let mut found = Vec::with_capacity(spec.devices.len());
    for name in &spec.devices {
        found.push(api.get(name).await?);
    }
    Ok(found)
}

pub(crate) fn told(preview: &RollbackPreview, shown: usize) -> Vec<String> {
    let count = |number: usize| match number {
        1 => "1 device".to_owned(),
        number => format!("{number} devices"),
    };
    let mut lines = vec![match preview.devices.len() {
        0 => "It reaches no device: nothing of the rollout is on those that it names.".to_owned(),
        number => format!("It reaches {}, those of later stages first:", count(number)),
    }];
    let devices = preview.devices.iter().take(shown);
    lines.extend(devices.map(|(stage, device)| format!("  {device} (stage {stage})")));
    if preview.devices.len() > shown {
        lines.push(format!("  and {} more", preview.devices.len() - shown));
    }
    if preview.forbidden > 0 {
        let number = count(preview.forbidden as usize);
        lines.push(format!("Not reached, because a DeviceGroup forbids rollbacks: {number}."));
    }
    if preview.beyond > 0 {
        let number = count(preview.beyond as usize);
        lines.push(format!(
            "Out of reach, because they are silent, enrolled anew, broken by an earlier rollback or without a whole record: {number}."
        ));
    }
    if !preview.missing_fixes.is_empty() {
        lines.push("Security fixes that will be missing:".to_owned());
        lines.extend(preview.missing_fixes.iter().map(|fix| format!("  {fix}")));
    }
    lines
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

    #[test]
    fn every_order_has_a_name_of_its_own_that_the_api_server_takes() {
        let now = "2026-11-22T08:01:30Z".parse().unwrap();
        assert_eq!(name_of("2026-11", now), "2026-11-at-20261122-080130");
        assert_eq!(name_of(&"x".repeat(63), now).len(), 63);
    }

    #[test]
    fn a_preview_says_whom_it_reaches_and_what_goes_missing() {
        let preview = RollbackPreview {
            devices: vec![("ward".to_owned(), "erp-01".to_owned())],
            forbidden: 2,
            beyond: 0,
            missing_fixes: vec!["KB5068787".to_owned()],
            taken: 1,
            before: 0,
            size: 10,
        };
        assert_eq!(
            told(&preview, SHOWN),
            [
                "It reaches 1 device, those of later stages first:",
                "  erp-01 (stage ward)",
                "Not reached, because a DeviceGroup forbids rollbacks: 2 devices.",
                "Security fixes that will be missing:",
                "  KB5068787",
            ]
        );
        let spec = |above| PatchRollbackSpec {
            approval_above: above,
            ..serde_yaml::from_str("{rollout: november, reason: r}").unwrap()
        };
        let asked = |above| asks(&preview, &spec(above)).join("");
        assert_eq!(asked(None), "");
        let two = asked(Some(Cap::Count(2)));
        assert!(
            two.starts_with("Nobody else is asked: the updates would be taken back from 2"),
            "{two}"
        );
        let retried = RollbackPreview { before: 1, ..preview.clone() };
        let both = asks(&retried, &spec(Some(Cap::Count(2)))).join("");
        assert!(both.starts_with("It would wait for a second person"), "{both}");
        assert!(both.contains("from 3 devices of 10 in all (1 of them counted"), "{both}");
        let more = asked(Some(Cap::Percent(19)));
        assert!(more.starts_with("It would wait for a second person"), "{more}");
        assert!(more.contains("lets 1 go unasked"), "{more}");
        let nobody = RollbackPreview::default();
        assert!(told(&nobody, SHOWN)[0].contains("no device"));
    }
}
