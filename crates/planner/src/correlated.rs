//! Failures that are alike. A budget bears devices that fail each for a reason of their own; devices that
//! fail for the same one are the update's doing, and the next one like them fails too.
//!
//! The factors are told apart by what they can prove. A code is a property of the failure: it counts
//! by itself. A role, a model, a product or a build is a property of the device: one that everybody
//! has explains nothing, so it counts only in comparison with tried devices that do not have it.
//! Nothing is walked as long as fewer devices failed than the brake asks for.

use std::collections::{BTreeMap, BTreeSet};

use wardring_api::{DeviceRole, JobAction, LineState, StageState, UpdateKind, reasons::Reason};

use crate::{
    DeviceRow, explain,
    line::{Frozen, Line},
    validate::{Complaint, Run, Scene},
};

/// Devices that fail alike before it is no coincidence.
const DEFAULT_DEVICES: usize = 3;

/// A code halts when at least one in so many of the tried devices failed with it: three failures of the
/// same kind among a thousand proven devices are what every month brings.
const ONE_IN_TRIED: usize = 10;

/// A property of devices halts when at least one in so many of those that have it failed …
const ONE_IN_ALIKE: usize = 4;

/// … and that is more than so many times the share among the others.
const TIMES_THE_OTHERS: usize = 2;

/// Something that failed devices have in common. The order is that of the sentence: what says most
/// comes first.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Factor {
    Code(String),
    Role(DeviceRole),
    Model(String),
    Product(String),
    /// The part of the build before the dot: what follows it is changed by the update itself.
    Build(String),
}

impl Factor {
    /// What the device itself has.
    fn of_device(row: &DeviceRow) -> impl Iterator<Item = Factor> {
        let roles = row.roles.iter().map(|role| Factor::Role(*role));
        let model = row.model.as_deref().map(|model| Factor::Model(model.to_owned()));
        let product = row.product.as_deref().map(|product| Factor::Product(product.to_owned()));
        let family = row.build.as_deref().and_then(|build| build.split('.').next());
        let build = family.filter(|all| !all.is_empty()).map(|all| Factor::Build(all.to_owned()));
        roles.chain(model).chain(product).chain(build)
    }

    /// Whether an upgrade changes it: then proven devices always differ from failed ones.
    fn is_moved_by_an_upgrade(&self) -> bool {
        matches!(self, Factor::Product(_) | Factor::Build(_))
    }
}

impl std::fmt::Display for Factor {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Factor::Code(code) => out.write_str(code),
            Factor::Role(role) => write!(out, "role {role:?}"),
            Factor::Model(model) => write!(out, "model {model}"),
            Factor::Product(product) => write!(out, "product {product}"),
            Factor::Build(family) => write!(out, "build {family}"),
        }
    }
}

/// How many of the tried devices with a factor failed, and of those without it.
#[derive(Clone, Copy, Debug, Default)]
struct Share {
    failed: usize,
    tried: usize,
    other_failed: usize,
    other_tried: usize,
}

impl Share {
    fn explains(&self, factor: &Factor, most: usize) -> bool {
        if self.failed < most {
            return false;
        }
        if matches!(factor, Factor::Code(_)) {
            return self.failed * ONE_IN_TRIED >= self.tried;
        }
        // As many others must have been tried as it takes to halt: fewer are no comparison.
        self.other_tried >= most
            && self.failed * ONE_IN_ALIKE >= self.tried
            && self.failed * self.other_tried > TIMES_THE_OTHERS * self.other_failed * self.tried
    }

    fn told(&self, factor: &Factor) -> String {
        match factor {
            Factor::Code(_) => format!("{factor} on {} of {} tried", self.failed, self.tried),
            _ => format!(
                "{factor} on {} of {} tried, and {} of {} others",
                self.failed, self.tried, self.other_failed, self.other_tried
            ),
        }
    }
}

/// A device that failed or fell silent: stage and position in it.
type Fallen = (usize, usize);

