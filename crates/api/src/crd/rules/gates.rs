//! Rules of a stage's gates. The three lists share one shape, so each rule stands there three times.

use super::{Rule, rule};

macro_rules! each_phase {
    ($($phase:literal)+) => { [$(phase![$phase],)+] };
}

macro_rules! phase {
    ($phase:literal) => {
        [
            rule(
                concat!("spec.stages[].gates.", $phase, "[].name"),
                "self.matches('^[a-z0-9]([-a-z0-9]*[a-z0-9])?$')",
                concat!(
                    "spec.stages[].gates.",
                    $phase,
                    "[].name: must consist of lower-case letters, digits and inner `-`, such as `error-rate`"
                ),
            ),
            rule(
                concat!("spec.stages[].gates.", $phase, "[]"),
                "has(self.prometheus) == (self.type == 'Prometheus') && \
                 has(self.alertmanager) == (self.type == 'Alertmanager') && \
                 has(self.webhook) == (self.type == 'Webhook') && \
                 has(self.tickets) == (self.type == 'Tickets') && \
                 has(self.deviceHealth) == (self.type == 'DeviceHealth') && \
                 has(self.cel) == (self.type == 'Cel') && \
                 has(self.approval) == (self.type == 'Approval')",
                concat!(
                    "spec.stages[].gates.",
                    $phase,
                    "[]: give exactly the field that `type` names, such as `prometheus` for type Prometheus"
                ),
            ),
            rule(
                concat!("spec.stages[].gates.", $phase, "[]"),
                "!(self.type in ['Prometheus', 'Tickets', 'Cel']) || \
                 has(self.successCondition) || has(self.failureCondition)",
                concat!(
                    "spec.stages[].gates.",
                    $phase,
                    "[]: types Prometheus, Tickets and Cel need `successCondition` or `failureCondition`, such as `result < 0.05`"
                ),
            ),
            rule(
                concat!("spec.stages[].gates.", $phase, "[]"),
                "self.type != 'Approval' || (self.mode == 'Enforce' && self.noData == 'Wait' && \
                 self.onFailure != 'Rollback' && \
                 ![has(self.interval), has(self.initialDelay), has(self.count), \
                 has(self.successCondition), has(self.failureCondition), has(self.failureLimit), \
                 has(self.consecutiveSuccessLimit), has(self.consecutiveErrorLimit)].exists(g, g))",
                concat!(
                    "spec.stages[].gates.",
                    $phase,
                    "[]: type Approval is not measured; it takes `name`, `approval` and `onFailure: Hold` or `Halt`, and nothing else"
                ),
            ),
            rule(
                concat!("spec.stages[].gates.", $phase, "[].interval"),
                "!self.contains('d') && duration(self) >= duration('5s') && duration(self) <= duration('24h')",
                concat!(
                    "spec.stages[].gates.",
                    $phase,
                    "[].interval: must be at least `5s` and at most `24h`, and days are written as hours"
                ),
            ),
        ]
    };
}

const EACH: [[Rule; 5]; 3] = each_phase!["before" "during" "after"];

const OTHERS: &[Rule] = &[
    rule(
        "spec.stages[].gates",
        "(!has(self.before) || self.before.all(b, \
           (!has(self.during) || !self.during.exists(d, d.name == b.name)) && \
           (!has(self.after) || !self.after.exists(a, a.name == b.name)))) && \
         (!has(self.during) || !has(self.after) || \
           self.during.all(d, !self.after.exists(a, a.name == d.name)))",
        "spec.stages[].gates: every gate of a stage needs a name of its own, over `before`, `during` and `after`",
    ),
    rule(
        "spec.stages[].gates.before[]",
        "self.onFailure != 'Rollback'",
        "spec.stages[].gates.before[].onFailure: Rollback is for `during` and `after`, because nothing of the stage is installed yet",
    ),
    rule(
        "spec.stages[].gates.during[]",
        "self.type != 'Approval'",
        "spec.stages[].gates.during[].type: Approval is for `before` and `after`; a person who wants to stop a stage suspends the rollout",
    ),
    rule(
        "spec.stages[].gates.during[]",
        "!has(self.count)",
        "spec.stages[].gates.during[].count: is for `before` and `after`, because a gate of `during` is measured to the end",
    ),
];

/// The rules of gates.
pub(super) fn gates() -> impl Iterator<Item = Rule> {
    EACH.iter().flatten().chain(OTHERS).copied()
}
