//! Gates: what must hold before a stage starts, while it runs, and before the next one opens.

use jiff::Timestamp;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{ApprovalGate, GateApproval, Span};

/// Gates of one stage. Names are unique within it.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct StageGates {
    /// Measured once the stage's devices are frozen; nothing starts before each of them has passed.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 8))]
    pub before: Vec<Gate>,
    /// Measured from the stage's start to its end, soak included; they may stop it at any time.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 8))]
    pub during: Vec<Gate>,
    /// Measured after the soak; the next stage opens once each of them has passed.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 8))]
    pub after: Vec<Gate>,
}

impl StageGates {
    /// Whether the stage has none.
    pub fn is_empty(&self) -> bool {
        self.before.is_empty() && self.during.is_empty() && self.after.is_empty()
    }

    /// Every gate with its phase, in order.
    pub fn all(&self) -> impl Iterator<Item = (GatePhase, &Gate)> {
        let before = self.before.iter().map(|gate| (GatePhase::Before, gate));
        let during = self.during.iter().map(|gate| (GatePhase::During, gate));
        let after = self.after.iter().map(|gate| (GatePhase::After, gate));
        before.chain(during).chain(after)
    }
}

/// One gate: what is measured, how often, and what follows from it. Errors, missing data and old
/// measurements never pass.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Gate {
    /// Name, unique in the stage.
    #[schemars(length(min = 1, max = 63))]
    pub name: String,
    /// What is measured.
    #[serde(rename = "type")]
    pub kind: GateType,
    /// Time between measurements. Default 5m, at least 5s.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub interval: Option<Span>,
    /// Time from the beginning of the gate's phase to its first measurement. Default 0s.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub initial_delay: Option<Span>,
    /// Measurements that passed or failed which a gate of `before` or `after` needs before it may
    /// pass. Default 1.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 1000))]
    pub count: Option<u32>,
    /// CEL over the measurement; true is a pass, and false a fail unless `failureCondition` is given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 1024))]
    pub success_condition: Option<String>,
    /// CEL over the measurement; true is a fail, whatever `successCondition` says. With both, neither
    /// being true is inconclusive.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 1024))]
    pub failure_condition: Option<String>,
    /// Failed measurements that the gate bears; strictly more fail it. Default 0.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0, max = 1000))]
    pub failure_limit: Option<u32>,
    /// Passes in a row that the gate needs to pass, and to recover from a failure. Default 1.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 1000))]
    pub consecutive_success_limit: Option<u32>,
    /// Measurements in a row without an answer that the gate bears; strictly more, and nothing starts
    /// until there is an answer. Default 4.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0, max = 1000))]
    pub consecutive_error_limit: Option<u32>,
    /// What missing data means. Default Wait.
    #[serde(default)]
    pub no_data: NoData,
    /// Whether anything follows from it. Default Enforce.
    #[serde(default)]
    pub mode: GateMode,
    /// What follows when it fails. Default Hold.
    #[serde(default)]
    pub on_failure: GateFailure,
    /// For type Prometheus.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub prometheus: Option<PrometheusGate>,
    /// For type Alertmanager.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub alertmanager: Option<AlertmanagerGate>,
    /// For type Webhook.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub webhook: Option<WebhookGate>,
    /// For type Tickets.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tickets: Option<TicketsGate>,
    /// For type DeviceHealth.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub device_health: Option<DeviceHealthGate>,
    /// For type Cel.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cel: Option<CelGate>,
    /// For type Approval.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub approval: Option<ApprovalGate>,
}

impl Gate {
    /// Time between measurements, with its default.
    pub fn interval(&self) -> Span {
        self.interval.unwrap_or(Span::from_mins(5)).max(Span::from_secs(5))
    }
}

/// What a gate measures.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum GateType {
    /// A PromQL query.
    Prometheus,
    /// Alerts that are new since the stage began.
    Alertmanager,
    /// What a web service answers.
    Webhook,
    /// The rate of tickets.
    Tickets,
    /// The share of the stage's devices that are not well, as their agents say.
    DeviceHealth,
    /// A CEL expression over the rollout's own counters.
    Cel,
    /// A person's approval (a PatchApproval). Of `before` or `after`.
    Approval,
}

/// What missing data means.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum NoData {
    /// Nothing yet; the gate waits for data.
    #[default]
    Wait,
    /// A fail.
    Fail,
    /// A pass: for what is only there when something is wrong.
    Pass,
}

/// Whether anything follows from a gate.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum GateMode {
    /// Yes.
    #[default]
    Enforce,
    /// No: it is measured and shown, to learn whether it would do.
    DryRun,
}

/// What follows when a gate fails.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum GateFailure {
    /// Nothing starts in the stage, and it does not end, until the gate has recovered.
    #[default]
    Hold,
    /// The rollout halts and waits for a person.
    Halt,
    /// The rollout halts, and the updates are taken back: in the stage, or in all of them where
    /// `onFailure.scope` says AllStages.
    Rollback,
}

/// When a gate is measured.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema,
)]
pub enum GatePhase {
    /// Before anything starts.
    Before,
    /// While the stage runs.
    During,
    /// After the soak.
    After,
}

/// A PromQL query. Conditions see its value as `result`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct PrometheusGate {
    /// A GateProvider of type Prometheus.
    #[schemars(length(min = 1, max = 63))]
    pub provider: String,
    /// The query; it must come to one number. `{{devices}}` stands for every name of the stage's devices,
    /// to be put behind `=~`; also `{{namespace}}`, `{{rollout}}` and `{{stage}}`.
    #[schemars(length(min = 1, max = 2048))]
    pub query: String,
    /// Asks for a range instead of an instant, and reduces it to one number.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub range: Option<PrometheusRange>,
    /// Asks the same of an earlier time; conditions then see that value as `baseline`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub baseline: Option<PrometheusBaseline>,
}

