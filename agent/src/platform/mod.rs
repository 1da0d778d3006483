//! What the agent needs of the device, as traits with two implementors each: Windows itself, and a
//! scripted Windows made of a file. Nothing above this folder knows which one it talks to.

mod active_hours;
#[cfg(all(feature = "scripted", not(windows)))]
pub mod scripted;
#[cfg(any(windows, test, fuzzing))]
#[cfg_attr(fuzzing, allow(dead_code, reason = "only what reads other programs' words is called"))]
pub mod windows;
#[cfg(any(windows, test))]
mod witnesses;

use std::collections::{BTreeMap, BTreeSet};
use std::future::Future;

use jiff::Timestamp;
use wardring_protocol::{Facts, StartupFact};
use wardring_seal::{ActiveHours, Hook, JobKey, Probe, UpdateSource, UpdateTarget};

use crate::state::{
    BootKind, BootRecord, DownloadFailure, Inspection, InstallFound, Off, ProbeSample, Question,
    Reply, ServiceSample, Startup, Surroundings, Witness,
};

/// The running boot, as the platform knows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RunningBoot {
    /// Identity; another one after every start of the operating system.
    pub id: String,
    /// Why it came, if that can be told.
    pub kind: BootKind,
    /// How long it had been off before, where somebody had switched it off.
    pub off: Option<Off>,
    /// Milliseconds since it came.
    pub uptime_ms: u64,
}

impl RunningBoot {
    /// The same for the journal, seen now.
    pub fn record(self) -> BootRecord {
        BootRecord { boot_id: self.id, at: wall_clock(), kind: self.kind, off: self.off }
    }
}

/// The device as a whole.
pub trait Machine: Send + Sync + 'static {
    /// Why this build carries out no job here, if so.
    fn refuses(&self) -> Option<&'static str>;

    /// The running boot.
    fn boot(&self) -> RunningBoot;

    /// `build.UBR`.
    fn build(&self) -> String;

    /// Roles, in the API's words. Asked before any contact, so it must not take long.
    fn roles(&self) -> Vec<String>;

    /// Everything there is to report.
    fn facts(&self) -> Facts;

    /// Tells people who are logged on about a restart.
    fn announce(&self, message: Option<&str>, countdown_ms: u64);

    /// Tells people who are logged on that a restart waits for them, and how long.
    fn ask_to_leave(&self, message: Option<&str>, within_ms: u64);

    /// Asks people who are logged on whether the device may restart now, and waits for their answers as long
    /// as the question is open. Where nobody can be asked, nobody answers.
    fn ask_people(&self, question: Question) -> impl Future<Output = Reply> + Send;

    /// What a restart would be in the way of.
    fn surroundings(&self, hours: Option<ActiveHours>)
    -> impl Future<Output = Surroundings> + Send;

    /// Does what Windows Update wants done before a restart, once for all that was installed since the last,
    /// and tells whether the order is forced. Takes 30 seconds at most.
    fn before_restart(&self, boot_before: &str, force: bool) -> bool;

    /// Orders a restart, unless the device runs another boot than `boot_before` already. Programs that
    /// refuse to end are ended if it is forced, and else keep the device from restarting.
    ///
    /// # Errors
    /// A sentence, when the operating system refuses.
    fn reboot(&self, key: &JobKey, boot_before: &str, force: bool) -> Result<(), String>;

    /// Takes back the restart that was ordered, if it still can be; nobody else's is touched.
    fn take_back_restart(&self);

    /// Resolves when there is something new for [`Machine::facts`] that nobody asked for.
    fn changed(&self) -> impl Future<Output = ()> + Send;

    /// Resolves when the operating system ends under the agent.
    fn ended(&self) -> impl Future<Output = ()> + Send;
}

/// Updates of the operating system. Every act is safe to repeat for the same key and update.
pub trait Updates: Send + Sync + 'static {
    /// Looks at updates, services and signs of a pending restart.
    ///
    /// # Errors
    /// A sentence, when that cannot be found out.
    fn inspect(
        &self,
        updates: &[UpdateTarget],
        services: &[String],
        terms: Terms,
    ) -> impl Future<Output = Result<Inspection, String>> + Send;

    /// Downloads.
    ///
    /// # Errors
    /// A sentence, and what Windows answered.
    fn download(
        &self,
        key: &JobKey,
        updates: &[UpdateTarget],
        terms: Terms,
    ) -> impl Future<Output = Result<(), DownloadFailure>> + Send;

    /// Installs, or tells how the installation under the same key and number of try ended. `permit`
    /// is asked at the last moment before anything begins.
    fn install(
        &self,
        key: &JobKey,
        update: &UpdateTarget,
        tries: u32,
        terms: Terms,
        permit: Permit,
    ) -> impl Future<Output = Performed> + Send;

    /// Tells how an installation ended that may have begun; waits for its end, begins none.
    fn find_install(
        &self,
        key: &JobKey,
        update: &UpdateTarget,
        tries: u32,
        terms: Terms,
    ) -> impl Future<Output = InstallFound> + Send;

    /// Removes.
    fn uninstall(
        &self,
        key: &JobKey,
        update: &UpdateTarget,
        packages: &[String],
        tries: u32,
        permit: Permit,
    ) -> impl Future<Output = Performed> + Send;
}

