//! Whether a job lets its device take updates back without a permit: the rollout asks for it, and
//! neither the device's roles nor its groups speak against it.
//!
//! Reported roles only ever take it away. A gateway that hides one gains little: the agent looks at
//! its own roles, too.

use wardring_api::{AutonomousRollback, AutonomousTrigger, DeviceRole, JobAction};

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
/// domain controller that goes back in time, a node that its cluster moves work to meanwhile.
const NEVER: [DeviceRole; 2] = [DeviceRole::DomainController, DeviceRole::ClusterNode];

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
        let asked = AutonomousRollback { triggers: vec![BOOT_LOOP] };
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
