//! The sentences of alerts: `SRV-1 is Offline — Post-Patch Reboot Pending (KB5068787, rollout 2026-11,
//! stage production, rebooting for 14 min, expected back by 02:40 UTC)`.

use std::collections::{BTreeMap, BTreeSet};

use jiff::{SignedDuration, Timestamp, tz::TimeZone};
use wardring_api::{
    AlertKind, JobAction, KbId, LineState, SliceLine,
    conditions::{clip, whole_seconds},
};

use super::{Alert, Ended, Told};
use crate::{
    Activity, DeviceRow, Doings, HoldView, StopView, damage,
    explain::{devices, lower_first, one_line},
};

/// Longest sentence.
const MAX_SUMMARY: usize = 512;
/// KBs and devices that a sentence names.
const NAMED: usize = 3;
/// Devices at work that an EmergencyStop's sentence names: somebody looks after each of them.
const MID_FLIGHT: usize = 5;
/// Longest reason of an EmergencyStop in its sentence: who is mid-flight stands behind it.
const MAX_REASON: usize = 160;

/// Of a device at work, which restarts or is out of contact.
pub fn activity(
    activity: &Activity,
    restarts: bool,
    since: Timestamp,
    until: Option<Timestamp>,
    now: Timestamp,
) -> String {
    let ago = span(now.duration_since(since));
    let (what, detail) = match activity.doing {
        _ if restarts => {
            let back = until.map(|until| format!(", expected back by {}", clock(until, now)));
            let back = back.unwrap_or_default();
            ("Post-Patch Reboot Pending", format!("rebooting for {ago}{back}"))
        }
        Doings::AwaitingReboot => {
            ("Installed, Awaiting Its Reboot", format!("out of contact for {ago}"))
        }
        Doings::Verifying => ("Lost After Its Post-Patch Reboot", format!("silent for {ago}")),
        Doings::RollingBack => ("Rollback in Progress", format!("out of contact for {ago}")),
        Doings::Rebooting | Doings::Installing | Doings::Unreachable => {
            ("Patch in Progress", format!("out of contact for {ago}"))
        }
    };
    let context = context(&activity.kbs, &activity.rollout, &activity.stage, &detail);
    clip(&format!("{} is Offline — {what} ({context})", activity.hostname), MAX_SUMMARY)
}

/// Of a device whose line ended badly.
pub fn line(alert: &Alert, line: &SliceLine, row: Option<&DeviceRow>, now: Timestamp) -> String {
    let is_rollback = line.action == JobAction::Rollback;
    let what = match (alert.kind, is_rollback) {
        (AlertKind::DeviceDidNotReturn, false) => "Offline — Did Not Return After Patch",
        (AlertKind::DeviceDidNotReturn, true) => "Offline — Did Not Return From Its Rollback",
        (AlertKind::DeviceNeedsRecovery, _) => {
            "Out of Reach — Its Rollback Has to Come From Outside"
        }
        (AlertKind::DeviceReverted, _) => "Unpatched — Windows Took the Update Back at Boot",
        (AlertKind::DeviceBootLoop, _) => "in a Boot Loop — Failed After Patch",
        (AlertKind::DeviceServiceDown, _) => "Unhealthy — Service Down After Patch",
        // It may be unpatched, and not well all the same.
        (AlertKind::RollbackFailed, _) if line.state == LineState::RollbackFailed => {
            "in Doubt — Its Rollback Failed"
        }
        (AlertKind::RollbackFailed, _) => "Still Patched — Its Rollback Failed",
        _ => "Not Patched — Its Job Failed",
    };
    let mut detail = format!("since {}", clock(alert.since, now));
    if let Some(note) = &line.note {
        detail.push_str(&format!(": {}", one_line(note)));
    } else if let Some(reason) = line.reason.filter(|_| line.state != LineState::RevertedByWindows)
    {
        let meaning = lower_first(reason.meaning());
        detail.push_str(&format!(": {}", meaning.trim_end_matches('.')));
    }
    if row.is_some_and(|row| row.damaged_since.is_some()) && damage::is_told_by(line) {
        let release = format!("`kubectl wardring release device {}`", line.device);
        detail.push_str(&format!("; quarantined until somebody looked and says {release}"));
    }
    let context = context(&alert.kbs, &alert.rollout, &alert.stage, &detail);
    clip(&format!("{} is {what} ({context})", alert.hostname), MAX_SUMMARY)
}

