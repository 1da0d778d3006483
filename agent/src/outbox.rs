//! The outbox: reports that no gateway has acknowledged yet. Bounded, because each kind is merged:
//! of facts the newest is kept, of a job's progress too, and of its outcome exactly one.

use serde::{Deserialize, Serialize};
use wardring_protocol::{MAX_BODY, MAX_REPORTS, Report, ReportAck, ReportBody};
use wardring_seal::JobKey;

/// Room for the head of a batch and for the quotes around a report.
const HEAD: usize = 1024;

/// Reports in ascending order of their number.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Outbox {
    /// Highest number that was given out.
    last: u64,
    waiting: Vec<Waiting>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct Waiting {
    slot: Slot,
    report: Report,
}

/// Reports in the same slot replace each other.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
enum Slot {
    Facts,
    Progress,
    Outcome(JobKey),
}

impl Outbox {
    /// Puts a report at the end. Facts and progress replace what they outdate; outcomes stay until
    /// they are acknowledged.
    ///
    /// `key` is the grant of an outcome, which its signed text hides.
    pub fn push(&mut self, body: ReportBody, key: Option<&JobKey>) {
        let slot = match (&body, key) {
            (ReportBody::Facts(_), _) => Slot::Facts,
            (ReportBody::Outcome(_), Some(key)) => Slot::Outcome(key.clone()),
            (ReportBody::Outcome(_) | ReportBody::Progress(_), _) => Slot::Progress,
        };
        self.last += 1;
        self.waiting.retain(|waiting| waiting.slot != slot);
        self.waiting.push(Waiting { slot, report: Report { seq: self.last, body } });
    }

    /// A number that no report of the outbox will have: once it is durable, it may be used without
    /// another write.
    pub fn give_away(&mut self) -> u64 {
        self.last += 1;
        self.last
    }

    /// The reports before a number that was given away, which are as durable as it is, with one more
    /// that has it; none when that does not fit into one body.
    ///
    /// An outcome that came after must be waited for: if this run died, the next one would send its
    /// older copy, with a number that looks late to the gateways then.
    pub fn durable_with(&self, spare: u64, body: ReportBody) -> Option<Vec<Report>> {
        let is_late = |waiting: &Waiting| {
            matches!(waiting.slot, Slot::Outcome(_)) && waiting.report.seq > spare
        };
        if self.waiting.iter().any(is_late) {
            return None;
        }
        let older = self.waiting.iter().map(|waiting| &waiting.report);
        let mut reports: Vec<Report> = older.filter(|report| report.seq < spare).cloned().collect();
        reports.push(Report { seq: spare, body });
        let size = serde_json::to_vec(&reports).map_or(usize::MAX, |text| text.len());
        (reports.len() <= MAX_REPORTS && size < MAX_BODY - HEAD).then_some(reports)
    }

    /// Whether nothing waits.
    pub fn is_empty(&self) -> bool {
        self.waiting.is_empty()
    }

    /// Drops everything but outcomes.
    pub fn keep_outcomes(&mut self) {
        self.waiting.retain(|waiting| matches!(waiting.slot, Slot::Outcome(_)));
    }

    /// The next reports, as many as one body may carry.
    pub fn batch(&self) -> Vec<Report> {
        let mut room = MAX_BODY - HEAD;
        let fits = |waiting: &&Waiting| {
            let size = serde_json::to_vec(&waiting.report).map_or(usize::MAX, |text| text.len());
            let fits = size < room;
            room = room.saturating_sub(size + 1);
            fits
        };
        let fitting = self.waiting.iter().take(MAX_REPORTS).take_while(fits);
        fitting.map(|waiting| waiting.report.clone()).collect()
    }