/// Why failures that are alike halt the run, if they do, with the last stage that has one of them.
/// Failures alone come first: only they may lead to a rollback, and only of the devices that failed.
pub(crate) fn verdict(run: &Run<'_>, scene: &Scene<'_>) -> Option<(usize, Complaint)> {
    let most = run.rollout.spec.correlated_failures.devices;
    let most = most.map_or(DEFAULT_DEVICES, |devices| devices as usize);
    let bad: usize = run.stages.iter().map(|stage| stage.tally.bad).sum();
    let silent: usize = run.stages.iter().map(|stage| stage.tally.silent).sum();
    if most == 0 || bad + silent < most || is_completed(run) {
        return None;
    }
    let (failed, silent) = fallen(run);
    let complaint = |fallen: &[Fallen], reason| {
        let found = common(run, fallen, most, scene);
        let position = fallen.iter().map(|all| all.0).max()?;
        (!found.is_empty()).then(|| (position, told(run, fallen, &found, most, reason)))
    };
    complaint(&failed, Reason::CorrelatedFailure).or_else(|| {
        let all: Vec<Fallen> = failed.iter().chain(&silent).copied().collect();
        (!silent.is_empty()).then(|| complaint(&all, Reason::CorrelatedSilence)).flatten()
    })
}

/// Nothing of a run that is through can be stopped any more, and what its devices report by then is not
/// what they were when they were tried.
fn is_completed(run: &Run<'_>) -> bool {
    run.status.stages.iter().all(|stage| stage.state == StageState::Completed)
}

/// Devices that failed by the update, and devices that fell silent. What a retry answered does not count,
/// as it does not for budgets.
fn fallen(run: &Run<'_>) -> (Vec<Fallen>, Vec<Fallen>) {
    let (mut failed, mut silent) = (Vec::new(), Vec::new());
    for (position, stage) in run.stages.iter().enumerate() {
        let Some(frozen) = &stage.frozen else { continue };
        let since = run.status.stages[position].started_at;
        for (index, line) in frozen.lines.iter().enumerate() {
            let is_over = line.state != LineState::Granted;
            let is_answered = is_over && since.zip(line.at).is_some_and(|(since, at)| at < since);
            if is_answered {
                continue;
            }
            if line.is_bad(&stage.rules) {
                failed.extend(speaks_of_the_update(line).then_some((position, index)));
            } else if line.state == LineState::Unreachable {
                silent.push((position, index));
            }
        }
    }
    (failed, silent)
}

/// What the line failed for before anything was taken back.
fn failure(line: &Line) -> (LineState, Option<Reason>) {
    match line.action {
        JobAction::Rollback => (line.was.unwrap_or(line.state), line.was_reason),
        JobAction::Install | JobAction::Download => (line.state, line.reason),
    }
}

/// Whether the failure can be the update's doing. The rest is of the device, of people or of us.
fn speaks_of_the_update(line: &Line) -> bool {
    let (state, reason) = failure(line);
    // What was proven and could not be taken back is the rollback's own brake's business.
    if state == LineState::Succeeded {
        return false;
    }
    !matches!(
        reason,
        Some(
            Reason::Replaced
                | Reason::Released
                | Reason::OfflineTooLong
                | Reason::CannotCreate
                | Reason::DownloadFailed
                | Reason::PreflightFailed
                | Reason::BadSignature
                | Reason::StateLost
                | Reason::StartByPassed
                | Reason::Paused
                | Reason::OnBattery
                | Reason::LowDiskSpace
                | Reason::ComponentStoreDamaged
                | Reason::ComponentStoreUnknown
                | Reason::AttendedBoot
        )
    )
}

/// The failure's code: Windows' own number where the device told one, our reason beside it. A bare
/// "Failed" says nothing that two devices could share.
fn code(frozen: &Frozen<'_>, index: usize) -> Option<Factor> {
    let (state, reason) = failure(&frozen.lines[index]);
    let word = reason.map_or(state.as_str(), Reason::as_str);
    match frozen.note(index).and_then(hresult) {
        Some(number) => Some(Factor::Code(format!("{word} {number}"))),
        None if reason.is_none() && state == LineState::Failed => None,
        None => Some(Factor::Code(word.to_owned())),
    }
}

/// The first HRESULT in a sentence, as agents write it: `0x80070643`.
fn hresult(note: &str) -> Option<&str> {
    let is_code = |word: &&str| {
        word.len() == 10
            && word.starts_with("0x")
            && word[2..].bytes().all(|digit| digit.is_ascii_hexdigit())
    };
    note.split(|letter: char| !letter.is_ascii_alphanumeric()).find(is_code)
}