/// Of several devices of a stage with the same trouble, beside others or not.
pub fn together(all: &[&Alert], is_further: bool, now: Timestamp) -> Alert {
    let first = all[0];
    let named: Vec<&str> = all.iter().take(NAMED).map(|one| one.hostname.as_str()).collect();
    let more = if all.len() > NAMED { " and more" } else { "" };
    let detail = format!("since {}: {}{more}", clock(first.since, now), named.join(", "));
    let context = context(&first.kbs, &first.rollout, &first.stage, &detail);
    let further = if is_further { "further " } else { "" };
    let devices = if all.len() == 1 { "device" } else { "devices" };
    let summary = format!("{} {further}{devices}: {} ({context})", all.len(), first.kind.as_str());
    Alert {
        device: String::new(),
        hostname: String::new(),
        until: None,
        devices: all.len(),
        summary: clip(&summary, MAX_SUMMARY),
        ..first.clone()
    }
}

/// Of something that is over, and why.
pub fn over(entry: &Told, ended: Ended, why: &str) -> String {
    let kind = entry.kind.as_str();
    let place = match (entry.rollout.is_empty(), entry.stage.is_empty()) {
        (true, _) => String::new(),
        (false, true) => format!(", rollout {}", entry.rollout),
        (false, false) => format!(", rollout {}, stage {}", entry.rollout, entry.stage),
    };
    let of_device = !entry.device.is_empty();
    let device = &entry.device;
    let text = match ended {
        Ended::Back if of_device => format!("{device} is back — {why} ({kind}{place})"),
        Ended::Lost => format!("{device} is Lost — {why} ({kind}{place})"),
        Ended::Away if !of_device => {
            format!("{kind} goes on — {why} ({})", place.trim_start_matches(", "))
        }
        Ended::Unwatched if !of_device => {
            let place = place.trim_start_matches(", ");
            format!(
                "{kind} is no longer watched, and the devices were not seen back — {why} ({place})"
            )
        }
        Ended::Away => format!("{device} is still Offline — {why} ({kind}{place})"),
        Ended::Unwatched => {
            format!("{device} is no longer watched, and was not seen back — {why} ({kind}{place})")
        }
        Ended::Over if entry.kind == AlertKind::EmergencyStop => {
            format!("EmergencyStop {} is no longer in Force — {why}", entry.stage)
        }
        _ if entry.kind == AlertKind::EmergencyStop => {
            format!("EmergencyStop {} is told no more — {why}", entry.stage)
        }
        _ if entry.kind == AlertKind::StageHalted => {
            format!("Rollout {} is no longer Halted — {why}", entry.rollout)
        }
        _ if entry.kind == AlertKind::ContactLost => "Wardring hears the devices again".to_owned(),
        _ if of_device => {
            format!("{kind} of {device} is over — {why} ({})", place.trim_start_matches(", "))
        }
        _ => format!("{kind} is over — {why} ({})", place.trim_start_matches(", ")),
    };
    clip(&one_line(&text), MAX_SUMMARY)
}

/// Of a rollout or a stage.
pub fn about(kind: AlertKind, rollout: &str, stage: &str, at: Timestamp, summary: String) -> Alert {
    Alert {
        kind,
        rollout: rollout.to_owned(),
        stage: stage.to_owned(),
        device: String::new(),
        hostname: String::new(),
        kbs: Vec::new(),
        since: whole_seconds(at),
        until: None,
        devices: 0,
        summary: clip(&one_line(&summary), MAX_SUMMARY),
    }
}

/// Of an EmergencyStop in force, and who of those that it matches is at work.
pub fn stop(stop: &StopView, mid_flight: &[&Activity]) -> String {
    let reason = clip(&one_line(&stop.spec.reason), MAX_REASON);
    let kbs: Vec<String> = stop.spec.kbs.iter().map(|kb| kb.as_str().to_owned()).collect();
    let of = if kbs.is_empty() { String::new() } else { format!(" of {}", few(&kbs)) };
    let doing =
        |one: &&Activity| format!("{} {}", one.hostname, one.doing.as_str().replace('_', " "));
    let named: Vec<String> = mid_flight.iter().take(MID_FLIGHT).map(doing).collect();
    let more = match mid_flight.len().saturating_sub(MID_FLIGHT) {
        0 => String::new(),
        more => format!(" and {more} more"),
    };
    let who = match mid_flight.len() {
        0 => "nobody is mid-flight".to_owned(),
        count => format!("mid-flight: {}: {}{more}", devices(count), named.join(", ")),
    };
    format!(
        "EmergencyStop {}{of} is in Force — {reason} (nothing that it matches begins; {who})",
        stop.name
    )
}

