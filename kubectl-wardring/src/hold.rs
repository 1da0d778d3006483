//! `hold` and `release`: a person's bar on devices and on updates, and taking it away.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Result, bail};
use jiff::Timestamp;
use kube::{
    Api, ResourceExt,
    api::{DeleteParams, ListParams, PostParams, Preconditions},
};
use serde_json::json;
use wardring_api::{
    Device, Hold, IncludeSuperseding, KbId, LabelSelector, UpdateHold, UpdateHoldSpec, conditions,
    names::PLUGIN_MANAGER,
};

use crate::{
    args::{HoldDevices, HoldUpdates, ReleaseUpdates},
    cluster::Cluster,
    output::{done, resource_name},
};

/// KBs that make up a name; more would not be read.
const NAMED: usize = 3;

/// `hold device NAME… --reason TEXT [--until TIME]`.
pub async fn devices(cluster: &Cluster, args: &HoldDevices) -> Result<()> {
    let until = args.until.as_ref().map(|until| until.from(Timestamp::now())).transpose()?;
    let hold = Hold { reason: args.reason.clone(), until };
    for name in &args.names {
        // A merge keeps what it does not name: an end that is over must go.
        let change = json!({ "spec": { "hold": { "reason": hold.reason, "until": hold.until } } });
        let device: Device = cluster.merge(name, &change).await?;
        let end = match until {
            Some(until) => format!("until {}", until.strftime("%Y-%m-%dT%H:%M:%SZ")),
            None => "until somebody releases it".to_owned(),
        };
        done(&device, &format!("held {end}; what has begun ends its step"), args.output)?;
    }
    Ok(())
}

/// Takes a person's hold from the device. Says whether there was one.
pub async fn release_device(
    cluster: &Cluster,
    device: &Device,
    output: Option<crate::args::Format>,
) -> Result<bool> {
    let Some(hold) = &device.spec.hold else { return Ok(false) };
    let change = json!({ "spec": { "hold": null } });
    let changed: Device = cluster.merge(&device.name_any(), &change).await?;
    let reason = crate::table::printable(&hold.reason);
    let list = device.status.iter().flat_map(|status| &status.conditions);
    let quarantined = list.filter(|one| one.type_ == conditions::QUARANTINED);
    let rest = match quarantined.map(|one| one.status.as_str()).next() {
        Some("True") => "it stays quarantined, and a second release lifts that of a damaged device",
        _ => "its job, if it has one, stays",
    };
    done(&changed, &format!("is held no longer ({reason}); {rest}"), output)?;
    Ok(true)
}

/// `hold update KB… --reason TEXT`. Saying the same twice is saying it once.
pub async fn updates(cluster: &Cluster, args: &HoldUpdates) -> Result<()> {
    let spec = spec(args);
    let name = args.name.clone().unwrap_or_else(|| name_of(&spec));
    let api: Api<UpdateHold> = cluster.here();
    let params = PostParams { field_manager: Some(PLUGIN_MANAGER.to_owned()), dry_run: false };
    match api.create(&params, &UpdateHold::new(&name, spec.clone())).await {
        Ok(hold) => done(&hold, "bars what it names; nothing begins that brings it", args.output),
        Err(kube::Error::Api(status)) if status.reason == "AlreadyExists" => {
            let known = api.get(&name).await?;
            if !is_same(&known.spec, &spec) {
                bail!(
                    "{} exists and bars something else; give this one another --name",
                    resource_name(&known)
                );
            }
            done(&known, "bars it already", args.output)
        }
        Err(error) => Err(error.into()),
    }
}

/// `release update KB…`. A bar on more than these keeps the rest.
pub async fn release_updates(cluster: &Cluster, args: &ReleaseUpdates) -> Result<()> {
    let api: Api<UpdateHold> = cluster.here();
    let holds = api.list(&ListParams::default()).await?.items;
    let freed: BTreeSet<&KbId> = args.kbs.iter().collect();
    let concerned: Vec<&UpdateHold> = holds
        .iter()
        .filter(|hold| hold.spec.kbs.iter().any(|kb| freed.contains(kb)))
        .filter(|hold| is_meant(&hold.spec, args.device.as_deref()))
        .collect();
    if concerned.is_empty() {
        let kbs: Vec<&str> = args.kbs.iter().map(KbId::as_str).collect();
        let whom = args.device.as_ref().map(|device| format!(" on {device} alone"));
        bail!(
            "no UpdateHold in namespace {} bars {}{}; `kubectl get updateholds` shows what is barred",
            cluster.namespace,
            kbs.join(", "),
            whom.unwrap_or_default()
        );
    }
    if !args.yes {
        let told: Vec<String> = concerned.iter().map(|hold| told(hold, &freed)).collect();
        bail!("{} Give --yes to release it: rollouts that wait for it go on", told.join(" "));
    }
    for hold in concerned {
        let left: Vec<&KbId> = hold.spec.kbs.iter().filter(|kb| !freed.contains(kb)).collect();
        if left.is_empty() {
            // Not one that somebody made anew meanwhile.
            let only_this = Preconditions { uid: hold.uid(), resource_version: None };
            let params = DeleteParams { preconditions: Some(only_this), ..DeleteParams::default() };
            api.delete(&hold.name_any(), &params).await?;
            done(hold, "is gone; what waited for it goes on", args.output)?;
        } else {
            let version = &hold.metadata.resource_version;
            let change = json!({
                "metadata": { "resourceVersion": version }, "spec": { "kbs": left },
            });
            let changed: UpdateHold = cluster.merge(&hold.name_any(), &change).await?;
            let left: Vec<&str> = left.iter().map(|kb| kb.as_str()).collect();
            done(&changed, &format!("still bars {}", left.join(", ")), args.output)?;
        }
    }
    Ok(())
}

