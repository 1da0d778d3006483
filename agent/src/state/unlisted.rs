//! Services that nobody named, by the baseline alone: what ran before because Windows starts it is to
//! run afterwards.
//!
//! A service that starts on demand, by a trigger or for one user comes and goes by design, so none of
//! them is remembered. One that ended without an error was told to, or had nothing to do.

use std::collections::BTreeSet;

use wardring_seal::UnlistedServices;

use super::{Baseline, JobRun, ServiceSample, ServiceState, StartType, Verdict, health};

/// Services that are remembered. A server has about a hundred such; the journal must stay small.
pub(super) const MAX_UNLISTED: usize = 256;

/// Win32 error of a service that was not started since the boot (`ERROR_SERVICE_NEVER_STARTED`).
const NEVER_STARTED: u32 = 1077;

/// What to remember of the services that run by themselves: those that the job does not name.
pub(super) fn remembered(automatic: &BTreeSet<String>, listed: &[String]) -> BTreeSet<String> {
    let is_listed = |name: &&String| listed.iter().any(|known| known.eq_ignore_ascii_case(name));
    automatic.iter().filter(|name| !is_listed(name)).take(MAX_UNLISTED).cloned().collect()
}

/// How each of them stood in the baseline.
pub(super) fn ran() -> ServiceSample {
    ServiceSample {
        state: ServiceState::Running,
        start: StartType::Auto,
        ..ServiceSample::missing()
    }
}

/// Services that no list names and that are looked at again, in the order of their names. A baseline of
/// an earlier attempt may know some that this job lists.
pub(super) fn watched(job: &JobRun) -> impl Iterator<Item = &String> {
    let listed = &job.payload.health.services;
    let names = job.baseline.iter().flat_map(|baseline: &Baseline| &baseline.automatic);
    names.filter(|name| !listed.iter().any(|known| known.eq_ignore_ascii_case(name)))
}

/// Whether the job asks for a verdict on them.
pub(super) fn are_judged(job: &JobRun) -> bool {
    job.payload.health.unlisted == UnlistedServices::Judge
}

/// The verdict on one that ran by itself before.
pub(super) fn judge(after: &ServiceSample) -> Verdict {
    let is_stopped = after.state == ServiceState::Stopped && after.start != StartType::Disabled;
    match after.exit {
        Some(0) if is_stopped => Verdict::Good,
        // Windows starts it minutes after the others, and time decides.
        Some(NEVER_STARTED) if is_stopped && after.delayed => Verdict::Wait,
        _ if after.state == ServiceState::StopPending => Verdict::Wait,
        _ => health::judge(Some(&ran()), after),
    }
}

/// Why a service is not running, for people.
pub(super) fn why(sample: &ServiceSample) -> String {
    match sample.exit {
        None => String::new(),
        Some(0) => " (it ended without an error)".to_owned(),
        Some(NEVER_STARTED) => " (not started since the boot)".to_owned(),
        Some(code) => format!(" (error {code})"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stopped(exit: u32) -> ServiceSample {
        ServiceSample { state: ServiceState::Stopped, exit: Some(exit), ..ran() }
    }

    #[test]
    fn what_died_or_never_came_is_broken_and_what_ended_by_itself_is_not() {
        assert_eq!(judge(&ran()), Verdict::Good);
        let broken = Verdict::Broken("it was Running, is Stopped".to_owned());
        // 1066 is an error of its own, 1067 a process that died, 1053 one that never answered.
        for exit in [1053, 1066, 1067, NEVER_STARTED] {
            assert_eq!(judge(&stopped(exit)), broken, "{exit}");
        }
        assert_eq!(judge(&ServiceSample { exit: None, ..stopped(0) }), broken, "nobody knows why");
        assert_eq!(judge(&stopped(0)), Verdict::Good);
        let gone = Verdict::Broken("the service is gone".to_owned());
        assert_eq!(judge(&ServiceSample::missing()), gone);
    }

    #[test]
    fn one_that_is_on_its_way_is_waited_for() {
        let pending = |state| ServiceSample { state, ..ran() };
        assert_eq!(judge(&pending(ServiceState::StartPending)), Verdict::Wait);
        assert_eq!(judge(&pending(ServiceState::StopPending)), Verdict::Wait);
        let delayed = ServiceSample { delayed: true, ..stopped(NEVER_STARTED) };
        assert_eq!(judge(&delayed), Verdict::Wait);
        let died = ServiceSample { delayed: true, ..stopped(1067) };
        assert!(matches!(judge(&died), Verdict::Broken(_)), "it was started, and died");
    }

    #[test]
    fn one_that_may_not_start_any_more_is_broken_however_it_ended() {
        for sample in [ran(), stopped(0), stopped(NEVER_STARTED)] {
            let disabled = ServiceSample { start: StartType::Disabled, delayed: true, ..sample };
            assert!(matches!(judge(&disabled), Verdict::Broken(_)), "{disabled:?}");
        }
    }

    #[test]
    fn what_the_job_names_is_not_remembered_twice_and_no_more_than_the_bound_is() {
        let names = |count: usize| (0..count).map(|n| format!("svc-{n:04}")).collect();
        let listed = ["SVC-0000".to_owned()];
        let remembered_of = |count| remembered(&names(count), &listed);
        assert_eq!(remembered_of(3), BTreeSet::from(["svc-0001".into(), "svc-0002".into()]));
        assert_eq!(remembered_of(1000).len(), MAX_UNLISTED);
    }
}
