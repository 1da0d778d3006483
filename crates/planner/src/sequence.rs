//! The numbers that the ledger gives, and how an older ledger is told from the one that gave them.
//!
//! A restored cluster forgets numbers that agents still hold. Were it to count on, it would give the
//! same numbers to other grants, and nobody could tell the two histories apart. So every take-over
//! draws the last digits anew, and batches keep them: a number says in which term it was given.

/// Distance between two batches. The digits below it are the mark of the term.
pub const SEQUENCE_STRIDE: i64 = 1_000_000;

/// Take-overs that a ledger remembers. Older numbers are believed: an agent that was away for so many
/// leaders holds nothing that could still be in flight.
pub const TAKE_OVERS_KEPT: usize = 64;

/// The sequence of the batch after `sequence`, in the same term.
pub fn next_batch(sequence: i64) -> i64 {
    sequence.saturating_add(SEQUENCE_STRIDE)
}

/// The sequence of a take-over after `sequence`, marked by `draw`.
pub fn take_over(sequence: i64, draw: u32) -> i64 {
    let step = (sequence / SEQUENCE_STRIDE).saturating_add(1);
    step.saturating_mul(SEQUENCE_STRIDE).saturating_add(mark(i64::from(draw)))
}

/// The mark of the term in which a number was given.
pub fn mark(sequence: i64) -> i64 {
    sequence % SEQUENCE_STRIDE
}

/// The highest of the `presented` numbers that a ledger at `sequence` with these `take_overs` did not
/// give: above its own, or of a term that it never had.
pub fn foreign_sequence(
    sequence: i64,
    take_overs: &[i64],
    presented: impl IntoIterator<Item = i64>,
) -> Option<i64> {
    let is_foreign = |number: &i64| *number > sequence || !is_of_history(take_overs, *number);
    presented.into_iter().filter(is_foreign).max()
}

fn is_of_history(take_overs: &[i64], number: i64) -> bool {
    let step = number / SEQUENCE_STRIDE;
    let term = take_overs.iter().rev().find(|raised| **raised / SEQUENCE_STRIDE <= step);
    term.is_none_or(|raised| mark(*raised) == mark(number))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A ledger, and the numbers that it sealed into jobs.
    #[derive(Clone, Default)]
    struct Ledger {
        sequence: i64,
        take_overs: Vec<i64>,
        sealed: Vec<i64>,
    }

    impl Ledger {
        fn take_over(&mut self, draw: u32) {
            self.sequence = take_over(self.sequence, draw);
            self.take_overs.push(self.sequence);
        }

        fn batch(&mut self) {
            self.sequence = next_batch(self.sequence);
            self.sealed.push(self.sequence);
        }

        fn notices(&self, presented: i64) -> bool {
            foreign_sequence(self.sequence, &self.take_overs, [presented]).is_some()
        }
    }

    fn before_the_backup() -> Ledger {
        let mut ledger = Ledger::default();
        for draw in [417_003, 88, 999_999] {
            ledger.take_over(draw);
            ledger.batch();
            ledger.batch();
        }
        ledger
    }

    #[test]
    fn every_number_is_above_the_one_before() {
        let mut ledger = Ledger::default();
        for draw in [0, 999_999, 5, 1_000_000, u32::MAX, 0] {
            for act in [Ledger::batch, |ledger: &mut Ledger| ledger.take_over(7)] {
                let before = ledger.sequence;
                act(&mut ledger);
                assert!(ledger.sequence > before);
            }
            let before = ledger.sequence;
            ledger.take_over(draw);
            assert!(ledger.sequence > before);
        }
    }

    #[test]
    fn numbers_of_its_own_history_are_known_however_many_leaders_there_were() {
        let mut ledger = before_the_backup();
        for draw in 0..9 {
            ledger.take_over(draw * 111_111);
            ledger.batch();
        }
        for sealed in &ledger.sealed {
            assert!(!ledger.notices(*sealed), "{sealed}");
        }
        assert!(!ledger.notices(0), "an agent that never had a job");
    }

    #[test]
    fn lost_batches_are_noticed_by_any_agent_that_got_one_whatever_the_restored_ledger_did_since() {
        for lost in 1..=3 {
            for leaders_lost in 0..=2 {
                let backup = before_the_backup();
                let mut gone = backup.clone();
                for number in 0..leaders_lost {
                    gone.take_over(600_000 + number);
                }
                for _ in 0..lost {
                    gone.batch();
                }
                let lost_numbers = &gone.sealed[backup.sealed.len()..];
                for leaders in 1..=5 {
                    for batches in 0..=6 {
                        let mut restored = backup.clone();
                        for leader in 0..leaders {
                            restored.take_over(100_000 + leader);
                        }
                        for _ in 0..batches {
                            restored.batch();
                        }
                        for number in lost_numbers {
                            assert!(
                                restored.notices(*number),
                                "{number} lost, {leaders} leaders and {batches} batches since"
                            );
                        }
                    }
                }
            }
        }
    }

    #[test]
    fn what_a_person_confirmed_is_known_and_what_was_lost_above_it_is_not() {
        let mut restored = before_the_backup();
        let (confirmed, above) = (next_batch(restored.sequence), restored.sequence + 20_000_000);
        restored.take_over(31_337);
        assert!(restored.notices(confirmed));
        // The ledger begins a new history above what was confirmed.
        restored.sequence = take_over(confirmed, 4_711);
        restored.take_overs = vec![restored.sequence];
        restored.batch();
        assert!(!restored.notices(confirmed));
        assert!(restored.notices(above));
    }

    #[test]
    fn a_number_out_of_all_bounds_overflows_nothing() {
        assert_eq!(next_batch(i64::MAX), i64::MAX);
        assert_eq!(take_over(i64::MAX, u32::MAX), i64::MAX);
        assert_eq!(foreign_sequence(5, &[], [i64::MAX]), Some(i64::MAX));
    }
}
