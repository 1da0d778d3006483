//! Whether the device is as healthy as before: every service against its own baseline.

use std::collections::{BTreeMap, BTreeSet};

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::{Witness, unlisted};

/// State of a service, in Microsoft's words.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum ServiceState {
    /// Running.
    Running,
    /// Stopped.
    Stopped,
    /// Starting.
    StartPending,
    /// Stopping.
    StopPending,
    /// Paused.
    Paused,
    /// There is no such service.
    Missing,
}

impl ServiceState {
    /// The word of the API.
    pub fn as_str(self) -> &'static str {
        match self {
            ServiceState::Running => "Running",
            ServiceState::Stopped => "Stopped",
            ServiceState::StartPending => "StartPending",
            ServiceState::StopPending => "StopPending",
            ServiceState::Paused => "Paused",
            ServiceState::Missing => "Missing",
        }
    }
}

/// How a service starts. Never used to decide that it *should* run: what ran before does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum StartType {
    /// At boot.
    Auto,
    /// On demand, or by a trigger.
    Demand,
    /// Not at all.
    Disabled,
    /// Cannot be told.
    Unknown,
}

/// One service at one moment.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ServiceSample {
    /// State.
    pub state: ServiceState,
    /// How it starts.
    pub start: StartType,
    /// Its process.
    pub pid: Option<u32>,
    /// It starts on demand, and triggers demand it: it stops by design when its work is done (Windows
    /// documentation, "Service trigger events").
    #[serde(default)]
    pub by_trigger: bool,
    /// Windows starts it minutes after the other services.
    #[serde(default)]
    pub delayed: bool,
    /// Win32 error of its last end, while it is stopped; 1077 is none since the boot.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub exit: Option<u32>,
}

impl ServiceSample {
    /// A service that does not exist.
    pub fn missing() -> ServiceSample {
        ServiceSample {
            state: ServiceState::Missing,
            start: StartType::Unknown,
            pid: None,
            by_trigger: false,
            delayed: false,
            exit: None,
        }
    }
}

/// The answer to a probe at one moment.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum ProbeSample {
    /// As it should be.
    Good,
    /// Not; the text says what is wrong.
    Failed(String),
}

impl From<Result<(), String>> for ProbeSample {
    fn from(result: Result<(), String>) -> ProbeSample {
        result.map_or_else(ProbeSample::Failed, |()| ProbeSample::Good)
    }
}

/// What the device was like before anything was touched. Never overwritten once it was.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Baseline {
    /// When it was taken.
    pub at: Timestamp,
    /// `build.UBR`.
    pub build: String,
    /// The services of the job.
    pub services: BTreeMap<String, ServiceSample>,
    /// Other services that ran because Windows starts them.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub automatic: BTreeSet<String>,
    /// The probes of the job.
    #[serde(default)]
    pub probes: BTreeMap<String, ProbeSample>,
    /// TCP ports that were listened on.
    #[serde(default)]
    pub ports: BTreeSet<u16>,
    /// Who on the network answered, where the job asks for that.
    #[serde(default)]
    pub witnesses: BTreeSet<Witness>,
}

impl Baseline {
    /// How a service stood; `Missing` where nothing is known of it.
    pub(super) fn service(&self, name: &str) -> ServiceSample {
        match self.services.get(name) {
            Some(sample) => sample.clone(),
            None if self.automatic.contains(name) => unlisted::ran(),
            None => ServiceSample::missing(),
        }
    }
}

/// Verdict on one service.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// As it should be.
    Good,
    /// Still starting.
    Wait,
    /// Worse than before; the text says how.
    Broken(String),
}

/// Whether a service is to run from here on: it ran before, and is not one that stops by design. One
/// that starts on demand and has no trigger is to run: whoever ran it and names it needs it, and
/// nothing but a person or our restart brings it back.
pub(super) fn is_due(before: Option<&ServiceSample>, after: &ServiceSample) -> bool {
    use ServiceState::{Running, StartPending};
    let ran = before.is_none_or(|sample| matches!(sample.state, Running | StartPending));
    // Only one that was so before: an update that turns a service into such a one stops it.
    let stops_by_design = after.by_trigger && before.is_none_or(|sample| sample.by_trigger);
    ran && !stops_by_design
}

/// Compares a service with its baseline. `before` is `None` only when no baseline exists (the
/// agent lost it): then a service that exists must run, since nobody can say it did not.
pub fn judge(before: Option<&ServiceSample>, after: &ServiceSample) -> Verdict {
    use ServiceState::{Missing, Paused, Running, StartPending, StopPending, Stopped};
    let was = before.map_or(Running, |sample| sample.state);
    let disabled = before.is_some_and(|sample| sample.start != StartType::Disabled)
        && after.start == StartType::Disabled;
    match (was, after.state) {
        // Not the update's fault, and not something to repair.
        (Stopped | StopPending | Missing | Paused, _) => Verdict::Good,
        (_, Missing) if before.is_none() => Verdict::Good,
        (_, Running) if disabled => {
            Verdict::Broken("its start type was changed to Disabled".to_owned())
        }
        (_, Running) => Verdict::Good,
        (_, StartPending) => Verdict::Wait,
        (_, Missing) => Verdict::Broken("the service is gone".to_owned()),
        (_, Stopped | StopPending) if !disabled && !is_due(before, after) => Verdict::Good,
        (_, state) if disabled => {
            Verdict::Broken(format!("it was {}, is {} and Disabled", was.as_str(), state.as_str()))
        }
        (_, state) => Verdict::Broken(format!("it was {}, is {}", was.as_str(), state.as_str())),
    }
}

