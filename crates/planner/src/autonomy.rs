//! Whether a job lets its device take updates back without a permit: the rollout asks for it, and
//! neither the device's roles nor its groups speak against it.
//!
//! Reported roles only ever take it away. A gateway that hides one gains little: the agent looks at
//! its own roles, too.

use jiff::SignedDuration;
use wardring_api::{
    AutonomousRollback, AutonomousTrigger, DeviceRole, JobAction, NetworkLost, Span,
};

/// How long nothing must have answered where the rollout does not say: longer than a restart of a
/// switch, and than most work on one.
const LOST_AFTER: Span = Span::from_hours(1);
/// Bounds that admission holds, too. A shorter one would take an outage for an update's fault.
const LOST_AFTER_BOUNDS: [Span; 2] = [Span::from_mins(15), Span::from_hours(12)];

/// How long nothing must have answered a device before it takes its network for lost, in bounds that
/// do not rest on admission alone; `None` where that is no trigger.
pub fn network_lost(asked: &AutonomousRollback) -> Option<(SignedDuration, NetworkLost)> {
    if !asked.triggers.contains(&AutonomousTrigger::NetworkLost) {
        return None;
    }
    let rules = asked.network_lost.clone().unwrap_or_default();
    let [least, most] = LOST_AFTER_BOUNDS;
    let after = rules.after.unwrap_or(LOST_AFTER).duration();
    Some((after.clamp(least.duration(), most.duration()), rules))
}

/// Whether a device may take updates back without a permit.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum JobAutonomy {
    /// The rollout does not ask for it.
    NotAsked,
    /// It may.
    Allowed(AutonomousRollback),
    /// It must not, whatever the rollout asks for.
    Refused(NoAutonomy),
}

impl JobAutonomy {
    /// The same for people, who read it in the job.
    pub fn sentence(&self) -> Option<String> {
        match self {
            JobAutonomy::NotAsked => None,
            JobAutonomy::Allowed(allowed) => {
                let triggers = allowed.triggers.iter().map(|trigger| match trigger {
                    AutonomousTrigger::BootLoop => "BootLoop",
                    AutonomousTrigger::NetworkLost => "NetworkLost",
                });
                Some(format!("Allowed: {}", triggers.collect::<Vec<_>>().join(", ")))
            }
            JobAutonomy::Refused(why) => Some(format!("Refused: {why}")),
        }
    }
}

/// Why a device must not take updates back by itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NoAutonomy {
    /// Its role.
    #[error("the device reports the role {0:?}, and such a device never rolls back by itself")]
    Role(DeviceRole),
    /// One of its groups.
    #[error("a DeviceGroup of the device forbids automatic rollbacks")]
    Group,
}

/// Roles whose devices others depend on, and which are not to be taken back by their own judgement: a
/// domain controller that goes back in time, a node that its cluster moves work to meanwhile. Who cannot
/// tell what it is may be one.
const NEVER: [DeviceRole; 3] =
    [DeviceRole::DomainController, DeviceRole::ClusterNode, DeviceRole::Unknown];

/// What a job carries for a device with these `roles`.
pub(crate) fn of(
    asked: Option<&AutonomousRollback>,
    action: JobAction,
    roles: &[DeviceRole],
    is_forbidden: bool,
) -> JobAutonomy {
    let Some(asked) = asked.filter(|_| action == JobAction::Install) else {
        return JobAutonomy::NotAsked;
    };
    match roles.iter().find(|role| NEVER.contains(role)) {
        Some(role) => JobAutonomy::Refused(NoAutonomy::Role(*role)),
        None if is_forbidden => JobAutonomy::Refused(NoAutonomy::Group),
        None => JobAutonomy::Allowed(asked.clone()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const BOOT_LOOP: AutonomousTrigger = AutonomousTrigger::BootLoop;

    fn judged(action: JobAction, roles: &[DeviceRole], is_forbidden: bool) -> JobAutonomy {
        let asked = AutonomousRollback { triggers: vec![BOOT_LOOP], network_lost: None };
        of(Some(&asked), action, roles, is_forbidden)
    }

    #[test]
    fn a_device_may_roll_back_by_itself_only_where_the_rollout_asks_for_it() {
        assert_eq!(of(None, JobAction::Install, &[], false), JobAutonomy::NotAsked);
        for action in [JobAction::Download, JobAction::Rollback] {
            assert_eq!(judged(action, &[], false), JobAutonomy::NotAsked);
        }
        let harmless = [DeviceRole::HyperVHost, DeviceRole::RdsHost];
        let allowed = judged(JobAction::Install, &harmless, false);
        assert_eq!(allowed.sentence().as_deref(), Some("Allowed: BootLoop"));
    }

    #[test]
    fn a_network_is_lost_after_an_hour_and_never_after_less_than_a_quarter_of_one() {
        let asked = |triggers: &[AutonomousTrigger], after: Option<Span>| {
            let rules = NetworkLost { after, witnesses: Vec::new() };
            let asked =
                AutonomousRollback { triggers: triggers.to_vec(), network_lost: Some(rules) };
            network_lost(&asked).map(|(after, _)| Span(after))
        };
        let both = [BOOT_LOOP, AutonomousTrigger::NetworkLost];
        assert_eq!(asked(&[BOOT_LOOP], Some(Span::from_hours(2))), None);
        assert_eq!(asked(&both, None), Some(Span::from_hours(1)));
        assert_eq!(asked(&both, Some(Span::from_hours(2))), Some(Span::from_hours(2)));
        // Admission refuses these; a rollout that came past it must not do harm.
        assert_eq!(asked(&both, Some(Span::from_secs(1))), Some(Span::from_mins(15)));
        assert_eq!(asked(&both, Some(Span::from_hours(99))), Some(Span::from_hours(12)));
        let unsaid = AutonomousRollback { triggers: both.to_vec(), network_lost: None };
        assert_eq!(network_lost(&unsaid).map(|(after, _)| after), Some(LOST_AFTER.duration()));
        let told = of(Some(&unsaid), JobAction::Install, &[], false).sentence();
        assert_eq!(told.as_deref(), Some("Allowed: BootLoop, NetworkLost"));
    }

    #[test]
    fn a_domain_controller_and_a_cluster_node_never_roll_back_by_themselves_and_the_job_says_so() {
        for role in NEVER {
            let refused = judged(JobAction::Install, &[DeviceRole::RdsHost, role], false);
            assert_eq!(refused, JobAutonomy::Refused(NoAutonomy::Role(role)));
            let told = refused.sentence().unwrap();
            assert!(told.starts_with("Refused: ") && told.contains(&format!("{role:?}")), "{told}");
        }
        let refused = judged(JobAction::Install, &[], true);
        assert_eq!(refused, JobAutonomy::Refused(NoAutonomy::Group));
    }
}