/// Services of the operating system.
pub trait Services: Send + Sync + 'static {
    /// Looks at services by name; one that does not exist is `Missing`.
    ///
    /// # Errors
    /// A sentence, when the service manager does not answer.
    fn sample(&self, names: &[String]) -> Result<BTreeMap<String, ServiceSample>, String>;

    /// Restarts a service, with those that depend on it.
    ///
    /// # Errors
    /// A sentence.
    fn restart(&self, name: &str) -> impl Future<Output = Result<(), String>> + Send;
}

/// What administrators ask of the device: that it answers, and that their programs run.
pub trait Checks: Send + Sync + 'static {
    /// Asks probes, each within its own time; one sample for each of them.
    fn probe(&self, probes: &[Probe])
    -> impl Future<Output = BTreeMap<String, ProbeSample>> + Send;

    /// TCP ports that are listened on, below those that the operating system hands out by itself.
    fn ports(&self) -> BTreeSet<u16>;

    /// Runs a program of the hooks folder to its end, or to the end of its time.
    ///
    /// # Errors
    /// A sentence, when it is not there, not protected, or did not end well.
    fn run_hook(&self, hook: &Hook) -> impl Future<Output = Result<(), String>> + Send;
}

/// The network around the device.
pub trait Network: Send + Sync + 'static {
    /// Those who answer now: of `named`, and of the default gateways and DNS servers that the device
    /// has at this moment. Takes seconds, and never a minute.
    fn answering(
        &self,
        named: &BTreeSet<Witness>,
    ) -> impl Future<Output = BTreeSet<Witness>> + Send;
}

/// A device in every respect.
pub trait Platform: Machine + Updates + Services + Checks + Network {}
impl<T: Machine + Updates + Services + Checks + Network> Platform for T {}

/// What a job lets the platform do with its updates.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Terms {
    /// Where to look for them.
    pub source: UpdateSource,
    /// Whether licence terms may be accepted.
    pub accept_eula: bool,
    /// Whether only what the device knows by itself counts: nothing is asked of the source.
    pub is_local: bool,
    /// Whether a look asks for the state of the component store, which takes its time.
    pub looks_at_store: bool,
}

/// A permit on the run's monotonic clock.
#[derive(Clone, Copy, Debug)]
pub struct Permit {
    /// The moment after which nothing may begin.
    pub until: std::time::Instant,
}

impl Permit {
    /// Whether something may begin now.
    pub fn is_alive(&self) -> bool {
        std::time::Instant::now() < self.until
    }
}

/// How an act ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Performed {
    /// It was done, now or before.
    Ended(crate::state::ServicingResult),
    /// The permit was over; nothing was begun.
    PermitExpired,
}

/// Free space as it is reported: never more than there is, in steps that grow with it, and where it
/// was as long as it moves by less than two of them. A disk that breathes must cost no write.
pub fn told_free_gb(before: Option<u32>, free_gb: u32) -> u32 {
    let step = |gb: u32| match gb {
        0..32 => 1,
        32..256 => 4,
        _ => 16,
    };
    let is_still = |before: &u32| (*before..*before + 2 * step(*before)).contains(&free_gb);
    before.filter(is_still).unwrap_or(free_gb - free_gb % step(free_gb))
}

/// What happens at the next start, as it is reported.
pub fn startup_fact(startup: &Startup) -> StartupFact {
    let fact = |attendance: &str, protectors: &[String]| StartupFact {
        attendance: attendance.to_owned(),
        protectors: protectors.to_vec(),
    };
    match startup {
        Startup::Unattended => fact("NotNeeded", &[]),
        Startup::Attended(kinds) => fact("Needed", kinds),
        Startup::Unknown(_) | Startup::Unseen => fact("Unknown", &[]),
    }
}

/// The device's clock.
pub fn wall_clock() -> Timestamp {
    Timestamp::now()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_disk_that_breathes_is_told_once_and_never_as_more_than_there_is() {
        let told = |seen: &[u32]| -> Vec<u32> {
            let mut told = Vec::new();
            for &free in seen {
                told.push(told_free_gb(told.last().copied(), free));
            }
            told
        };
        assert_eq!(told(&[10, 11, 10, 11]), [10, 10, 10, 10]);
        assert_eq!(told(&[10, 9, 10, 9, 3]), [10, 9, 9, 9, 3], "less is told at once");
        assert_eq!(told(&[3, 5, 40]), [3, 5, 40]);
        assert_eq!(told(&[103, 101, 107, 99, 500]), [100, 100, 100, 96, 496]);
        for before in 0..600 {
            for free in 0..600 {
                assert!(told_free_gb(Some(before), free) <= free);
            }
        }
    }
}