/// Compares a probe with its baseline; the text says why it is worse. One that failed before, or that
/// nobody asked before, is not held against the update. Without any baseline (the agent lost it) it
/// must be good, since nobody can say it was not.
pub fn judge_probe(
    before: Option<&Baseline>,
    name: &str,
    after: &ProbeSample,
) -> Result<(), String> {
    let was_good =
        before.is_none_or(|baseline| baseline.probes.get(name) == Some(&ProbeSample::Good));
    match after {
        ProbeSample::Failed(why) if was_good => Err(why.clone()),
        ProbeSample::Failed(_) | ProbeSample::Good => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn auto(state: ServiceState) -> ServiceSample {
        ServiceSample { state, start: StartType::Auto, ..ServiceSample::missing() }
    }

    fn triggered(state: ServiceState) -> ServiceSample {
        ServiceSample { start: StartType::Demand, by_trigger: true, ..auto(state) }
    }

    fn after(was: ServiceState, is: ServiceState) -> Verdict {
        judge(Some(&auto(was)), &auto(is))
    }

    #[test]
    fn only_what_ran_before_can_be_broken() {
        use ServiceState::{Missing, Running, StartPending, Stopped};
        assert_eq!(after(Running, Running), Verdict::Good);
        assert_eq!(after(Stopped, Stopped), Verdict::Good);
        assert_eq!(after(Stopped, Running), Verdict::Good);
        assert_eq!(after(Missing, Missing), Verdict::Good);
        assert_eq!(after(Running, StartPending), Verdict::Wait);
        assert_eq!(after(Running, Stopped), Verdict::Broken("it was Running, is Stopped".into()));
        assert_eq!(after(Running, Missing), Verdict::Broken("the service is gone".into()));
    }

    #[test]
    fn a_start_type_changed_to_disabled_is_broken_even_while_the_service_runs() {
        let disabled = ServiceSample { start: StartType::Disabled, ..auto(ServiceState::Running) };
        let verdict = judge(Some(&auto(ServiceState::Running)), &disabled);
        assert_eq!(verdict, Verdict::Broken("its start type was changed to Disabled".into()));
        assert_eq!(judge(Some(&disabled), &disabled), Verdict::Good);
    }

    #[test]
    fn a_service_that_triggers_start_may_stop_and_no_other() {
        use ServiceState::{Missing, Paused, Running, StartPending, StopPending, Stopped};
        let before = triggered(Running);
        for state in [Running, Stopped, StopPending] {
            assert_eq!(judge(Some(&before), &triggered(state)), Verdict::Good, "{state:?}");
        }
        assert_eq!(judge(Some(&before), &triggered(StartPending)), Verdict::Wait);
        let disabled = ServiceSample { start: StartType::Disabled, ..triggered(Stopped) };
        for worse in [disabled, triggered(Paused), ServiceSample::missing()] {
            let verdict = judge(Some(&before), &worse);
            assert!(matches!(verdict, Verdict::Broken(_)), "{worse:?}: {verdict:?}");
        }
        assert_eq!(
            judge(Some(&before), &triggered(Missing)),
            judge(Some(&auto(Running)), &auto(Missing))
        );
        // It ran, nothing but a person starts it, and somebody named it.
        let demand = |state| ServiceSample { start: StartType::Demand, ..auto(state) };
        let stopped = Verdict::Broken("it was Running, is Stopped".into());
        assert_eq!(judge(Some(&demand(Running)), &demand(Stopped)), stopped);
        // An update took its start at boot away.
        assert_eq!(judge(Some(&auto(Running)), &triggered(Stopped)), stopped);
        assert_eq!(judge(Some(&before), &auto(Stopped)), stopped);
        assert_eq!(judge(None, &triggered(Stopped)), Verdict::Good);
    }

    #[test]
    fn without_a_baseline_an_existing_service_must_run() {
        assert_eq!(judge(None, &auto(ServiceState::Running)), Verdict::Good);
        assert_eq!(judge(None, &ServiceSample::missing()), Verdict::Good);
        assert!(matches!(judge(None, &auto(ServiceState::Stopped)), Verdict::Broken(_)));
    }

    #[test]
    fn a_probe_that_failed_before_is_not_blamed() {
        let failed = || ProbeSample::Failed("refused".to_owned());
        let baseline = |web: Option<ProbeSample>| Baseline {
            at: "2026-11-21T02:00:00Z".parse().unwrap(),
            build: String::new(),
            services: BTreeMap::new(),
            automatic: BTreeSet::new(),
            probes: web.map(|sample| ("web".to_owned(), sample)).into_iter().collect(),
            ports: BTreeSet::new(),
            witnesses: BTreeSet::new(),
        };
        let judge = |before: &Baseline, after| judge_probe(Some(before), "web", &after);
        assert_eq!(judge(&baseline(Some(ProbeSample::Good)), failed()), Err("refused".to_owned()));
        assert_eq!(judge(&baseline(Some(ProbeSample::Good)), ProbeSample::Good), Ok(()));
        assert_eq!(judge(&baseline(Some(failed())), failed()), Ok(()));
        assert_eq!(judge(&baseline(None), failed()), Ok(()));
        assert_eq!(judge_probe(None, "web", &failed()), Err("refused".to_owned()));
    }
}
