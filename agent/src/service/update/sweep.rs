//! An update that is cut off before any of its steps, and what the service starts after that.

use std::io;

use jiff::Timestamp;

use super::marker::{End, Marker, Stage, Underway};
use super::steps::{Begin, Ground, Heed, Which, begin, heed, move_in, proven, take_back, try_next};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Program {
    Old,
    New,
}

/// A device on which the power fails before step number `left`.
#[derive(Clone, Debug)]
struct Paper {
    present: Program,
    next: Option<Program>,
    starts: Which,
    marker: Marker,
    /// The journal is of a kind that only the new program reads.
    is_journal_newer: bool,
    is_journal_damaged: bool,
    is_kept: bool,
    left: usize,
}

impl Paper {
    fn staged(left: usize) -> Paper {
        let underway = Underway {
            version: "0.2.0".to_owned(),
            sha256: "bb".to_owned(),
            within_s: 600,
            stage: Stage::Staged,
        };
        Paper {
            present: Program::Old,
            next: Some(Program::New),
            starts: Which::Present,
            marker: Marker { underway: Some(underway), ..Marker::default() },
            is_journal_newer: false,
            is_journal_damaged: false,
            is_kept: false,
            left,
        }
    }

    fn step(&mut self) -> io::Result<()> {
        self.left = self.left.checked_sub(1).ok_or_else(|| io::Error::other("power failure"))?;
        Ok(())
    }

    /// What the service starts; there must always be something.
    fn program(&self) -> Program {
        match self.starts {
            Which::Present => self.present,
            Which::Next => self.next.expect("the service starts a program that is there"),
        }
    }

    fn ended(&self) -> Option<End> {
        self.marker.last.as_ref().map(|last| last.end)
    }
}

impl Ground for Paper {
    fn marker(&self) -> Marker {
        self.marker.clone()
    }

    fn has_next(&self, _underway: &Underway) -> bool {
        self.next == Some(Program::New)
    }

    fn keep(&mut self, marker: &Marker) -> io::Result<()> {
        self.step()?;
        self.marker = marker.clone();
        Ok(())
    }

    fn start_with(&mut self, which: Which) -> io::Result<()> {
        self.step()?;
        self.starts = which;
        Ok(())
    }

    fn place(&mut self) -> io::Result<()> {
        self.step()?;
        self.present = self.next.expect("the next program runs");
        Ok(())
    }

    fn remove_next(&mut self) -> io::Result<()> {
        self.step()?;
        self.next = None;
        Ok(())
    }

    fn take_back_journal(&mut self, damaged: bool) -> io::Result<()> {
        self.step()?;
        if self.is_kept && self.program() == Program::Old {
            self.is_journal_newer = false;
            self.is_journal_damaged &= !damaged;
        }
        self.is_kept = false;
        Ok(())
    }
}

/// What happens to the new program when it is tried.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fate {
    Works,
    Fails,
}

/// The service runs until it ends or the power fails.
fn live(device: &mut Paper) -> io::Result<()> {
    let now = Timestamp::UNIX_EPOCH;
    match begin(device, device.starts, now)? {
        Begin::Restart => Ok(()),
        Begin::Move => move_in(device),
        Begin::Run(_) => Ok(()),
    }?;
    assert!(
        !device.is_journal_newer || device.program() == Program::New || device.is_kept,
        "an old program never stands before a journal that it cannot read: {device:?}"
    );
    Ok(())
}

/// The trial by the old program, as the service carries it out.
fn trial(device: &mut Paper, fate: Fate) -> io::Result<()> {
    device.step()?;
    device.is_kept = true;
    if try_next(device)?.is_none() {
        return Ok(());
    }
    device.step()?;
    device.is_journal_newer = true;
    match fate {
        Fate::Works => proven(device),
        Fate::Fails => {
            take_back(device, End::TakenBack, "it did not report", Timestamp::UNIX_EPOCH)
        }
    }
}

/// Cuts an update off before step `at`, then lets the service start until nothing changes any more.
fn cut(at: usize, fate: Fate) -> (Paper, bool) {
    let mut device = Paper::staged(at);
    let is_cut = trial(&mut device, fate).and_then(|()| live(&mut device)).is_err();
    // The same for whatever the next starts do: each is cut off, too, after one, two, … steps.
    for left in (0..6).chain([usize::MAX; 6]) {
        device.left = left;
        let _ = device.program();
        let _ = live(&mut device);
    }
    (device, is_cut)
}