/// A range of samples, up to now.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct PrometheusRange {
    /// How far back.
    pub over: Span,
    /// Time between samples; default a tenth of `over`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub step: Option<Span>,
    /// What becomes of the samples.
    pub reduce: RangeReduction,
}

impl PrometheusRange {
    /// Time between samples, with its default: whole seconds, at least one.
    pub fn step(&self) -> Span {
        let tenth = u32::try_from(self.over.duration().as_secs() / 10).unwrap_or(u32::MAX);
        self.step.unwrap_or(Span::from_secs(tenth)).max(Span::from_secs(1))
    }
}

/// How the samples of a range become one number.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum RangeReduction {
    /// The newest.
    Last,
    /// Their mean.
    Average,
    /// The smallest.
    Min,
    /// The largest.
    Max,
    /// All of them together.
    Sum,
}

/// The earlier time that a query is compared with.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct PrometheusBaseline {
    /// How long before now. Default: when the stage began.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub offset: Option<Span>,
}

/// Alerts that are new since the stage began and concern its devices. Conditions see their number as
/// `result`; without a condition, any of them is a fail.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct AlertmanagerGate {
    /// A GateProvider of type Alertmanager.
    #[schemars(length(min = 1, max = 63))]
    pub provider: String,
    /// Alerts that count, by label: `severity="critical"`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16), inner(length(min = 1, max = 256)))]
    pub matchers: Vec<String>,
    /// Label of an alert that names its device. Default `instance`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 63))]
    pub device_label: Option<String>,
    /// An alert that always fires, by label: `alertname="Watchdog"`. Where it does not, no other alert
    /// would come either, and there is no data.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 256))]
    pub watchdog: Option<String>,
}

/// What a web service answers. Without a condition its verdict stands; conditions are held against what
/// it passes, and see its value as `result`, or its verdict if it gives none.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct WebhookGate {
    /// A GateProvider of type Webhook.
    #[schemars(length(min = 1, max = 63))]
    pub provider: String,
}

/// The rate of tickets about the stage's devices. Conditions see the rate as `result` and that of
/// the baseline as `baseline`, in tickets a day.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct TicketsGate {
    /// A GateProvider of type Tickets.
    #[schemars(length(min = 1, max = 63))]
    pub provider: String,
    /// How far back tickets count; default 4h.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub over: Option<Span>,
    /// How far back the baseline goes, before the stage began; default 14d.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub baseline: Option<Span>,
}

/// The share of the stage's devices that are not well. It halts at most: what it counts may be silence,
/// and silence takes nothing back. Conditions see it as `result`, between 0 and
/// 1, and `unhealthy` and `total` in devices; without a condition, any such device is a fail.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct DeviceHealthGate {
    /// What counts. Default everything but Silent.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 4))]
    pub signals: Vec<HealthSignal>,
}

/// What makes a device count as not well.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema,
)]
pub enum HealthSignal {
    /// A watched service did not run after the update, or does not run any more since.
    Service,
    /// A probe failed after the update, or fails since.
    Probe,
    /// It restarted again and again, crashed or twice lost power after the proof, or Windows took the update
    /// back.
    UnexpectedReboot,
    /// It was proven, and no agent is in contact any more, or the agent cannot look at the device.
    Silent,
}

/// A CEL expression over `stage` and `rollout`. It halts at most. Conditions see its value as `result`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct CelGate {
    /// The expression, such as `stage.failed + stage.unreachable`.
    #[schemars(length(min = 1, max = 1024))]
    pub expression: String,
}

/// Where a gate stands.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct GateStatus {
    /// Name.
    #[schemars(length(max = 63))]
    pub name: String,
    /// When it is measured.
    pub phase: GatePhase,
    /// State.
    pub state: GateState,
    /// Since when it has this state.
    pub since: Timestamp,
    /// When its phase began, or when it began anew; older measurements do not count.
    pub started_at: Timestamp,
    /// Digest of what the gate says; one that is edited begins anew.
    #[schemars(length(max = 40))]
    pub definition: String,
    /// What was asked at last.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 512))]
    pub query: Option<String>,
    /// What was answered at last.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 128))]
    pub value: Option<String>,
    /// What the value is held against.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 512))]
    pub threshold: Option<String>,
    /// What the last measurement came to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub result: Option<GateResult>,
    /// When the last measurement began.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub measured_at: Option<Timestamp>,
    /// When it is measured next.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next: Option<Timestamp>,
    /// Measurements that passed or failed.
    #[serde(default)]
    pub answers: u32,
    /// Of them, those that failed.
    #[serde(default)]
    pub failures: u32,
    /// Passes in a row, up to now.
    #[serde(default)]
    pub consecutive_successes: u32,
    /// Measurements without an answer in a row, up to now.
    #[serde(default)]
    pub consecutive_errors: u32,
    /// Where it stands, in words.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 512))]
    pub message: Option<String>,
    /// Of a gate of type Approval: what is asked, and what was said.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub approval: Option<GateApproval>,
}

/// State of a gate.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum GateState {
    /// No verdict yet.
    Waiting,
    /// It passed. Of `before` and `after` for good; of `during` by its last measurement.
    Passed,
    /// It failed.
    Failed,
    /// It cannot be measured.
    Error,
}

/// What one measurement came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum GateResult {
    /// It is as it should be.
    Pass,
    /// It is not.
    Fail,
    /// Neither condition holds.
    Inconclusive,
    /// There is nothing to judge.
    NoData,
    /// It could not be measured.
    Error,
}
