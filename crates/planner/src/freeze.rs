//! Freezing a stage: who is in it, from now on and for good. The first stage that wants a device
//! gets it, and the list is cut into slices whose common freeze id the rollout names by one write.

use jiff::SignedDuration;
use sha2::{Digest, Sha256};
use wardring_api::{SLICE_SIZE, SliceLine, Stage, reasons::Reason};

use crate::{
    DeviceTable, NewSlice, Selector, SliceView,
    caps::later,
    names,
    validate::{Complaint, Run, Scene},
    wake::Wake,
};

/// Freeze id of a list, from the digests of its slices in order.
pub fn freeze_id<'a>(digests: impl Iterator<Item = &'a [u8; 32]>) -> String {
    let mut hash = Sha256::new();
    for digest in digests {
        hash.update(digest);
    }
    let hex = hex::encode(hash.finalize());
    format!("v1:{}", &hex[..40])
}

/// What is wrong with a stage that names a group which does not exist, now or any more. A frozen stage
/// keeps its devices, but the group's limits are gone, so nothing more may be granted there.
pub(crate) fn missing_group(
    run: &Run<'_>,
    position: usize,
    scene: &Scene<'_>,
) -> Option<Complaint> {
    let stage = run.stages[position].spec;
    let name = stage.group.as_ref().filter(|name| scene.table.find_group(name).is_none())?;
    if run.status.stages[position].freeze_id.is_none() {
        return Some(no_such_group(stage, name));
    }
    Some(Complaint::new(
        Reason::GroupNotFound,
        format!(
            "Stage {}: DeviceGroup {name} does not exist any more, and its limits are gone with it: \
             nothing more is granted. Apply the group again or abort the rollout.",
            stage.name
        ),
    ))
}

fn no_such_group(stage: &Stage, name: &str) -> Complaint {
    Complaint::new(
        Reason::GroupNotFound,
        format!("Stage {} names DeviceGroup {name}, which does not exist.", stage.name),
    )
}

/// Positions of the devices that the stage would freeze now.
pub(crate) fn members(
    run: &Run<'_>,
    position: usize,
    scene: &Scene<'_>,
) -> Result<Vec<usize>, Complaint> {
    let mut wanted = wanted(run.stages[position].spec, scene.table)?;
    let mut taken = vec![false; scene.table.rows().len()];
    for earlier in &run.stages[..position] {
        for line in earlier.frozen.iter().flat_map(|frozen| &frozen.lines) {
            if let Some(taken) = taken.get_mut(line.row as usize) {
                *taken = true;
            }
        }
    }
    wanted.retain(|&row| !taken[row]);
    Ok(wanted)
}

/// Positions of the devices that the stage means, whether or not an earlier one has them.
pub(crate) fn wanted(stage: &Stage, table: &DeviceTable) -> Result<Vec<usize>, Complaint> {
    let rows = table.rows();
    let mut wanted: Vec<usize> = match (&stage.group, &stage.selector) {
        (Some(name), _) => {
            let group = table.find_group(name).ok_or_else(|| no_such_group(stage, name))?;
            table.members(group)
        }
        (None, Some(selector)) => {
            let selector = Selector::new(selector);
            (0..rows.len()).filter(|&row| selector.matches(&rows[row].labels)).collect()
        }
        (None, None) => Vec::new(),
    };
    wanted.retain(|&row| !rows[row].deleting);
    Ok(wanted)
}

/// The slices of a stage that freezes `members`, and their freeze id.
pub(crate) fn slices(
    run: &Run<'_>,
    position: usize,
    members: &[usize],
    scene: &Scene<'_>,
) -> (String, Vec<NewSlice>) {
    let rows = scene.table.rows();
    let stage = run.stages[position].spec;
    let parts: Vec<&[usize]> = members.chunks(SLICE_SIZE).collect();
    let digests: Vec<[u8; 32]> =
        parts.iter().map(|part| names::digest(part.iter().map(|&row| &*rows[row].name))).collect();
    let freeze_id = freeze_id(digests.iter());
    let of = parts.len() as u32;
    let slices = parts
        .iter()
        .enumerate()
        .map(|(index, part)| NewSlice {
            name: slice_name(run, &stage.name, &freeze_id, index),
            rollout: run.id.clone(),
            stage: stage.name.clone(),
            index: index as u32,
            of,
            freeze_id: freeze_id.clone(),
            lines: part.iter().map(|&row| SliceLine::pending(&rows[row].name)).collect(),
        })
        .collect();
    (freeze_id, slices)
}

/// Object name of a slice. It carries a piece of the rollout's uid, because records outlive their
/// rollout and a new one may have the same name, and of the freeze id, because lists differ.
fn slice_name(run: &Run<'_>, stage: &str, freeze_id: &str, index: usize) -> String {
    let uid: String = run.id.uid.chars().filter(char::is_ascii_alphanumeric).take(8).collect();
    let freeze: String = freeze_id.trim_start_matches("v1:").chars().take(8).collect();
    format!("{}.{}.{stage}.{freeze}.{index:04}", run.id.name, uid.to_ascii_lowercase())
}

/// How long the record of a run stays after its rollout is gone: it is the audit of the run.
const RECORD_RETENTION: SignedDuration = SignedDuration::from_hours(90 * 24);

/// Names of slices that nobody needs: of a list that was not frozen after all, or of a run that is
/// gone and past its retention.
pub(crate) fn garbage<'a>(runs: &[Run<'_>], scene: &Scene<'a>, wake: &mut Wake) -> Vec<&'a str> {
    let mut names = Vec::new();
    for slice in &scene.snapshot.slices {
        let run = runs.iter().find(|run| run.uid() == slice.rollout_uid);
        let is_garbage = match run {
            Some(run) => is_unnamed(run, slice),
            None => slice
                .created_at
                .is_some_and(|created| wake.is_due(later(created, RECORD_RETENTION))),
        };
        if is_garbage {
            names.push(slice.name.as_str());
        }
    }
    names
}

/// Whether the run has frozen another list than the slice's. While its stage is not open the slice
/// may be the first write of opening it; it is garbage once the status names something else.
fn is_unnamed(run: &Run<'_>, slice: &SliceView) -> bool {
    run.before.stages.iter().any(|stage| {
        stage.name == slice.stage
            && stage.freeze_id.as_ref().is_some_and(|named| *named != slice.freeze_id)
    })
}
