//! Taking over a namespace: raise the ledger's sequence, then read everything as it is now. From that
//! moment every compare-and-swap of an earlier leader fails.

use kube::{
    Api,
    api::{ObjectMeta, Patch, PatchParams, PostParams},
};
use serde_json::json;
use wardring_api::{PatchLedger, PatchLedgerSpec, names};

use wardring_planner::{TAKE_OVERS_KEPT, take_over as next_sequence};

use super::{
    Desk, Memory, Stop,
    observe::{confirmed_sequence, foreign},
    write::Writer,
};
use crate::cache::{FenceError, Kind, fence, version_number};

/// Why a namespace could not be taken over.
#[derive(Debug, thiserror::Error)]
pub enum TakeOverError {
    /// The ledger.
    #[error("failed to raise the ledger's sequence")]
    Ledger(#[source] kube::Error),
    /// The lists.
    #[error(transparent)]
    Fence(#[from] FenceError),
}

/// Raises the sequence, making the ledger if there is none, and fences the cache.
pub async fn take_over(desk: &Desk, namespace: &str) -> Result<(), TakeOverError> {
    let api: Api<PatchLedger> = Api::namespaced(desk.client.clone(), namespace);
    let ledger = match api.get_opt(names::LEDGER_NAME).await.map_err(TakeOverError::Ledger)? {
        Some(ledger) => ledger,
        None => {
            let object = PatchLedger {
                metadata: ObjectMeta {
                    name: Some(names::LEDGER_NAME.to_owned()),
                    ..ObjectMeta::default()
                },
                spec: PatchLedgerSpec::default(),
                status: None,
            };
            api.create(&post(), &object).await.map_err(TakeOverError::Ledger)?
        }
    };
    let status = ledger.status.clone().unwrap_or_default();
    let sequence = next_sequence(status.sequence, rand::random());
    let mut take_overs = status.take_overs;
    take_overs.push(sequence);
    take_overs.drain(..take_overs.len().saturating_sub(TAKE_OVERS_KEPT));
    raise(desk, &api, &ledger, &take_overs).await.map_err(TakeOverError::Ledger)?;
    fence(&desk.client, &desk.cache, namespace).await?;
    tracing::info!(namespace, sequence, "took over the namespace");
    Ok(())
}

/// After a restore from backup: once a person confirmed the highest sequence that the restore lost,
/// the ledger begins a new history above it.
pub async fn raise_to_confirmed(
    desk: &Desk,
    namespace: &str,
    memory: &mut Memory,
) -> Result<(), Stop> {
    let wanted = desk.cache.read(namespace, |space| {
        let space = space?;
        let confirmed = confirmed_sequence(space)?;
        (confirmed >= foreign(desk, namespace, space)?).then_some(confirmed)
    });
    let Some(confirmed) = wanted else { return Ok(()) };
    let api: Api<PatchLedger> = Api::namespaced(desk.client.clone(), namespace);
    let failed = |source| Stop::Api { action: "raise the ledger's sequence".to_owned(), source };
    let ledger = api.get(names::LEDGER_NAME).await.map_err(failed)?;
    let sequence = ledger.status.as_ref().map_or(0, |status| status.sequence).max(confirmed);
    // What was given before is no longer told apart: the person answered for all of it.
    let take_overs = [next_sequence(sequence, rand::random())];
    let object = raise(desk, &api, &ledger, &take_overs).await.map_err(failed)?;
    let version = object.metadata.resource_version.as_deref().map_or(0, version_number);
    Writer::new(desk, namespace, memory).memory_wait(Kind::Ledger, version);
    tracing::warn!(namespace, confirmed, "a person confirmed the restore: granting resumes");
    Ok(())
}

/// Writes the latest take-overs, the last of which is the new sequence.
async fn raise(
    desk: &Desk,
    api: &Api<PatchLedger>,
    ledger: &PatchLedger,
    take_overs: &[i64],
) -> Result<PatchLedger, kube::Error> {
    let patch = json!({
        "metadata": {"resourceVersion": ledger.metadata.resource_version},
        "status": {
            "sequence": take_overs.last(), "takeOvers": take_overs, "holder": desk.holder,
        },
    });
    let params = PatchParams {
        field_manager: Some(names::CONTROLLER_MANAGER.to_owned()),
        ..PatchParams::default()
    };
    api.patch_status(names::LEDGER_NAME, &params, &Patch::Merge(&patch)).await
}

fn post() -> PostParams {
    PostParams {
        field_manager: Some(names::CONTROLLER_MANAGER.to_owned()),
        ..PostParams::default()
    }
}