    /// Forgets what is acknowledged.
    ///
    /// A gateway that has seen numbers we never gave out knows us from before a lost journal: it took
    /// our reports for old ones. They get new numbers above those and are sent again.
    pub fn acked(&mut self, ack: &ReportAck) {
        if ack.highest_seen > self.last {
            self.last = ack.highest_seen;
            for waiting in &mut self.waiting {
                self.last += 1;
                waiting.report.seq = self.last;
            }
            return;
        }
        self.waiting.retain(|waiting| waiting.report.seq > ack.acked_through);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use wardring_protocol::{Facts, Progress, Signed};
    use wardring_seal::Action;

    fn key(attempt: u32) -> JobKey {
        JobKey {
            rollout_uid: "uid".to_owned(),
            device_id: "id".to_owned(),
            attempt,
            action: Action::Install,
        }
    }

    fn facts(build: &str) -> ReportBody {
        ReportBody::Facts(Box::new(Facts { build: build.to_owned(), ..Facts::default() }))
    }

    fn progress(state: &str) -> ReportBody {
        ReportBody::Progress(Progress {
            key: key(1),
            state: state.to_owned(),
            message: String::new(),
            updates: Vec::new(),
            boots: Vec::new(),
            unhealthy: Vec::new(),
            changes: Vec::new(),
        })
    }

    fn outcome(text: &str) -> ReportBody {
        let payload = text.to_owned();
        ReportBody::Outcome(Signed {
            payload,
            signature: String::new(),
            certificate: String::new(),
        })
    }

    fn numbers(outbox: &Outbox) -> Vec<u64> {
        outbox.batch().iter().map(|report| report.seq).collect()
    }

    #[test]
    fn newer_facts_and_progress_replace_older_ones_and_outcomes_stay() {
        let mut outbox = Outbox::default();
        outbox.push(facts("1"), None);
        outbox.push(progress("Preflight"), None);
        outbox.push(outcome("first"), Some(&key(1)));
        outbox.push(facts("2"), None);
        outbox.push(outcome("second"), Some(&key(2)));
        outbox.push(progress("Downloading"), None);
        assert_eq!(numbers(&outbox), [3, 4, 5, 6]);
        outbox.keep_outcomes();
        assert_eq!(numbers(&outbox), [3, 5]);
    }

    #[test]
    fn only_what_is_acknowledged_leaves() {
        let mut outbox = Outbox::default();
        outbox.push(outcome("first"), Some(&key(1)));
        outbox.push(outcome("second"), Some(&key(2)));
        outbox.acked(&ReportAck { acked_through: 1, highest_seen: 2, retry_ms: 0 });
        assert_eq!(numbers(&outbox), [2]);
        outbox.acked(&ReportAck { acked_through: 2, highest_seen: 2, retry_ms: 0 });
        assert!(outbox.is_empty());
    }

    #[test]
    fn after_a_lost_journal_the_numbers_jump_and_nothing_is_taken_for_acknowledged() {
        let mut outbox = Outbox::default();
        outbox.push(outcome("state lost"), Some(&key(7)));
        outbox.acked(&ReportAck { acked_through: 57, highest_seen: 57, retry_ms: 0 });
        assert_eq!(numbers(&outbox), [58]);
        outbox.push(facts("1"), None);
        assert_eq!(numbers(&outbox), [58, 59]);
    }

    #[test]
    fn a_number_that_was_given_away_stands_between_what_is_durable_and_what_is_not() {
        let mut outbox = Outbox::default();
        outbox.push(outcome("durable"), Some(&key(1)));
        let spare = outbox.give_away();
        outbox.push(facts("1"), None);
        let sent = outbox.durable_with(spare, progress("Installing")).unwrap();
        assert_eq!(sent.iter().map(|report| report.seq).collect::<Vec<_>>(), [1, 2]);
        // What came after it still goes out.
        outbox.acked(&ReportAck { acked_through: 2, highest_seen: 2, retry_ms: 0 });
        assert_eq!(numbers(&outbox), [3]);
        outbox.push(outcome("not durable"), Some(&key(2)));
        assert_eq!(outbox.durable_with(spare, progress("Installing")), None);
    }

    #[test]
    fn a_batch_fits_into_one_body() {
        let mut outbox = Outbox::default();
        for attempt in 0..40 {
            outbox.push(outcome(&"x".repeat(4000)), Some(&key(attempt)));
        }
        let batch = outbox.batch();
        assert!(batch.len() < MAX_REPORTS && batch.len() > 8);
        assert!(serde_json::to_vec(&batch).unwrap().len() < MAX_BODY - HEAD / 2);
    }
}
