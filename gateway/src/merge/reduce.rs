//! A batch of reports, reduced to what is worth a write.

use std::collections::BTreeMap;

use jiff::Timestamp;
use wardring_protocol::{Facts, Progress, ReportBatch, ReportBody, Signed};
use wardring_seal::{JobKey, OutcomePayload};

/// Progress of a grant with the number of its report.
#[derive(Clone, Debug, PartialEq)]
pub struct ProgressReport {
    /// Number of the report.
    pub seq: u64,
    /// When it was heard, which may be long before it is written.
    pub heard: Timestamp,
    /// What it says.
    pub progress: Progress,
}

/// An outcome with the number of its report.
#[derive(Clone, Debug, PartialEq)]
pub struct OutcomeReport {
    /// Number of the report.
    pub seq: u64,
    /// Namespace that the payload names.
    pub namespace: String,
    /// Ledger sequence of the grant that it answers.
    pub sequence: i64,
    /// The signed bytes.
    pub signed: Signed,
}

/// What is left of a batch: one fact sheet, one progress and one outcome per grant.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Reduced {
    /// The newest facts.
    pub facts: Option<(u64, Facts)>,
    /// The newest progress of each grant.
    pub progress: BTreeMap<JobKey, ProgressReport>,
    /// The outcome of each grant: of its highest sequence the first.
    pub outcomes: BTreeMap<JobKey, OutcomeReport>,
    /// Reports that can never be stored.
    pub unreadable: u32,
}

/// Reduces a batch that was heard at `now`.
pub fn reduce(batch: ReportBatch, now: Timestamp) -> Reduced {
    let mut reduced = Reduced::default();
    for report in batch.reports {
        let seq = report.seq;
        match report.body {
            ReportBody::Facts(facts) => {
                if reduced.facts.as_ref().is_none_or(|(newest, _)| *newest < seq) {
                    reduced.facts = Some((seq, *facts));
                }
            }
            ReportBody::Progress(progress) => {
                let newest = reduced.progress.get(&progress.key).map_or(0, |newest| newest.seq);
                if newest < seq {
                    let report = ProgressReport { seq, heard: now, progress };
                    reduced.progress.insert(report.progress.key.clone(), report);
                }
            }
            ReportBody::Outcome(signed) => {
                // Read to know which grant it answers; whether it counts is the controller's to say.
                match serde_json::from_str::<OutcomePayload>(&signed.payload) {
                    Ok(payload) => {
                        let (namespace, sequence) = (payload.namespace, payload.sequence);
                        let report = OutcomeReport { seq, namespace, sequence, signed };
                        let known = reduced.outcomes.get(&payload.key);
                        if known.is_none_or(|known| known.sequence < sequence) {
                            reduced.outcomes.insert(payload.key, report);
                        }
                    }
                    Err(_) => reduced.unreadable += 1,
                }
            }
        }
    }
    reduced
}
