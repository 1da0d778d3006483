//! The one write about a Device that a plan asks for: its condition Quarantined.

use std::time::{Duration, Instant};

use futures::{StreamExt, stream};
use jiff::Timestamp;
use kube::{
    Api,
    api::{ObjectMeta, Patch, PatchParams},
};
use serde_json::json;
use wardring_api::{Device, conditions, names::QUARANTINE_MANAGER, reasons::Reason};

use super::write::Writer;
use crate::cache::Kind;

/// How long one that was refused is not tried again, and when the next pass is due for it.
pub const TRY_AGAIN: Duration = Duration::from_secs(25);
/// Longest wait for an answer: a halt of the next pass must not wait for somebody's webhook. A write that is
/// carried out after that is the same one.
const PATIENCE: Duration = Duration::from_secs(2);
/// Writes at once.
const SIDE_BY_SIDE: usize = 16;

/// The condition Quarantined of a Device, as a plan wants it.
#[derive(Clone, Debug)]
pub struct Mark {
    /// Name of the Device.
    pub device: String,
    /// Whether it is to be quarantined.
    pub quarantined: bool,
    /// Reason of the condition.
    pub reason: Reason,
    /// The sentence.
    pub message: String,
    /// Time of the transition.
    pub since: Timestamp,
}

impl Writer<'_> {
    /// Writes the conditions side by side. One that fails concerns its own device alone: it is said, and
    /// tried again after a while. Saying the same again changes nothing.
    pub async fn write_quarantines(&mut self, marks: Vec<Mark>) {
        let refused = &mut self.memory.refused_marks;
        refused.retain(|_, at| at.elapsed() < TRY_AGAIN);
        let due = marks.into_iter().filter(|mark| !refused.contains_key(&mark.device));
        let due: Vec<Mark> = due.collect();
        let api = self.api::<Device>();
        let written: Vec<_> = stream::iter(due)
            .map(|mark| {
                let api = api.clone();
                async move {
                    let written = tokio::time::timeout(PATIENCE, write(&api, &mark)).await;
                    (mark, written.map_err(|_| "no answer in time".to_owned()))
                }
            })
            .buffer_unordered(SIDE_BY_SIDE)
            .collect()
            .await;
        for (mark, written) in written {
            match written.and_then(|written| written.map_err(|error| error.to_string())) {
                Ok(Some(meta)) => {
                    self.wrote(Kind::Device, "status", &meta);
                }
                // It is gone, and with it what could be damaged.
                Ok(None) => {}
                Err(error) => {
                    tracing::error!(
                        namespace = self.namespace,
                        device = mark.device,
                        quarantined = mark.quarantined,
                        error,
                        "the condition Quarantined was not written; it is tried again"
                    );
                    self.memory.refused_marks.insert(mark.device, Instant::now());
                }
            }
        }
    }
}

async fn write(api: &Api<Device>, mark: &Mark) -> Result<Option<ObjectMeta>, kube::Error> {
    let Mark { device, quarantined, reason, message, since } = mark;
    let mut list = Vec::new();
    let truth = (*quarantined).into();
    conditions::set(&mut list, conditions::QUARANTINED, truth, *reason, message, None, *since);
    // Applied, so that the list merges by type, and by a manager of its own: whoever applies Online
    // takes away what the same manager applied before and does not name now.
    let patch = json!({
        "apiVersion": "wardring.dev/v1alpha1",
        "kind": "Device",
        "metadata": {"name": device},
        "status": {"conditions": list},
    });
    let params = PatchParams::apply(QUARANTINE_MANAGER).force();
    match api.patch_status(device, &params, &Patch::Apply(&patch)).await {
        Ok(object) => Ok(Some(object.metadata)),
        Err(kube::Error::Api(status)) if status.is_not_found() => Ok(None),
        Err(error) => Err(error),
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use std::sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    };

    use super::*;
    use crate::{
        cache::Cache,
        events::tests::{api_server, refusal},
        pass::{Memory, apply::tests::desk},
    };

    fn mark(device: &str) -> Mark {
        let reason = Reason::RollbackFailed;
        let (device, message) = (device.to_owned(), "It failed.".to_owned());
        Mark { device, quarantined: true, reason, message, since: Timestamp::UNIX_EPOCH }
    }

    #[tokio::test]
    async fn a_refused_mark_delays_its_own_device_alone_and_is_not_asked_for_in_every_pass() {
        let asked = Arc::new([AtomicUsize::new(0), AtomicUsize::new(0)]);
        let count = asked.clone();
        let (client, _) = api_server(move |path, body| {
            let is_refused = path.contains("ws-1");
            count[usize::from(is_refused)].fetch_add(1, Ordering::SeqCst);
            if is_refused {
                return refusal(403, "somebody's policy");
            }
            let mut device = body;
            device["spec"] = json!({});
            device["metadata"]["resourceVersion"] = json!("7");
            (200, device)
        });
        let desk = desk(client, &Cache::default());
        let mut memory = Memory::default();
        let now = || [asked[0].load(Ordering::SeqCst), asked[1].load(Ordering::SeqCst)];
        for _ in 0..3 {
            let mut writer = Writer::new(&desk, "clinic", &mut memory);
            writer.write_quarantines(vec![mark("ws-1"), mark("ws-2")]).await;
        }
        assert_eq!(now(), [3, 1]);
        assert!(memory.refused_marks.contains_key("ws-1") && memory.refused_marks.len() == 1);

        memory.refused_marks.values_mut().for_each(|at| *at -= TRY_AGAIN);
        let mut writer = Writer::new(&desk, "clinic", &mut memory);
        writer.write_quarantines(vec![mark("ws-1")]).await;
        assert_eq!(now(), [3, 2], "tried again after a while");
    }
}
