//! `stop` and `lift`: a person's brake over every namespace. The stop is made first and looked around
//! after: whoever needs it must not wait for anything.

use std::{
    collections::{BTreeMap, BTreeSet},
    io::{self, BufRead, IsTerminal, Write},
};

use anyhow::{Result, bail};
use kube::{
    Api, ResourceExt,
    api::{DeleteParams, ListParams, PostParams, Preconditions},
};
use wardring_api::{
    Device, EmergencyStop, EmergencyStopSpec, KbId, LabelSelector, PatchJob, StoppedRollbacks,
    names::PLUGIN_MANAGER,
};
use wardring_planner::{JobOutcome, JobView, StopView};

use crate::{
    args::{Format, Lift, Stop},
    cluster::Cluster,
    output::{done, resource_name},
};

/// Devices shown one by one.
const SHOWN: usize = 20;
/// KBs that make up a name; more would not be read.
const NAMED: usize = 3;

/// `stop [KB…] --reason TEXT`. Saying the same twice is saying it once.
pub async fn stop(cluster: &Cluster, args: &Stop) -> Result<()> {
    if cluster.is_named && !args.all_namespaces {
        bail!(
            "an emergency stop holds in every namespace, not in {} alone: add -A if that is meant, or suspend the rollouts there",
            cluster.namespace
        );
    }
    let spec = spec(args);
    let name = args.name.clone().unwrap_or_else(|| name_of(&spec));
    let api: Api<EmergencyStop> = cluster.everywhere();
    let params =
        PostParams { dry_run: args.dry_run, field_manager: Some(PLUGIN_MANAGER.to_owned()) };
    let wanted = EmergencyStop::new(&name, spec);
    let (stop, did) = match api.create(&params, &wanted).await {
        Ok(stop) if args.dry_run => (stop, "would be in force (dry run)"),
        Ok(stop) => (stop, "is in force; no device gets a permit that it matches"),
        Err(kube::Error::Api(status)) if status.reason == "AlreadyExists" => {
            let known = api.get(&name).await?;
            if let Some(why) = stands_in_the_way(&known, &wanted.spec) {
                bail!("{} {why}; give this one another --name", resource_name(&known));
            }
            (known, "is in force already")
        }
        Err(error) => return Err(error.into()),
    };
    done(&stop, did, args.output)?;
    let mut notes = around(cluster, &stop).await;
    if !args.dry_run {
        notes.push(format!("`kubectl wardring lift {name}` lets everything go on."));
    }
    tell(&notes, args.output);
    Ok(())
}

/// `lift NAME`. What goes on then is said before anything is done.
pub async fn lift(cluster: &Cluster, args: &Lift) -> Result<()> {
    let api: Api<EmergencyStop> = cluster.everywhere();
    let stop = api.get(&args.name).await?;
    let others: Vec<String> = match api.list(&ListParams::default()).await {
        Ok(list) => list.iter().map(|all| all.name_any()).filter(|all| *all != args.name).collect(),
        Err(_) => Vec::new(),
    };
    let told = before_the_lift(&stop, &others);
    if !args.yes && !is_confirmed(&told)? {
        bail!("{} stays in force", resource_name(&stop));
    }
    // Not one that somebody made anew meanwhile.
    let only_this = Preconditions { uid: stop.uid(), resource_version: None };
    let params = DeleteParams { preconditions: Some(only_this), ..DeleteParams::default() };
    api.delete(&args.name, &params).await?;
    done(&stop, "is lifted; what it kept back goes on", args.output)?;
    if args.yes {
        tell(&told, args.output);
    }
    Ok(())
}

fn spec(args: &Stop) -> EmergencyStopSpec {
    let kbs: BTreeSet<KbId> = args.kbs.iter().cloned().collect();
    let labels: BTreeMap<String, String> = args.selector.iter().flatten().cloned().collect();
    let selector = (!labels.is_empty())
        .then_some(LabelSelector { match_labels: Some(labels), match_expressions: None });
    EmergencyStopSpec {
        reason: args.reason.clone(),
        kbs: kbs.into_iter().collect(),
        selector,
        rollbacks: if args.rollbacks { StoppedRollbacks::Stop } else { StoppedRollbacks::Continue },
    }
}

