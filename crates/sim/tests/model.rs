//! The exhaustive model: whatever the order of steps, a small tenant keeps the rules. Numbers are shown
//! with `--nocapture`; what takes minutes is behind `cargo run -p wardring-sim -- --model`.

use std::sync::Mutex;

use wardring_sim::model::{
    Tenant,
    flaw::Flaw,
    search::{Found, exhaust, walk},
    size::{Faults, Gates, Size},
};

/// Searches use every core, so one runs at a time.
static ONE: Mutex<()> = Mutex::new(());

fn search(size: Size, flaw: Option<Flaw>) -> Found {
    let _one = ONE.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
    let found = exhaust(size, flaw);
    println!("{}{found}", flaw.map_or(String::new(), |flaw| format!("{flaw:?} in ")));
    found
}

fn keeps_every_rule(size: Size) -> Found {
    let found = search(size, None);
    assert!(found.broken.is_empty(), "{found}");
    found
}

#[test]
fn a_calm_tenant_completes() {
    let found = keeps_every_rule(Size::CALM);
    assert!(found.states > 30, "a tenant that does nothing breaks no rule: {found}");
}

#[test]
fn two_leaders_a_crash_late_writes_a_deleted_job_and_a_frozen_gateway_break_no_rule() {
    let found = keeps_every_rule(Size::LEADERS);
    assert!(found.states > 100_000, "{found}");
}

#[test]
fn a_leader_that_loses_the_lease_in_the_middle_of_a_plan_breaks_no_rule() {
    keeps_every_rule(Size::TAKE_OVERS);
}

#[test]
fn deadlines_that_pass_in_the_worst_moment_break_no_rule() {
    keeps_every_rule(Size::DEADLINES);
}

#[test]
fn nothing_starts_after_a_halt_and_the_time_of_a_permit() {
    keeps_every_rule(Size::HALT);
}

#[test]
fn attempts_are_bounded_and_nothing_proven_is_run_again() {
    keeps_every_rule(Size::RETRIES);
}

#[test]
fn a_stage_opens_on_the_proof_of_the_one_before() {
    keeps_every_rule(Size::STAGES);
}

#[test]
fn nothing_starts_under_an_emergency_stop_and_all_goes_on_once_it_is_lifted() {
    keeps_every_rule(Size::STOPS);
}

#[test]
fn nothing_starts_outside_a_window_or_in_a_freeze_and_all_goes_on_once_it_may() {
    keeps_every_rule(Size::WINDOWS);
}

#[test]
fn no_stage_opens_or_ends_but_on_a_fresh_pass_of_its_gates() {
    keeps_every_rule(Size::GATES);
}

#[test]
fn nothing_starts_after_a_gate_that_halts_has_failed_and_the_time_of_a_permit() {
    keeps_every_rule(Size::GATE_HALTS);
}

#[test]
fn no_stage_opens_but_by_an_approval_of_what_the_rollout_says() {
    keeps_every_rule(Size::SIGNED);
}

#[test]
fn a_rollout_that_nobody_answers_waits_and_halts_nothing() {
    keeps_every_rule(Size::UNANSWERED);
}

#[test]
fn an_approval_that_expired_opens_nothing_and_is_asked_for_anew() {
    keeps_every_rule(Size::EXPIRING);
}

#[test]
fn an_approval_counts_once_whichever_leader_reads_it() {
    keeps_every_rule(Size::SIGNED_LEADERS);
}

#[test]
fn walks_through_a_tenant_too_large_to_search_break_no_rule() {
    let walked = walk(Size::HUGE, None, 0..400);
    println!("{walked}");
    assert!(walked.broken.is_none(), "{walked}");
}

#[test]
fn walks_through_three_stages_of_five_devices_under_every_guard_break_no_rule() {
    let walked = walk(Size::GUARDED, None, 0..60);
    println!("{walked}");
    assert!(walked.broken.is_none(), "{walked}");
}

#[test]
fn walks_past_people_who_approve_and_change_their_minds_break_no_rule() {
    let walked = walk(Size::GUARDED_BY_PEOPLE, None, 0..20);
    println!("{walked}\n{:?}", walked.drawn);
    assert!(walked.broken.is_none(), "{walked}");
    for kind in ["Decide", "Withdraw", "Edit", "TakeUp"] {
        assert!(walked.drawn.contains_key(kind), "no walk drew {kind}: {:?}", walked.drawn);
    }
}

#[test]
fn what_statuses_tell_people_decides_nothing() {
    for seed in 0..100 {
        Tenant::new(Size::HUGE, None).compare_statuses(seed);
    }
    for seed in 0..3 {
        Tenant::new(Size::GUARDED, None).compare_statuses(seed);
    }
    Tenant::new(Size::GUARDED_BY_PEOPLE, None).compare_statuses(0);
}

/// One device behind one gate of each phase.
fn gated() -> Size {
    Size { stages: 1, ..Size::GATES }
}