#[test]
fn cut_off_before_any_step_the_service_always_starts_a_whole_program_and_comes_to_an_end() {
    for fate in [Fate::Works, Fate::Fails] {
        let mut ends = Vec::new();
        for at in 0.. {
            let (device, is_cut) = cut(at, fate);
            assert_eq!(device.marker.underway, None, "{fate:?} cut before step {at}: {device:?}");
            assert_eq!((device.starts, device.next), (Which::Present, None), "{device:?}");
            assert!(!device.is_kept, "{device:?}");
            if device.present == Program::Old {
                assert!(!device.is_journal_newer, "{fate:?} cut before step {at}: {device:?}");
            }
            let is_new = device.present == Program::New;
            assert_eq!(is_new, device.ended() == Some(End::Done), "{device:?}");
            if fate == Fate::Fails {
                assert_eq!(device.present, Program::Old);
            }
            ends.push(device.ended());
            if !is_cut {
                break;
            }
        }
        // Cut off early nothing was tried; cut off late it is as if nothing had been.
        assert_eq!(ends.first(), Some(&Some(End::Interrupted)));
        let whole = if fate == Fate::Works { End::Done } else { End::TakenBack };
        assert_eq!(ends.last(), Some(&Some(whole)), "{fate:?}");
    }
}

#[test]
fn a_program_that_was_taken_back_is_remembered_until_another_one_succeeds() {
    let (failed, _) = cut(usize::MAX, Fate::Fails);
    assert_eq!(failed.marker.failed.as_ref().map(|failed| failed.sha256.as_str()), Some("bb"));
    let mut again = Paper { marker: failed.marker.clone(), ..Paper::staged(usize::MAX) };
    again.marker.underway = Paper::staged(0).marker.underway;
    trial(&mut again, Fate::Works).unwrap();
    for _ in 0..4 {
        live(&mut again).unwrap();
    }
    assert_eq!((again.marker.failed.as_ref(), again.ended()), (None, Some(End::Done)));
}

#[test]
fn a_program_beside_the_present_one_that_nobody_vouches_for_is_never_the_agent() {
    let mut device = Paper { starts: Which::Next, ..Paper::staged(usize::MAX) };
    for underway in [None, device.marker.underway.clone()] {
        device.marker.underway = underway;
        device.starts = Which::Next;
        assert_eq!(begin(&mut device, Which::Next, Timestamp::UNIX_EPOCH).unwrap(), Begin::Restart);
        assert_eq!(device.starts, Which::Present);
    }
}

#[test]
fn a_program_that_vanished_after_its_proof_is_taken_back_and_the_present_one_goes_on() {
    let mut device = Paper::staged(usize::MAX);
    trial(&mut device, Fate::Works).unwrap();
    // The service did not take the new line, and then a scanner took the program away.
    (device.starts, device.next) = (Which::Present, None);
    let begun = begin(&mut device, Which::Present, Timestamp::UNIX_EPOCH).unwrap();
    assert!(matches!(begun, Begin::Run(Some(_))), "{begun:?}");
    assert_eq!((device.starts, device.ended()), (Which::Present, Some(End::TakenBack)));
    assert!(!device.is_journal_newer);
}

#[test]
fn a_journal_that_a_program_on_trial_damaged_is_put_back_and_one_damaged_later_is_not() {
    let mut device = Paper { is_journal_damaged: true, ..Paper::staged(usize::MAX) };
    trial(&mut device, Fate::Fails).unwrap();
    assert!(!device.is_journal_damaged);

    let mut later = Paper { is_journal_damaged: true, is_kept: true, ..device };
    begin(&mut later, Which::Present, Timestamp::UNIX_EPOCH).unwrap();
    assert!(later.is_journal_damaged, "the kept one may be older than what was done since");
}

#[test]
fn what_cannot_be_cleared_does_not_keep_a_program_from_being_taken_back() {
    // The journal, the marker and the line; nothing of what is to be cleared.
    let mut device = Paper::staged(usize::MAX);
    device.marker = device.marker.at(Stage::Trying);
    device.left = 3;
    take_back(&mut device, End::TakenBack, "it did not report", Timestamp::UNIX_EPOCH).unwrap();
    assert_eq!((device.starts, device.ended()), (Which::Present, Some(End::TakenBack)));
    assert!(device.next.is_some());
    live(&mut Paper { left: usize::MAX, ..device }).unwrap();
}

#[test]
fn an_agent_ends_its_run_only_for_a_program_that_an_administrator_staged_and_never_at_work() {
    let now = Timestamp::UNIX_EPOCH;
    let busy = || Some("the agent carries out a job".to_owned());
    let mut none = Paper { marker: Marker::default(), ..Paper::staged(0) };
    assert_eq!(heed(&mut none, || None, now).unwrap(), Heed::Ignore);
    for stage in [Stage::Trying, Stage::Proven, Stage::Hosted, Stage::Placed] {
        let marker = Paper::staged(0).marker.at(stage);
        let mut later = Paper { marker, ..Paper::staged(0) };
        assert_eq!(heed(&mut later, || None, now).unwrap(), Heed::Ignore, "{stage:?}");
    }
    assert_eq!(heed(&mut Paper::staged(0), || None, now).unwrap(), Heed::TakeUp);
    // Its own journal stays untouched, whatever an earlier update left beside it.
    let mut device = Paper { is_kept: true, is_journal_damaged: true, ..Paper::staged(usize::MAX) };
    assert!(matches!(heed(&mut device, busy, now).unwrap(), Heed::Stay(_)));
    assert_eq!((device.next, device.ended()), (None, Some(End::Refused)));
    assert!(device.is_kept && device.is_journal_damaged);
}
