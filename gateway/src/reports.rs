//! `POST /v1/reports`: takes in the agent's outbox, and acks what is durable.
//!
//! A report is acked when the API server has it, or when it can never matter (a late copy, another
//! device's job, a grant that is over). Everything else stays with the agent, so a gateway that dies
//! loses nothing.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use axum::{Json, extract::State};
use futures::future::join_all;
use jiff::Timestamp;
use tokio::time::{self, Instant};
use wardring_protocol::{MAX_REPORT_WAIT_MS, ReportAck, ReportBatch, check_batch};
use wardring_seal::JobKey;

use crate::{
    Gateway,
    answer::Refusal,
    body::Message,
    cache::{KnownJob, path},
    fresh,
    identity::Speaker,
    merge::{FactsReport, OutcomeReport, ProgressReport, reduce},
    writes::{JobWish, Receipt, WriteError, wanted},
};

/// Takes a batch.
pub async fn reports(
    State(gateway): State<Arc<Gateway>>,
    speaker: Speaker,
    Message(batch): Message<ReportBatch>,
) -> Result<Json<ReportAck>, Refusal> {
    check_batch(&batch).map_err(|malformed| Refusal::malformed(malformed.to_string()))?;
    gateway.note(&speaker, &batch.agent_run, 0);
    let intake = Intake {
        gateway: &gateway,
        speaker: &speaker,
        run: batch.agent_run.clone(),
        boot: batch.boot_id.clone(),
    };
    intake.take(batch).await.map(Json)
}

struct Intake<'a> {
    gateway: &'a Gateway,
    speaker: &'a Speaker,
    run: String,
    boot: String,
}

/// What becomes of the reports of a batch, by number; those not in here are durable or dropped.
#[derive(Default)]
struct Open {
    /// Written soon: worth waiting for.
    soon: Vec<(u64, Receipt)>,
    /// Written late, on purpose.
    late: Vec<u64>,
}

