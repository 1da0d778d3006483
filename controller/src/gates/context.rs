//! For whom and since when a gate is measured.

use std::collections::BTreeSet;

use jiff::Timestamp;
use wardring_api::GatePhase;

/// One device that a gate speaks of, under each of its names.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Member {
    /// Name of the Device, which people gave it.
    pub device: String,
    /// Further names, which it reports itself: they may find an alert or a ticket, and nothing else.
    pub aliases: Vec<String>,
}

/// What a measurement needs to know beside the gate itself.
#[derive(Clone, Debug)]
pub struct Context {
    /// Namespace of the rollout.
    pub namespace: String,
    /// Name of the rollout.
    pub rollout: String,
    /// Its uid.
    pub rollout_uid: String,
    /// Stage.
    pub stage: String,
    /// Phase of the gate.
    pub phase: GatePhase,
    /// Name of the gate.
    pub gate: String,
    /// Digest of what the gate says.
    pub definition: String,
    /// When the stage began.
    pub stage_began: Timestamp,
    /// When the gate began in this phase.
    pub gate_began: Timestamp,
    /// The present.
    pub now: Timestamp,
    /// The stage's devices.
    pub population: Vec<Member>,
}

impl Member {
    /// Every name that a device goes by in other systems, in lower case. Reported names are taken only
    /// if they could be one: they go into queries.
    pub fn names(&self) -> impl Iterator<Item = String> {
        let all = std::iter::once(&self.device).chain(&self.aliases);
        all.filter(|name| is_name(name)).map(|name| name.to_ascii_lowercase())
    }
}

impl Context {
    /// Every name of every device, once.
    pub fn names(&self) -> BTreeSet<String> {
        self.population.iter().flat_map(Member::names).collect()
    }
}

fn is_name(text: &str) -> bool {
    let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-._".contains(&byte);
    (1..=253).contains(&text.len()) && text.bytes().all(is_plain)
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    pub(crate) fn at(text: &str) -> Timestamp {
        text.parse().unwrap()
    }

    /// A stage with two servers that began at two o'clock; now is three.
    pub(crate) fn context() -> Context {
        Context {
            namespace: "clinic".to_owned(),
            rollout: "november".to_owned(),
            rollout_uid: "u-1".to_owned(),
            stage: "pilot".to_owned(),
            phase: GatePhase::During,
            gate: "errors".to_owned(),
            definition: "d".to_owned(),
            stage_began: at("2026-11-21T02:00:00Z"),
            gate_began: at("2026-11-21T02:00:00Z"),
            now: at("2026-11-21T03:00:00Z"),
            population: vec![
                Member { device: "web-1".into(), aliases: vec!["WEB1.clinic.example".into()] },
                Member { device: "web-2".into(), aliases: vec!["WEB2".into()] },
            ],
        }
    }

    #[test]
    fn a_name_that_a_device_made_up_never_gets_into_a_query() {
        let evil = "x\"} or vector(0) or up{a=\"";
        let member = Member {
            device: "web-1".into(),
            aliases: vec![evil.into(), "a|b".into(), String::new(), "Web1".into()],
        };
        assert_eq!(member.names().collect::<Vec<_>>(), ["web-1", "web1"]);
    }
}
