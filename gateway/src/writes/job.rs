//! Writing a job's status.

use jiff::Timestamp;
use kube::{
    Api,
    api::{Patch, PatchParams},
};
use serde_json::{Map, Value, json};
use wardring_api::{PatchJob, PatchJobStatus, names::GATEWAY_MANAGER};

use super::{JobSlot, JobWish, TRIES, WriteError, Writer};
use crate::{
    cache::job_key,
    merge::{apply_outcome, apply_progress, apply_refused_step, note_run},
};

/// Writes a wish, if the device's job is still the one it speaks of.
pub(super) async fn write(
    writer: &Writer,
    slot: &JobSlot,
    wish: JobWish,
) -> Result<(), WriteError> {
    let (path, key) = slot;
    let (namespace, name) = path.split_once('/').expect("made by `path`, which puts a slash");
    let api: Api<PatchJob> = Api::namespaced(writer.shared.client.clone(), namespace);
    let cached = writer.shared.cache.job_at(path);
    let mut job = cached.filter(|known| known.key == *key).map(|known| known.job.clone());
    for _ in 0..TRIES {
        let current = match job.take() {
            Some(job) => job,
            None => match writer.call("read", api.get_opt(name)).await? {
                Some(job) if job_key(&job) == *key => job,
                // The grant is over; nobody waits for this report.
                _ => return Ok(()),
            },
        };
        let old = current.status.clone().unwrap_or_default();
        let new = merged(old.clone(), current.spec.attempt, &wish, Timestamp::now());
        let Some(changes) = changes(&old, &new) else { return Ok(()) };
        let patch = json!({
            "metadata": { "resourceVersion": current.metadata.resource_version },
            "status": changes,
        });
        let params =
            PatchParams { field_manager: Some(GATEWAY_MANAGER.into()), ..Default::default() };
        let patch = Patch::Merge(patch);
        let call = async {
            match api.patch_status(name, &params, &patch).await {
                Ok(job) => Ok(Some(job)),
                Err(kube::Error::Api(status)) if matches!(status.code, 404 | 409) => Ok(None),
                Err(error) => Err(error),
            }
        };
        if let Some(written) = writer.call("job", call).await? {
            writer.shared.cache.put_job(written);
            return Ok(());
        }
    }
    Err(WriteError::Api("the job's status changes too fast".to_owned()))
}

/// The status with the wish in it.
pub(crate) fn merged(
    mut status: PatchJobStatus,
    attempt: u32,
    wish: &JobWish,
    now: Timestamp,
) -> PatchJobStatus {
    if let Some(report) = &wish.progress {
        apply_progress(&mut status, attempt, report);
    }
    if let Some((step, heard)) = wish.awaited {
        apply_refused_step(&mut status, attempt, step, heard);
    }
    if let Some(signed) = &wish.outcome {
        apply_outcome(&mut status, attempt, signed, now);
    }
    if let Some(run) = &wish.run {
        note_run(&mut status, attempt, run);
    }
    status
}

/// A merge patch from one status to another: changed fields, and null for those that went. None if
/// they are equal.
fn changes(old: &PatchJobStatus, new: &PatchJobStatus) -> Option<Value> {
    let fields = |status: &PatchJobStatus| match serde_json::to_value(status) {
        Ok(Value::Object(fields)) => fields,
        _ => unreachable!("a status serialises to an object"),
    };
    let (old, new) = (fields(old), fields(new));
    let mut changes: Map<String, Value> =
        new.iter().filter(|(field, value)| old.get(*field) != Some(value)).map(own).collect();
    let gone = old.keys().filter(|field| !new.contains_key(*field));
    changes.extend(gone.map(|field| (field.clone(), Value::Null)));
    if changes.is_empty() { None } else { Some(Value::Object(changes)) }
}

fn own((field, value): (&String, &Value)) -> (String, Value) {
    (field.clone(), value.clone())
}