impl Intake<'_> {
    async fn take(&self, batch: ReportBatch) -> Result<ReportAck, Refusal> {
        let last = batch.reports.last().map_or(0, |report| report.seq);
        let highest_now = self.speaker.peer.note_report(last);
        // A report that a newer one of the same batch replaces is as good as dropped, so only the
        // numbers that are left decide what can be acked.
        let numbers: Vec<u64> = batch.reports.iter().map(|report| report.seq).collect();
        let reduced = reduce(batch, Timestamp::now());
        self.gateway.metrics.reports_dropped.inc_by(u64::from(reduced.unreadable));

        let mut open = Open::default();
        let jobs = self.jobs(reduced.progress, reduced.outcomes);
        let mut highest_stored = self.speaker.device.report_seq;
        for (key, (progress, outcome)) in jobs {
            let job = self.find(&key).await?;
            if let Some(job) = &job {
                let stored = job.job.status.as_ref().and_then(|status| status.report_seq);
                highest_stored = highest_stored.max(stored.unwrap_or(0));
            }
            match job.filter(|_| self.is_own(&key, outcome.as_ref())) {
                Some(job) => self.job(&job, progress, outcome, &mut open)?,
                None => drop(self.gateway.metrics.reports_dropped.inc()),
            }
        }
        if let Some((seq, facts)) = reduced.facts {
            self.facts(seq, facts, &mut open)?;
        }
        let failed = settle(open.soon).await;
        let first_open = failed.into_iter().chain(open.late).min();
        let acked = |seq: &&u64| first_open.is_none_or(|open| **seq < open);
        let highest_stored = u64::try_from(highest_stored).unwrap_or(0);
        Ok(ReportAck {
            acked_through: numbers.iter().rfind(acked).copied().unwrap_or(0),
            highest_seen: highest_now.max(highest_stored),
            retry_ms: if first_open.is_some() { self.retry_ms() } else { 0 },
        })
    }

    /// Progress and outcomes by grant.
    #[allow(clippy::type_complexity)]
    fn jobs(
        &self,
        progress: BTreeMap<JobKey, ProgressReport>,
        outcomes: BTreeMap<JobKey, OutcomeReport>,
    ) -> BTreeMap<JobKey, (Option<ProgressReport>, Option<OutcomeReport>)> {
        let mut jobs: BTreeMap<_, (Option<_>, Option<_>)> =
            progress.into_iter().map(|(key, report)| (key, (Some(report), None))).collect();
        for (key, report) in outcomes {
            jobs.entry(key).or_default().1 = Some(report);
        }
        jobs
    }

    /// Whether a grant is this device's to speak of.
    fn is_own(&self, key: &JobKey, outcome: Option<&OutcomeReport>) -> bool {
        key.device_id == self.speaker.enrolment_id()
            && outcome.is_none_or(|report| *report.namespace == *self.speaker.device.namespace)
    }

    /// The job of a grant: from the cache, or from the API server if the cache does not know it,
    /// because a report is dropped for good only after a fresh read.
    async fn find(&self, key: &JobKey) -> Result<Option<Arc<KnownJob>>, Refusal> {
        if key.device_id != self.speaker.enrolment_id() {
            return Ok(None);
        }
        let device = &self.speaker.device;
        if let Some(job) = self.gateway.cache.job(device)
            && job.key == *key
        {
            return Ok(Some(job));
        }
        let read = fresh::read(&self.gateway.client, &device.namespace, &device.name).await;
        let read: fresh::Fresh<wardring_api::PatchJob> = read.map_err(|error| {
            tracing::warn!(
                error = &error as &dyn std::error::Error,
                "a report waits for the API server"
            );
            Refusal::not_now("the API server cannot be reached; send the reports again")
        })?;
        if let Some(job) = read.object {
            self.gateway.cache.put_job(job);
        }
        Ok(self.gateway.cache.job(device).filter(|job| job.key == *key))
    }

    fn job(
        &self,
        job: &KnownJob,
        progress: Option<ProgressReport>,
        outcome: Option<OutcomeReport>,
        open: &mut Open,
    ) -> Result<(), Refusal> {
        let status = job.job.status.as_ref();
        let stored = status.and_then(|status| status.report_seq).unwrap_or(0);
        let progress =
            progress.filter(|report| i64::try_from(report.seq).is_ok_and(|seq| seq > stored));
        // An answer to a grant that a restored cluster forgot and gave anew: dropped, so that the agent
        // is offered the new grant and answers that.
        let speaks = |report: &OutcomeReport| report.sequence >= job.job.spec.sequence;
        let outcome =
            outcome.filter(|report| !job.is_answered() && (speaks(report) || job.is_repaired()));
        if progress.is_none() && outcome.is_none() {
            return Ok(());
        }
        let delay = match outcome {
            Some(_) => Duration::ZERO,
            None => self.gateway.settings.progress_delay,
        };
        let numbers =
            [progress.as_ref().map(|report| report.seq), outcome.as_ref().map(|report| report.seq)];
        let first = numbers.into_iter().flatten().min().unwrap_or(0);
        let wish = JobWish {
            progress,
            outcome: outcome.map(|report| report.signed),
            run: Some(self.run.clone()),
            awaited: None,
        };
        let device = &self.speaker.device;
        let slot = (path(&device.namespace, &device.name), job.key.clone());
        let receipt = self.gateway.writer.job(slot, wish, delay).map_err(busy)?;
        if delay.is_zero() {
            open.soon.push((first, receipt))
        } else {
            open.late.push(first)
        }
        Ok(())
    }

    fn facts(
        &self,
        seq: u64,
        facts: wardring_protocol::Facts,
        open: &mut Open,
    ) -> Result<(), Refusal> {
        let Speaker { device, peer, .. } = self.speaker;
        if seq <= peer.facts() {
            return Ok(());
        }
        let report = FactsReport {
            seq,
            facts,
            boot_id: self.boot.clone(),
            enrolment_id: self.speaker.enrolment_id().to_owned(),
        };
        if wanted(device, &report, Timestamp::now()).is_none() {
            peer.note_facts(seq);
            return Ok(());
        }
        let at_work = self.gateway.cache.job(device).is_some_and(|job| !job.is_answered());
        let delay = if at_work { self.gateway.settings.facts_delay } else { Duration::ZERO };
        let receipt = self
            .gateway
            .writer
            .facts(&device.namespace, &device.name, report, delay)
            .map_err(busy)?;
        if delay.is_zero() {
            open.soon.push((seq, receipt))
        } else {
            open.late.push(seq)
        }
        Ok(())
    }

    fn retry_ms(&self) -> u64 {
        u64::try_from(self.gateway.settings.progress_delay.as_millis()).unwrap_or(15_000)
    }
}

/// Waits for what is written soon; answers with the numbers that are not durable.
async fn settle(soon: Vec<(u64, Receipt)>) -> Vec<u64> {
    let deadline = Instant::now() + Duration::from_millis(MAX_REPORT_WAIT_MS);
    let waits = soon.into_iter().map(async |(seq, receipt)| {
        match time::timeout_at(deadline, receipt).await {
            Ok(Ok(Ok(()))) => None,
            _ => Some(seq),
        }
    });
    join_all(waits).await.into_iter().flatten().collect()
}

fn busy(error: WriteError) -> Refusal {
    Refusal::not_now(error.to_string())
}