/// What enough of the fallen devices have in common, with its shares.
fn common(
    run: &Run<'_>,
    fallen: &[Fallen],
    most: usize,
    scene: &Scene<'_>,
) -> Vec<(Factor, Share)> {
    let kinds = run.status.resolved_updates.iter().map(|update| update.kind);
    let moves = kinds.into_iter().any(|kind| kind == UpdateKind::FeatureUpdate);
    let mut counts: BTreeMap<Factor, usize> = BTreeMap::new();
    let frozen_at = |position: usize| run.stages[position].frozen.as_ref();
    for &(position, index) in fallen {
        let Some(frozen) = frozen_at(position) else { continue };
        let line = &frozen.lines[index];
        // Silence is nobody's code; it has a budget of its own.
        if line.is_bad(&run.stages[position].rules)
            && let Some(code) = code(frozen, index)
        {
            *counts.entry(code).or_default() += 1;
        }
        let properties = scene.row(line).into_iter().flat_map(Factor::of_device);
        for factor in properties.filter(|factor| !(moves && factor.is_moved_by_an_upgrade())) {
            *counts.entry(factor).or_default() += 1;
        }
    }
    counts.retain(|_, count| *count >= most);
    if counts.is_empty() {
        return Vec::new();
    }
    let fell: BTreeSet<Fallen> = fallen.iter().copied().collect();
    // One walk, however many factors there are: a fleet of laptops has dozens of models.
    let mut all = 0;
    let mut tried = Tried::default();
    for (position, stage) in run.stages.iter().enumerate() {
        for (index, line) in stage.frozen.iter().flat_map(|frozen| frozen.lines.iter().enumerate())
        {
            if line.state == LineState::Succeeded || fell.contains(&(position, index)) {
                all += 1;
                tried.add(scene.row(line));
            }
        }
    }
    let shares = counts.into_iter().map(|(factor, failed)| {
        let alike = tried.with(&factor).unwrap_or(all);
        let (other_failed, other_tried) = (fallen.len() - failed, all - alike);
        (factor, Share { failed, tried: alike, other_failed, other_tried })
    });
    shares.filter(|(factor, share)| share.explains(factor, most)).collect()
}

/// How many tried devices have each property.
#[derive(Default)]
struct Tried<'a> {
    roles: BTreeMap<DeviceRole, usize>,
    models: BTreeMap<&'a str, usize>,
    products: BTreeMap<&'a str, usize>,
    builds: BTreeMap<&'a str, usize>,
}

impl<'a> Tried<'a> {
    fn add(&mut self, row: Option<&'a DeviceRow>) {
        let Some(row) = row else { return };
        for role in row.roles.iter() {
            *self.roles.entry(*role).or_default() += 1;
        }
        for (map, value) in [
            (&mut self.models, row.model.as_deref()),
            (&mut self.products, row.product.as_deref()),
            (&mut self.builds, row.build.as_deref().and_then(|build| build.split('.').next())),
        ] {
            if let Some(value) = value {
                *map.entry(value).or_default() += 1;
            }
        }
    }

    /// How many have the property; `None` of a code, which is no property of a device.
    fn with(&self, factor: &Factor) -> Option<usize> {
        let found = match factor {
            Factor::Code(_) => return None,
            Factor::Role(role) => self.roles.get(role),
            Factor::Model(model) => self.models.get(&**model),
            Factor::Product(product) => self.products.get(&**product),
            Factor::Build(family) => self.builds.get(&**family),
        };
        Some(found.copied().unwrap_or(0))
    }
}

fn told(
    run: &Run<'_>,
    fallen: &[Fallen],
    found: &[(Factor, Share)],
    most: usize,
    reason: Reason,
) -> Complaint {
    let factors: Vec<String> = found.iter().map(|(factor, share)| share.told(factor)).collect();
    let shown = fallen.iter().rev().filter_map(|&(position, index)| {
        Some(explain::failed(run.stages[position].frozen.as_ref()?, index))
    });
    let shown: Vec<String> = shown.take(3).collect();
    let verb = if reason == Reason::CorrelatedFailure { "failed" } else { "failed or fell silent" };
    Complaint::new(
        reason,
        format!(
            "{} {verb}, and what they have in common is {}; correlatedFailures halts at {most}: {}{}.",
            explain::devices(fallen.len()),
            factors.join("; "),
            shown.join(", "),
            if fallen.len() > shown.len() { " and more" } else { "" },
        ),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_number_of_a_failure_is_found_in_its_sentence() {
        let told = "KB5068787 failed: 0x80073712 (ERROR_SXS_COMPONENT_STORE_CORRUPT): repair it";
        assert_eq!(hresult(told), Some("0x80073712"));
        assert_eq!(hresult("MSSQLSERVER did not start, 0x1 and 0x8007371G aside"), None);
    }
}
