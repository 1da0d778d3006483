//! What is known of this device from its data folder alone, whether its agent runs or not.

use std::path::Path;

use serde_json::{Value, json};

use crate::identity::{IdentityError, IdentityFile, Known};
use crate::journal::{Durability, Journal, Loaded, SCHEMA};
use crate::pause;
use crate::platform::wall_clock;
use crate::service::update::Marker;
use crate::state::State;

/// Who the device is and what it is doing.
#[derive(Clone, Debug)]
pub struct Status {
    /// As a document.
    pub document: Value,
    /// What somebody must see to, as a sentence.
    pub trouble: Option<String>,
}

/// Reads the status from a data folder.
///
/// # Errors
/// The identity is there and cannot be used.
pub fn read(folder: &Path) -> Result<Status, IdentityError> {
    let identity = match IdentityFile::new(folder).load()? {
        Known::Nothing => json!({ "enrolled": false }),
        Known::Applicant(applicant) => json!({ "enrolled": false, "asking": applicant.device }),
        Known::Enrolled(identity) => json!({
            "enrolled": true,
            "namespace": identity.me.namespace,
            "device": identity.me.device,
            "enrolmentId": identity.me.device_id,
            "certificateEnds": identity.details.not_after,
        }),
    };
    let shown = folder.display();
    let loaded = Journal::new(folder, Durability::Disk).load();
    let trouble = match &loaded {
        Loaded::Lost(why) => Some(format!(
            "the journal in {shown} is damaged ({why}); start the agent: it tells the controller \
             that the job in hand is lost and begins a new journal"
        )),
        Loaded::Newer(found) => Some(format!(
            "the journal in {shown} was written by a newer agent (layout {found}; this one reads \
             {SCHEMA}); use the newer agent"
        )),
        Loaded::Fresh | Loaded::Found(_) => None,
    };
    let mut document = json!({ "identity": identity, "journal": journal(loaded) });
    if let Some(pause) = pause::look(folder, wall_clock()) {
        document["paused"] = json!(pause);
        document["paused"]["sentence"] = json!(pause.sentence());
    }
    let update = Marker::load(folder);
    if update != Marker::default() {
        document["agentUpdate"] = json!(update);
    }
    Ok(Status { document, trouble })
}

fn journal(loaded: Loaded) -> Value {
    match loaded {
        Loaded::Fresh => json!({ "state": "none" }),
        Loaded::Lost(why) => json!({ "state": "lost", "why": why }),
        Loaded::Newer(found) => json!({ "state": "newer", "layout": found }),
        Loaded::Found(saved) => json!({
            "state": "found",
            "mode": saved.state.mode,
            "boot": saved.state.boot,
            "build": saved.state.build,
            "job": saved.state.job.as_ref().map(|job| json!({
                "rollout": job.payload.rollout,
                "attempt": job.payload.key.attempt,
                "phase": job.phase.word(),
                "message": job.message,
            })),
            "lastOutcome": saved.state.finished.last(),
            "watches": watches(&saved.state),
            "reportsWaiting": !saved.outbox.is_empty(),
        }),
    }
}

/// What is looked at further after installations that were proven, and what is worse there than before.
fn watches(state: &State) -> Vec<Value> {
    let facts = state.health_facts();
    let told = state.watches.iter().zip(facts).map(|(watch, fact)| {
        let unhealthy: Vec<Value> = fact
            .unhealthy
            .iter()
            .map(|worse| json!({ "kind": worse.kind, "name": worse.name, "why": worse.why }))
            .collect();
        json!({
            "since": watch.since,
            "until": watch.until,
            "services": watch.checks.services,
            "probes": watch.checks.probes.iter().map(|probe| &probe.name).collect::<Vec<_>>(),
            "blind": fact.blind,
            "restarts": fact.restarts,
            "unhealthy": unhealthy,
        })
    });
    told.collect()
}
