//! Whether a new program has shown that it works.

use std::time::Duration;

/// What the new program has said so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Heard {
    /// It said that the agent runs.
    pub is_running: bool,
    /// It said that a gateway answered it.
    pub has_contact: bool,
    /// Its process has ended.
    pub has_ended: bool,
}

/// What is to become of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It is not decided.
    Wait,
    /// It works.
    Proven,
    /// It does not, and why.
    Failed(String),
}

/// Judges a new program. A gateway that did not answer the present one either is no fault of the new
/// one: it must then run well for half of its time, and an answer counts at once all the same.
pub fn judge(was_in_contact: bool, heard: Heard, since: Duration, within: Duration) -> Verdict {
    if heard.has_contact {
        return Verdict::Proven;
    }
    if heard.has_ended {
        let what = if heard.is_running { "it ran and ended" } else { "it ended at its start" };
        return Verdict::Failed(what.to_owned());
    }
    if !was_in_contact && heard.is_running && since >= within / 2 {
        return Verdict::Proven;
    }
    if since < within {
        return Verdict::Wait;
    }
    let within = within.as_secs();
    Verdict::Failed(if heard.is_running {
        format!("no gateway answered it within {within} s, and one answered the agent before it")
    } else {
        format!("it did not begin its work within {within} s")
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const WITHIN: Duration = Duration::from_secs(600);

    fn judged(was_in_contact: bool, said: &str, seconds: u64) -> Verdict {
        let heard = Heard {
            is_running: said.contains("running"),
            has_contact: said.contains("contact"),
            has_ended: said.contains("ended"),
        };
        judge(was_in_contact, heard, Duration::from_secs(seconds), WITHIN)
    }

    fn fails(verdict: &Verdict, why: &str) -> bool {
        matches!(verdict, Verdict::Failed(text) if text.contains(why))
    }

    #[test]
    fn a_new_program_is_proven_by_an_answer_and_never_by_silence_where_there_was_contact() {
        assert_eq!(judged(true, "running contact", 1), Verdict::Proven);
        assert_eq!(judged(true, "running", 599), Verdict::Wait);
        assert!(fails(&judged(true, "running", 600), "no gateway answered it within 600 s"));
        assert!(fails(&judged(true, "", 600), "did not begin its work"));
    }

    #[test]
    fn without_contact_before_a_new_program_only_has_to_run_well_for_a_while() {
        assert_eq!(judged(false, "running", 299), Verdict::Wait);
        assert_eq!(judged(false, "running", 300), Verdict::Proven);
        assert_eq!(judged(false, "running contact", 1), Verdict::Proven);
        assert_eq!(judged(false, "", 300), Verdict::Wait);
        assert!(fails(&judged(false, "", 600), "did not begin its work"));
    }

    #[test]
    fn a_new_program_that_ends_has_failed_at_once() {
        assert!(fails(&judged(true, "ended", 0), "ended at its start"));
        assert!(fails(&judged(false, "running ended", 400), "it ran and ended"));
    }
}