fn told(hold: &UpdateHold, freed: &BTreeSet<&KbId>) -> String {
    let kbs = hold.spec.kbs.iter().filter(|kb| freed.contains(kb));
    let kbs: Vec<&str> = kbs.map(KbId::as_str).collect();
    let reason = hold.spec.reason.trim_end_matches(['.', ' ']);
    format!("UpdateHold {} bars {}: {reason}.", hold.name_any(), kbs.join(", "))
}

/// Whether a release means this bar: those that name devices go one by one, and with no other.
fn is_meant(spec: &UpdateHoldSpec, device: Option<&str>) -> bool {
    match device {
        Some(device) => matches!(&spec.devices[..], [only] if only == device),
        None => spec.devices.is_empty(),
    }
}

fn spec(args: &HoldUpdates) -> UpdateHoldSpec {
    let kbs: BTreeSet<KbId> = args.kbs.iter().cloned().collect();
    let labels: BTreeMap<String, String> = args.selector.iter().flatten().cloned().collect();
    UpdateHoldSpec {
        kbs: kbs.into_iter().collect(),
        selector: (!labels.is_empty())
            .then_some(LabelSelector { match_labels: Some(labels), match_expressions: None }),
        devices: Vec::new(),
        include_superseding: if args.superseding {
            IncludeSuperseding::Hold
        } else {
            IncludeSuperseding::Warn
        },
        reason: args.reason.clone(),
        evidence: Vec::new(),
        rollout: None,
    }
}

/// A name that says what is barred, the same for the same: `kb5068787`, `kb5068787-1f0c33ab`.
fn name_of(spec: &UpdateHoldSpec) -> String {
    let kbs = spec.kbs.iter().take(NAMED).map(|kb| kb.as_str().to_ascii_lowercase());
    let mut name = kbs.collect::<Vec<_>>().join("-");
    let is_told = spec.kbs.len() <= NAMED
        && spec.selector.is_none()
        && spec.devices.is_empty()
        && spec.include_superseding == IncludeSuperseding::Warn;
    if !is_told {
        let scope = UpdateHoldSpec { reason: String::new(), ..spec.clone() };
        let text = serde_json::to_string(&scope).unwrap_or_default();
        let digest = ring::digest::digest(&ring::digest::SHA256, text.as_bytes());
        name.push('-');
        name.extend(digest.as_ref().iter().take(4).map(|byte| format!("{byte:02x}")));
    }
    name
}

fn is_same(one: &UpdateHoldSpec, other: &UpdateHoldSpec) -> bool {
    let kbs = |spec: &UpdateHoldSpec| spec.kbs.iter().cloned().collect::<BTreeSet<_>>();
    kbs(one) == kbs(other)
        && one.selector == other.selector
        && one.devices == other.devices
        && one.include_superseding == other.include_superseding
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bar(text: &str) -> UpdateHoldSpec {
        serde_yaml::from_str(text).unwrap()
    }

    #[test]
    fn a_bar_has_a_name_that_says_what_it_bars_and_is_the_same_for_the_same() {
        assert_eq!(name_of(&bar("{reason: r, kbs: [KB5068787]}")), "kb5068787");
        let ward = "{reason: r, kbs: [KB5068787], selector: {matchLabels: {ward: '3'}}}";
        let again = "{reason: other, kbs: [KB5068787], selector: {matchLabels: {ward: '3'}}}";
        assert_eq!(name_of(&bar(ward)), name_of(&bar(again)));
        assert_ne!(name_of(&bar(ward)), "kb5068787");
        let wider = bar("{reason: r, kbs: [KB5068787], includeSuperseding: Hold}");
        assert_ne!(name_of(&wider), "kb5068787");
        assert!(!is_same(&wider, &bar("{reason: r, kbs: [KB5068787]}")));
        assert!(is_same(&bar(ward), &bar(again)));
    }

    #[test]
    fn the_bar_of_one_device_is_lifted_by_its_name_and_with_no_other() {
        let fleet = bar("{reason: r, kbs: [KB5068787]}");
        let one = bar("{reason: r, kbs: [KB5068787], devices: [ws-1]}");
        assert!(is_meant(&fleet, None) && !is_meant(&fleet, Some("ws-1")));
        assert!(is_meant(&one, Some("ws-1")) && !is_meant(&one, Some("ws-2")));
        assert!(!is_meant(&one, None), "many devices are not let go by one word");
    }
}
