//! Milestones in the event log of Windows.

use std::fmt::{Debug, Write};

use tracing::field::{Field, Visit};
use tracing::{Event, Level, Subscriber};
use tracing_subscriber::Layer;
use tracing_subscriber::layer::Context;
use windows_registry::LOCAL_MACHINE;

use super::EVENT_SOURCE;
use crate::ffi::{EventSource, Weight};
use crate::milestone::{Milestone, TARGET};

const KEY: &str = r"SYSTEM\CurrentControlSet\Services\EventLog\Application\Wardring";
/// A file of Windows with a text for every event number from 1 to 1000 that shows nothing but what
/// the source wrote; it is what `eventcreate` registers for the sources that it makes.
const TEXTS: &str = r"%SystemRoot%\System32\EventCreate.exe";
/// Errors, warnings and information.
const TYPES: u32 = 7;

/// Registers the source; true when it was not there before.
pub(super) fn register() -> windows_registry::Result<bool> {
    let is_new = LOCAL_MACHINE.open(KEY).is_err();
    let key = LOCAL_MACHINE.create(KEY)?;
    key.set_expand_string("EventMessageFile", TEXTS)?;
    key.set_u32("TypesSupported", TYPES)?;
    Ok(is_new)
}

/// Removes the source.
pub(super) fn unregister() -> windows_registry::Result<()> {
    if LOCAL_MACHINE.open(KEY).is_err() {
        return Ok(());
    }
    LOCAL_MACHINE.remove_tree(KEY)
}

/// Tells in the event log of an installation or removal that did not come about: nobody sees what a
/// program says that Windows Installer or a startup script runs.
pub fn refused(text: &str) {
    // Standard error and the exit code say it, too.
    tell(Weight::Error, text);
}

/// Tells that a part of what was wanted is not done, and that the rest is.
pub fn left_out(text: &str) {
    tell(Weight::Warning, text);
}

fn tell(weight: Weight, text: &str) {
    if let Ok(source) = EventSource::open(EVENT_SOURCE) {
        let _ = source.report(weight, Milestone::Refused.id(), text);
    }
}

/// Writes the milestones among the log lines to the event log.
pub(super) struct EventLog(EventSource);

impl EventLog {
    /// Opens the event log; none when it does not run, which must not keep the agent from running.
    pub fn open() -> Option<EventLog> {
        EventSource::open(EVENT_SOURCE).ok().map(EventLog)
    }
}

impl<S: Subscriber> Layer<S> for EventLog {
    fn on_event(&self, event: &Event<'_>, _context: Context<'_, S>) {
        if event.metadata().target() != TARGET {
            return;
        }
        let mut read = Read::default();
        event.record(&mut read);
        let weight = match *event.metadata().level() {
            Level::ERROR => Weight::Error,
            Level::WARN => Weight::Warning,
            _ => Weight::Information,
        };
        // The line stands in the agent's own log as well.
        let _ = self.0.report(weight, read.event, &read.message);
    }
}

/// Number and text of a milestone.
#[derive(Default)]
struct Read {
    event: u32,
    message: String,
}

impl Visit for Read {
    fn record_u64(&mut self, field: &Field, value: u64) {
        if field.name() == "event" {
            self.event = u32::try_from(value).unwrap_or_default();
        }
    }

    fn record_debug(&mut self, field: &Field, value: &dyn Debug) {
        if field.name() == "message" {
            // Writing to a text does not fail.
            let _ = write!(self.message, "{value:?}");
        }
    }
}
