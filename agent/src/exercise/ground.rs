//! On which devices an exercise may take place: on none that anybody could miss.

/// What is known of the device before an exercise.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Ground {
    /// The agent's service is installed.
    pub has_agent: bool,
    /// An agent ran here, at a console or as a service, and left its traces.
    pub has_traces: bool,
    /// Roles, in the API's words; `Unknown` where Windows does not tell.
    pub roles: Vec<String>,
    /// Who else patches this device.
    pub others: Vec<String>,
    /// The exercise began on another machine: this one runs a copy of its disk.
    pub is_copy: bool,
}

/// Whether whoever began it said that the device may be lost.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Consent {
    /// In as many words.
    Given,
    /// Not.
    Missing,
}

/// Why no exercise takes place here, if so. Consent helps against none of them but its own lack:
/// a device with an agent is managed by what its controller seals and by nothing else, whoever has a role is
/// missed by others, whoever is patched by others is theirs, and nobody consented for a copy.
pub fn refusal(ground: &Ground, consent: Consent) -> Option<String> {
    if ground.has_agent {
        return Some(
            "the agent is installed here: what is installed on this device is its controller's to say; \
             take a device without an agent"
                .to_owned(),
        );
    }
    if ground.has_traces {
        return Some(
            "an agent ran on this device: take another one, or remove all of it first with \
             `wardring-agent uninstall --purge`"
                .to_owned(),
        );
    }
    if ground.is_copy {
        return Some(
            "this is another computer than the one on which the exercise began, or its firmware no longer \
             tells which it is: its disk was copied; end the exercise here with --forget"
                .to_owned(),
        );
    }
    if !ground.others.is_empty() {
        return Some(format!(
            "others patch this device ({}): take one that nobody manages",
            ground.others.join("; ")
        ));
    }
    if !ground.roles.is_empty() {
        return Some(format!(
            "this device works for others ({}): take one that nobody would miss",
            ground.roles.join(", ")
        ));
    }
    (consent == Consent::Missing).then(|| {
        "an exercise installs an update on this device, restarts it, removes the update and restarts it \
         again, without asking anybody who works on it; begin it on a device that may be lost, with \
         --yes-this-device-may-be-lost"
            .to_owned()
    })
}

/// Whether an exercise that began on one machine runs on another: a copy of its disk. A record that names
/// none began where the firmware did not tell, or under an older agent.
pub fn is_copy(began_on: Option<&str>, here: Option<&str>) -> bool {
    began_on.is_some_and(|began_on| here != Some(began_on))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn consent_is_needed_and_helps_against_nothing_else() {
        let empty = Ground::default();
        assert_eq!(refusal(&empty, Consent::Given), None);
        let asked = refusal(&empty, Consent::Missing).unwrap();
        assert!(asked.contains("--yes-this-device-may-be-lost"), "{asked}");

        let refused = |ground: Ground, why: &str| {
            for consent in [Consent::Given, Consent::Missing] {
                let said = refusal(&ground, consent).unwrap();
                assert!(said.contains(why) && !said.contains("--yes"), "{said}");
            }
        };
        refused(Ground { has_agent: true, ..empty.clone() }, "controller's to say");
        refused(Ground { has_traces: true, ..empty.clone() }, "an agent ran on this device");
        refused(Ground { is_copy: true, ..empty.clone() }, "its disk was copied");
        let others = vec!["ConfigMgr client: set client setting".to_owned()];
        refused(Ground { others, ..empty.clone() }, "ConfigMgr client");
        for role in ["DomainController", "ClusterNode", "HyperVHost", "RdsHost", "Unknown"] {
            refused(Ground { roles: vec![role.to_owned()], ..empty.clone() }, role);
        }
    }

    #[test]
    fn a_record_that_names_no_machine_is_no_copy() {
        assert!(!is_copy(None, Some("4c4c")) && !is_copy(None, None));
        assert!(!is_copy(Some("4c4c"), Some("4c4c")));
        assert!(is_copy(Some("4c4c"), Some("1f2e")) && is_copy(Some("4c4c"), None));
    }
}
