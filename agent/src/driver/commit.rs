//! Making state and outbox durable, and saying so when that is not possible.

use std::sync::Arc;
use std::time::Duration;

use wardring_protocol::{Progress, ReportBody, key_id};

use super::poll::View;
use super::{Msg, Run};
use crate::gateway::Gateway;
use crate::platform::Platform;
use crate::state::JobRun;

/// Pause after the journal could not be written: the disk may be full.
const RETRY: Duration = Duration::from_secs(5);

/// What the last write of this run left.
#[derive(Default)]
pub(super) struct Durable {
    /// A number that the journal has given away: a report with it may be sent although no journal can
    /// be written, and no later run will give it to another report.
    spare: Option<u64>,
    /// Where the job stood.
    progress: Option<Progress>,
}

impl<P: Platform, G: Gateway> Run<'_, P, G> {
    /// Makes state and outbox durable; false when the agent was stopped before that. No effect may
    /// run without it, so a full disk is waited for, and told.
    pub(super) async fn commit(&mut self) -> bool {
        let mut before = std::mem::take(&mut self.durable);
        let spare = self.saved.outbox.give_away();
        let mut is_told = false;
        while let Err(error) = self.agent.journal.save(&self.saved) {
            let why = std::error::Error::source(&error).map(ToString::to_string);
            tracing::error!(device = self.device(), %error, why, "nothing moves until it can be");
            is_told |= self.tell(&mut before, why.as_deref().unwrap_or_default());
            tokio::time::sleep(RETRY).await;
            if *self.stop.borrow() {
                return false;
            }
        }
        let progress = self.saved.state.job.as_ref().map(JobRun::progress);
        if let Some(progress) = progress.clone().filter(|_| is_told) {
            // What was told is over.
            self.saved.outbox.push(ReportBody::Progress(progress), None);
            self.send_soon();
        }
        self.durable = Durable { spare: Some(spare), progress };
        self.view.send_if_modified(|view| {
            let next = View {
                known: self.saved.state.known().map(key_id),
                seq: self.saved.state.highest_sequence,
            };
            let is_new = next != *view;
            *view = next;
            is_new
        });
        true
    }

    /// Tells people why the job does not move, once, with nothing but what is durable.
    fn tell(&mut self, durable: &mut Durable, why: &str) -> bool {
        if self.is_sending {
            return false;
        }
        let (Some(spare), Some(progress)) = (durable.spare.take(), durable.progress.take()) else {
            return false;
        };
        let message = format!("waiting: the agent cannot write its journal ({why})");
        let body = ReportBody::Progress(Progress { message, ..progress });
        let Some(reports) = self.saved.outbox.durable_with(spare, body) else { return false };
        self.is_sending = true;
        let batch = self.batch(reports);
        let (gateway, tx) = (Arc::clone(&self.agent.gateway), self.tx.clone());
        self.tasks.spawn(async move {
            let result = gateway.report(&batch).await;
            // Nobody reads it when the run is over.
            let _ = tx.send(Msg::Reported(result));
        });
        true
    }
}
