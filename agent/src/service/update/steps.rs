//! The steps of an update. Each leaves behind something that the service can start; what was under way
//! is decided anew at every start, from the marker and from which program this is.

use std::io;

use jiff::Timestamp;

use super::marker::{End, Marker, Stage, Underway};

/// One of the two programs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Which {
    /// The one in the usual place.
    Present,
    /// The one beside it.
    Next,
}

/// What an update changes. Each is one step: it happens wholly or not at all.
pub trait Ground {
    /// What is known of the update.
    fn marker(&self) -> Marker;

    /// Whether the next program is there, whole.
    fn has_next(&self, underway: &Underway) -> bool;

    /// Writes that.
    ///
    /// # Errors
    /// It is as before.
    fn keep(&mut self, marker: &Marker) -> io::Result<()>;

    /// Lets the service start this program from now on.
    ///
    /// # Errors
    /// It starts the one before.
    fn start_with(&mut self, which: Which) -> io::Result<()>;

    /// Puts a copy of the next program into the usual place.
    ///
    /// # Errors
    /// The present one is still there.
    fn place(&mut self) -> io::Result<()>;

    /// Removes the next program, where it is there.
    ///
    /// # Errors
    /// It is still there.
    fn remove_next(&mut self) -> io::Result<()>;

    /// Where the journal is of a kind that this program does not read, puts back the one that was kept
    /// before the trial: a program that was taken back took no work, so nothing is lost. With `damaged`
    /// also where nobody can read it at all, which only says something as long as nobody but the program
    /// on trial has written it since. Forgets the kept one in any case.
    ///
    /// # Errors
    /// It is as before.
    fn take_back_journal(&mut self, damaged: bool) -> io::Result<()>;
}

/// What a program that was started as the service is to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Begin {
    /// Be the agent. The text tells of an update that ended with this start.
    Run(Option<String>),
    /// Be the agent, and move to the usual place meanwhile.
    Move,
    /// End, so that Windows starts the other program.
    Restart,
}

/// The first thing that a program does as the service.
///
/// # Errors
/// A step failed. The agent runs all the same, and the next start tries again.
pub fn begin(ground: &mut impl Ground, this: Which, now: Timestamp) -> io::Result<Begin> {
    let marker = ground.marker();
    let Some(underway) = &marker.underway else {
        return match this {
            Which::Present => clear(ground).map(|()| Begin::Run(None)),
            // Nobody vouches for it.
            Which::Next => ground.start_with(Which::Present).map(|()| Begin::Restart),
        };
    };
    let Underway { stage, version, .. } = underway;
    match (stage, this) {
        (Stage::Staged | Stage::Trying, Which::Present) => {
            let why = "the service ended before it could be tried to an end";
            take_back(ground, End::Interrupted, why, now)?;
            Ok(Begin::Run(Some(format!("The update to {version} was not made: {why}."))))
        }
        (Stage::Staged | Stage::Trying, Which::Next) => {
            ground.start_with(Which::Present).map(|()| Begin::Restart)
        }
        (Stage::Proven, Which::Present) if ground.has_next(underway) => {
            ground.start_with(Which::Next).map(|()| Begin::Restart)
        }
        (Stage::Proven, Which::Present) => {
            let why = "it reported, and then it was gone or another one";
            take_back(ground, End::TakenBack, why, now)?;
            Ok(Begin::Run(Some(format!("The update to {version} was taken back: {why}."))))
        }
        (Stage::Proven, Which::Next) => {
            ground.keep(&marker.at(Stage::Hosted))?;
            Ok(Begin::Move)
        }
        // The usual place holds the old program or the new one; the service starts the one beside it
        // until that is known to be the new one.
        (Stage::Hosted, Which::Next) => Ok(Begin::Move),
        // Moved, and ended before that was noted.
        (Stage::Hosted | Stage::Placed, Which::Present) => {
            ground.keep(&marker.ended(End::Done, "it reported and is in its place", now))?;
            clear(ground)?;
            Ok(Begin::Run(Some(format!("The update to {version} is complete."))))
        }
        (Stage::Placed, Which::Next) => ground.start_with(Which::Present).map(|()| Begin::Restart),
    }
}