/// A name that says what is stopped, the same for the same: `all`, `kb5068787`, `kb5068787-1f0c33ab`.
fn name_of(spec: &EmergencyStopSpec) -> String {
    let kbs = spec.kbs.iter().take(NAMED).map(|kb| kb.as_str().to_ascii_lowercase());
    let mut name = kbs.collect::<Vec<_>>().join("-");
    if name.is_empty() {
        name.push_str("all");
    }
    let is_told = spec.kbs.len() <= NAMED
        && spec.selector.is_none()
        && spec.rollbacks == StoppedRollbacks::Continue;
    if !is_told {
        let scope = EmergencyStopSpec { reason: String::new(), ..spec.clone() };
        let text = serde_json::to_string(&scope).unwrap_or_default();
        let digest = ring::digest::digest(&ring::digest::SHA256, text.as_bytes());
        name.push('-');
        name.extend(digest.as_ref().iter().take(4).map(|byte| format!("{byte:02x}")));
    }
    name
}

/// Why a stop of that name does not do in place of the one that is wanted.
fn stands_in_the_way(known: &EmergencyStop, wanted: &EmergencyStopSpec) -> Option<String> {
    if !covers_the_same(&known.spec, wanted) {
        return Some("exists and stops something else".to_owned());
    }
    // It may be gone in the next moment, and with it what it kept back.
    let going = known.metadata.deletion_timestamp.is_some();
    let finalizers = known.metadata.finalizers.iter().flatten().cloned().collect::<Vec<_>>();
    going.then(|| format!("is being deleted and waits for {} only", finalizers.join(", ")))
}

fn covers_the_same(one: &EmergencyStopSpec, other: &EmergencyStopSpec) -> bool {
    let kbs = |spec: &EmergencyStopSpec| spec.kbs.iter().cloned().collect::<BTreeSet<_>>();
    kbs(one) == kbs(other) && one.selector == other.selector && one.rollbacks == other.rollbacks
}

/// Who is mid-flight. What may not be read is said: silence would mean nobody.
async fn around(cluster: &Cluster, stop: &EmergencyStop) -> Vec<String> {
    match mid_flight(cluster, stop).await {
        Ok(devices) => told_of(&devices),
        Err(error) => vec![format!(
            "Who is mid-flight cannot be told: {}.",
            crate::complaint::sentence(&error)
        )],
    }
}

fn told_of(devices: &[String]) -> Vec<String> {
    if devices.is_empty() {
        return vec!["No device is mid-flight.".to_owned()];
    }
    let count = match devices.len() {
        1 => "1 device is".to_owned(),
        count => format!("{count} devices are"),
    };
    let mut lines = vec![format!(
        "{count} mid-flight, and may end the step that was permitted; a restart is not begun any more:"
    )];
    lines.extend(devices.iter().take(SHOWN).map(|device| format!("  {device}")));
    if devices.len() > SHOWN {
        lines.push(format!("  and {} more", devices.len() - SHOWN));
    }
    lines
}

/// Devices that have begun what the stop matches, in every namespace.
async fn mid_flight(cluster: &Cluster, stop: &EmergencyStop) -> Result<Vec<String>> {
    let jobs = cluster.everywhere::<PatchJob>().list(&ListParams::default()).await?.items;
    let mut labels = BTreeMap::new();
    // Only a selector asks for labels, and then only few devices are read.
    if let Some(wanted) = stop.spec.selector.as_ref().and_then(|all| all.match_labels.as_ref()) {
        let text: Vec<String> =
            wanted.iter().map(|(key, value)| format!("{key}={value}")).collect();
        let params = ListParams::default().labels(&text.join(","));
        for device in cluster.everywhere::<Device>().list_metadata(&params).await?.items {
            let place = (device.namespace(), device.name_any());
            labels.insert(place, device.labels().clone());
        }
    }
    let view = StopView::new(stop);
    let none = BTreeMap::new();
    let mut devices: Vec<String> = jobs
        .iter()
        .filter_map(|job| {
            let seen = JobView::new(job, JobOutcome::None);
            let status = job.status.as_ref()?;
            let place = (job.namespace(), job.name_any());
            let labels = labels.get(&place).unwrap_or(&none);
            let kbs = seen.kbs.iter().map(String::as_str);
            let concerns = view.stops(seen.action, kbs, labels);
            (seen.may_have_begun() && status.outcome.is_none() && concerns).then(|| {
                let state = seen.state.map_or("at work".to_owned(), |state| format!("{state:?}"));
                let namespace = job.namespace().unwrap_or_default();
                let (rollout, stage) = (&seen.rollout, &seen.stage);
                format!("{namespace}/{}: {state} (rollout {rollout}, stage {stage})", seen.device)
            })
        })
        .collect();
    devices.sort();
    Ok(devices)
}