/// Of Wardring's own blindness.
pub fn contact_lost(since: Timestamp, in_flight: usize) -> Alert {
    let summary = format!(
        "Wardring hears no devices — {in_flight} are in flight; nothing is concluded from their silence \
         until gateways hear them again"
    );
    Alert { devices: in_flight, ..about(AlertKind::ContactLost, "", "", since, summary) }
}

/// Of updates that were barred. Bars on devices that took an update of one rollout back by themselves are
/// one notice, from the first of them on: there may be hundreds.
pub fn holds(holds: &[HoldView]) -> Vec<Alert> {
    let mut told = Vec::new();
    let mut own: BTreeMap<&str, Vec<&HoldView>> = BTreeMap::new();
    for hold in holds {
        match (&hold.spec.rollout, &hold.spec.devices[..]) {
            (Some(rollout), [_]) => own.entry(rollout).or_default().push(hold),
            _ => told.extend(of_hold(hold)),
        }
    }
    told.extend(own.into_iter().filter_map(|(rollout, holds)| of_own(rollout, &holds)));
    told
}

fn of_hold(hold: &HoldView) -> Option<Alert> {
    let kbs: Vec<String> = hold.spec.kbs.iter().map(|kb| kb.as_str().to_owned()).collect();
    let summary = format!("UpdateHold {} bars {} — {}", hold.name, few(&kbs), hold.spec.reason);
    let rollout = hold.spec.rollout.as_deref().unwrap_or_default();
    let about = about(AlertKind::HoldPlaced, rollout, &hold.name, hold.created_at?, summary);
    Some(Alert { kbs, ..about })
}

fn of_own(rollout: &str, holds: &[&HoldView]) -> Option<Alert> {
    let first = holds
        .iter()
        .filter(|hold| hold.created_at.is_some())
        .min_by_key(|hold| (hold.created_at, &hold.name))?;
    let kbs: BTreeSet<&str> =
        holds.iter().flat_map(|hold| &hold.spec.kbs).map(KbId::as_str).collect();
    let kbs: Vec<String> = kbs.into_iter().map(str::to_owned).collect();
    let device = first.spec.devices.first()?;
    let summary = match holds.len() {
        1 => format!(
            "UpdateHold {} bars {} on {device} — {}",
            first.name,
            few(&kbs),
            first.spec.reason
        ),
        count => format!(
            "UpdateHolds bar {} on {count} devices, {device} first, each of which took back by itself what \
             rollout {rollout} brought",
            few(&kbs)
        ),
    };
    let about = about(AlertKind::HoldPlaced, rollout, "", first.created_at?, summary);
    Some(Alert { kbs, devices: holds.len(), ..about })
}

fn context(kbs: &[String], rollout: &str, stage: &str, detail: &str) -> String {
    let kbs = if kbs.is_empty() { String::new() } else { format!("{}, ", few(kbs)) };
    format!("{kbs}rollout {rollout}, stage {stage}, {detail}")
}

fn few(kbs: &[String]) -> String {
    let named = kbs.iter().take(NAMED).cloned().collect::<Vec<_>>().join(", ");
    let more = kbs.len().saturating_sub(NAMED);
    if more > 0 { format!("{named} and {more} more") } else { named }
}

/// `02:40 UTC`, with its date if that is not today's.
fn clock(at: Timestamp, now: Timestamp) -> String {
    let (at, now) = (at.to_zoned(TimeZone::UTC), now.to_zoned(TimeZone::UTC));
    let time = at.strftime("%H:%M UTC");
    if at.date() == now.date() { time.to_string() } else { format!("{} {time}", at.date()) }
}

/// A span as people say it: `40 s`, `14 min`, `3 h 20 min`, `2 d`.
fn span(span: SignedDuration) -> String {
    let minutes = span.as_secs().max(0) / 60;
    match (minutes, minutes / 60, minutes % 60) {
        (0, ..) => format!("{} s", span.as_secs().max(0)),
        (..120, ..) => format!("{minutes} min"),
        (_, hours @ ..48, 0) => format!("{hours} h"),
        (_, hours @ ..48, rest) => format!("{hours} h {rest} min"),
        (_, hours, _) => format!("{} d", hours / 24),
    }
}