/// What an agent at work does when it hears of a new program.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Heed {
    /// Nothing: every user of a device may tell a service what only the marker, which administrators
    /// write, makes true.
    Ignore,
    /// It stays; the text says why.
    Stay(String),
    /// It ends its run and tries the program.
    TakeUp,
}

/// Decides that, before anything of the agent's run is ended. `at_work` says what the agent has in hand.
///
/// # Errors
/// It goes on, and the next start clears the rest.
pub fn heed(
    ground: &mut impl Ground,
    at_work: impl FnOnce() -> Option<String>,
    now: Timestamp,
) -> io::Result<Heed> {
    let marker = ground.marker();
    let staged = marker.underway.as_ref().filter(|underway| underway.stage == Stage::Staged);
    let Some(Underway { version, .. }) = staged else { return Ok(Heed::Ignore) };
    let Some(why) = at_work() else { return Ok(Heed::TakeUp) };
    unstage(ground, End::Refused, &why, now)?;
    Ok(Heed::Stay(format!("The update to {version} was not made: {why}.")))
}

/// Ends an update of which nothing but the program itself is there, while the agent may be at work: its
/// journal is not looked at.
///
/// # Errors
/// It is as before.
pub fn unstage(ground: &mut impl Ground, end: End, why: &str, now: Timestamp) -> io::Result<()> {
    let marker = ground.marker();
    ground.keep(&marker.ended(end, why, now))?;
    cleared_later(ground.remove_next());
    Ok(())
}

/// Begins the trial of what is staged; false when there is nothing.
///
/// # Errors
/// Nothing was begun.
pub fn try_next(ground: &mut impl Ground) -> io::Result<Option<Underway>> {
    let marker = ground.marker();
    let staged = marker.underway.clone().filter(|underway| underway.stage == Stage::Staged);
    if staged.is_some() {
        ground.keep(&marker.at(Stage::Trying))?;
    }
    Ok(staged)
}

/// The next program has shown that it works: the service is to start it.
///
/// # Errors
/// The service starts the present one; the next start tries again.
pub fn proven(ground: &mut impl Ground) -> io::Result<()> {
    let marker = ground.marker();
    ground.keep(&marker.at(Stage::Proven))?;
    ground.start_with(Which::Next)
}

/// The present program stays. Only while no agent runs, because its journal may be put back.
///
/// # Errors
/// It is as before, or the next start goes on with it. What is only not cleared is no error.
pub fn take_back(ground: &mut impl Ground, end: End, why: &str, now: Timestamp) -> io::Result<()> {
    let marker = ground.marker();
    // Before the marker forgets that nobody but the program on trial wrote the journal.
    let tried = [Stage::Trying, Stage::Proven];
    let is_tried = marker.underway.as_ref().is_some_and(|underway| tried.contains(&underway.stage));
    let journal = if is_tried { ground.take_back_journal(true) } else { Ok(()) };
    ground.keep(&marker.ended(end, why, now))?;
    ground.start_with(Which::Present)?;
    cleared_later(journal.and_then(|()| clear(ground)));
    Ok(())
}

/// Clears what the present program does not need.
fn clear(ground: &mut impl Ground) -> io::Result<()> {
    ground.take_back_journal(false)?;
    ground.remove_next()
}

/// What is left is cleared by the next start.
fn cleared_later(cleared: io::Result<()>) {
    if let Err(error) = cleared {
        tracing::warn!(%error, "something of an update of the agent is left until its next start");
    }
}

/// Moves the running new program to the usual place, for the next start.
///
/// # Errors
/// The service starts it from beside; it may be tried again.
pub fn move_in(ground: &mut impl Ground) -> io::Result<()> {
    ground.place()?;
    ground.start_with(Which::Present)?;
    let marker = ground.marker();
    ground.keep(&marker.at(Stage::Placed))
}