/// What a lift lets go on.
fn before_the_lift(stop: &EmergencyStop, others: &[String]) -> Vec<String> {
    let mut lines = vec![StopView::new(stop).sentence()];
    lines.push(match &stop.status {
        Some(status) => format!(
            "It keeps back {} in {}; mid-flight {}, of which {} with the restart. All of that goes on.",
            count(status.held, "device", "devices"),
            count(status.rollouts, "rollout", "rollouts"),
            status.mid_flight,
            match status.awaiting_reboot {
                1 => "1 waits".to_owned(),
                number => format!("{number} wait"),
            },
        ),
        None => "The controller has not said yet what it keeps back; all of that goes on.".to_owned(),
    });
    if !others.is_empty() {
        lines.push(format!("Other stops stay in force: {}.", others.join(", ")));
    }
    lines
}

fn count(number: u32, one: &str, many: &str) -> String {
    format!("{number} {}", if number == 1 { one } else { many })
}

/// Asks at a terminal; anywhere else nobody could answer.
fn is_confirmed(told: &[String]) -> Result<bool> {
    if !io::stdin().is_terminal() {
        bail!("{} Give --yes to lift it", told.join(" "));
    }
    for line in told {
        eprintln!("{line}");
    }
    eprint!("Lift it? [y/N] ");
    io::stderr().flush()?;
    let mut answer = String::new();
    io::stdin().lock().read_line(&mut answer)?;
    Ok(matches!(answer.trim(), "y" | "Y" | "yes"))
}

/// Beside what scripts read: to standard error where standard output is an object.
fn tell(lines: &[String], format: Option<Format>) {
    for line in lines {
        let line = crate::table::printable(line);
        match format {
            None | Some(Format::Wide) => println!("{line}"),
            Some(_) => eprintln!("{line}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spec(text: &str) -> EmergencyStopSpec {
        serde_yaml::from_str(text).unwrap()
    }

    #[test]
    fn a_name_says_what_is_stopped_and_is_the_same_for_the_same() {
        assert_eq!(name_of(&spec("reason: r")), "all");
        assert_eq!(name_of(&spec("{reason: r, kbs: [KB5068787]}")), "kb5068787");
        let ward = "{reason: r, selector: {matchLabels: {ward: '3'}}}";
        let other = "{reason: r, selector: {matchLabels: {ward: '4'}}}";
        let again = "{reason: said better, selector: {matchLabels: {ward: '3'}}}";
        assert_eq!(name_of(&spec(ward)), name_of(&spec(again)));
        assert_ne!(name_of(&spec(ward)), name_of(&spec(other)));
        assert_ne!(name_of(&spec(ward)), name_of(&spec("{reason: r, rollbacks: Stop}")));
        assert!(name_of(&spec(ward)).starts_with("all-"));
        let many: Vec<String> = (0..50).map(|number| format!("KB50{number:05}")).collect();
        let many = name_of(&spec(&format!("{{reason: r, kbs: [{}]}}", many.join(", "))));
        assert!(many.len() <= 63, "{many}");
    }

    #[test]
    fn a_stop_that_is_being_deleted_is_not_taken_for_one_in_force() {
        let wanted = spec("{reason: said again, kbs: [KB5068787]}");
        let mut known = EmergencyStop::new("kb5068787", spec("{reason: r, kbs: [KB5068787]}"));
        assert_eq!(stands_in_the_way(&known, &wanted), None);
        let other = stands_in_the_way(&known, &spec("reason: all of it")).unwrap();
        assert!(other.contains("stops something else"), "{other}");
        known.metadata.finalizers = Some(vec!["example.com/audit".to_owned()]);
        known.metadata.deletion_timestamp = serde_yaml::from_str("'2026-11-21T02:00:00Z'").unwrap();
        let why = stands_in_the_way(&known, &wanted).unwrap();
        assert!(why.contains("being deleted and waits for example.com/audit"), "{why}");
    }

    #[test]
    fn what_goes_on_is_said_before_the_lift() {
        let mut stop = EmergencyStop::new("all", spec("reason: the ERP does not answer"));
        stop.status = Some(
            serde_yaml::from_str("{held: 12, rollouts: 1, midFlight: 3, awaitingReboot: 1}")
                .unwrap(),
        );
        assert_eq!(
            before_the_lift(&stop, &["ward-3".to_owned()]),
            [
                "EmergencyStop all is in force: the ERP does not answer.",
                "It keeps back 12 devices in 1 rollout; mid-flight 3, of which 1 waits with the restart. All of that goes on.",
                "Other stops stay in force: ward-3.",
            ]
        );
    }
}