/// One device, and a gate that fails while it is at work.
fn holding() -> Size {
    Size { gates: Gates { before: false, after: false, ..Gates::ALL }, ..gated() }
}

/// One device that begins by a person's approval only.
fn signed() -> Size {
    Size { devices: 1, ..Size::SIGNED }
}

/// Smallest sizes in which each mistake shows.
fn where_it_shows(flaw: Flaw) -> (Faults, Size, &'static str) {
    let none = Size::CALM.faults;
    match flaw {
        Flaw::NoTakeOver | Flaw::LedgerAtWill | Flaw::SliceAtWill => {
            let size = Size { leaders: 2, restarts: false, ..Size::CALM };
            (Faults { depositions: 1, ..none }, size, "S15")
        }
        Flaw::DeleteAtWill => {
            (Faults { freezes: 1, failures: 1, ..none }, Size { cap: 2, ..Size::CALM }, "S2")
        }
        Flaw::JobsFirst | Flaw::NothingWasMade => {
            (Faults { ticks: 1, deletions: 1, ..none }, Size::CALM, "S2")
        }
        Flaw::OneSlotMore => (none, Size::CALM, "S2"),
        Flaw::EarlyStage => (none, Size { stages: 2, devices: 1, ..Size::CALM }, "S3"),
        Flaw::SleepsOn => (Faults { ticks: 1, ..none }, Size::CALM, "L1"),
        Flaw::PermitByJob => (Faults { ticks: 1, freezes: 1, ..none }, Size::CALM, "S15"),
        Flaw::PermitByOldRollout => {
            let size = Size { cap: 2, deadline: 2, ..Size::CALM };
            (Faults { ticks: 1, failures: 1, ..none }, size, "S5")
        }
        Flaw::PermitUnled => {
            (Faults { crashes: 1, ticks: 1, ..none }, Size { deadline: 2, ..Size::CALM }, "S5")
        }
        Flaw::PermitUnrecorded => {
            (Faults { freezes: 1, ticks: 1, ..none }, Size { deadline: 2, ..Size::CALM }, "S2")
        }
        Flaw::LatePermit => {
            let faults = Faults { freezes: 1, crashes: 1, ticks: 1, ..none };
            (faults, Size { deadline: 2, ..Size::CALM }, "S5")
        }
        Flaw::Forgetful => (Faults { deletions: 1, ..none }, Size::CALM, "S8"),
        Flaw::PermitUnderStop => (Faults { stops: 1, ticks: 1, ..none }, Size::STOPS, "S5"),
        Flaw::PermitOutsideWindow => (Faults { ticks: 1, ..none }, Size::WINDOWS, "S14"),
        Flaw::PermitPastGates => (Faults { ticks: 1, doubts: 1, ..none }, holding(), "S7"),
        Flaw::OldSample => (Faults { ticks: 1, ..none }, gated(), "S7"),
        Flaw::ErrorPasses => (Faults { doubts: 1, ..none }, gated(), "S7"),
        Flaw::UngatedBefore => (none, gated(), "S7"),
        Flaw::UngatedAfter => (none, gated(), "S3"),
        Flaw::LatchForgotten => {
            (Faults { crashes: 1, ticks: 1, doubts: 1, ..none }, holding(), "S7")
        }
        Flaw::AnyApproval => (Faults { edits: 1, ..none }, signed(), "S7"),
        Flaw::RejectionApproves => (Faults { rejections: 1, ..none }, signed(), "S7"),
        Flaw::AuthorApproves => (Faults { own_words: 1, ..none }, signed(), "S7"),
        Flaw::ApprovalOutlives => {
            (Faults { ticks: 1, ..none }, Size { approval: Some(1), ..signed() }, "S7")
        }
        Flaw::ApprovalOfOldSpec => {
            (Faults { edits: 1, ..none }, Size { devices: 2, ..signed() }, "S7")
        }
        Flaw::ApprovalUnconfirmed => (Faults { withdrawals: 1, ..none }, signed(), "S7"),
        Flaw::RejectionForgotten => (Faults { rejections: 1, ..none }, signed(), "S7"),
        Flaw::PermitUnapproved => (Faults { edits: 1, ticks: 1, ..none }, signed(), "S7"),
    }
}

#[test]
fn every_mistake_of_the_shell_is_found() {
    for flaw in Flaw::ALL {
        let (faults, size, rule) = where_it_shows(flaw);
        let size = Size { faults, ..size };
        assert!(search(size, Some(flaw)).broken.contains_key(rule), "{flaw:?} breaks {rule}");
        assert!(search(size, None).broken.is_empty(), "without {flaw:?} nothing is broken");
    }
}

#[test]
fn a_walk_that_breaks_a_rule_tells_its_seed() {
    let walked = walk(Size::HUGE, Some(Flaw::OneSlotMore), 0..400);
    let Some((rule, seed, steps)) = walked.broken else { panic!("{walked}") };
    let again = walk(Size::HUGE, Some(Flaw::OneSlotMore), seed..seed + 1);
    assert_eq!(again.broken, Some((rule, seed, steps)));
}
