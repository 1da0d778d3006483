//! The rules (CEL) that the API server enforces beyond the schema.
//!
//! A rule that mentions `oldSelf` is skipped when its own field is set or unset, so one-way rules on
//! optional fields sit on the parent. Every message starts with the field and says what is right.

mod approval;
mod gate_provider;
mod gates;

/// One rule and where it sits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rule {
    /// Dotted path of the schema it sits on; empty for the root.
    pub path: &'static str,
    /// The expression that must hold.
    pub rule: &'static str,
    /// What the author of a refused manifest reads.
    pub message: &'static str,
}

const fn rule(path: &'static str, rule: &'static str, message: &'static str) -> Rule {
    Rule { path, rule, message }
}

/// The rules of a kind, in addition to those that value types (spans, caps, KB numbers) bring along.
pub fn rules(kind: &str) -> Vec<Rule> {
    let gates = (kind == "PatchRollout").then(gates::gates);
    table(kind).iter().copied().chain(gates.into_iter().flatten()).collect()
}

fn table(kind: &str) -> &'static [Rule] {
    match kind {
        "PatchRollout" => PATCH_ROLLOUT,
        "PatchRolloutSlice" => PATCH_ROLLOUT_SLICE,
        "PatchJob" => PATCH_JOB,
        "PatchLedger" => PATCH_LEDGER,
        "Device" => DEVICE,
        "DeviceGroup" => DEVICE_GROUP,
        "Update" => UPDATE,
        "MaintenanceWindow" => MAINTENANCE_WINDOW,
        "EmergencyStop" => EMERGENCY_STOP,
        "Notifier" => NOTIFIER,
        "GateProvider" => gate_provider::RULES,
        "PatchRollback" => PATCH_ROLLBACK,
        "PatchApproval" => approval::RULES,
        "EnrollmentToken" => ENROLLMENT_TOKEN,
        "EnrollmentRequest" => ENROLLMENT_REQUEST,
        _ => &[],
    }
}

// Positions are compared one by one, because the budget for rules has no room for searching a list in
// a list. Reaches as far as `spec.stages` has room.
macro_rules! each_stage {
    () => {
        "[0,1,2,3,4,5,6,7,8,9,10,11,12,13,14,15,16,17,18,19].all(i, "
    };
}

// Whether the optional field of stage `i` is as it was.
macro_rules! same {
    ($field:literal) => {
        concat!(
            "(has(oldSelf.spec.stages[i].",
            $field,
            ") ? has(self.spec.stages[i].",
            $field,
            ") && oldSelf.spec.stages[i].",
            $field,
            " == self.spec.stages[i].",
            $field,
            " : !has(self.spec.stages[i].",
            $field,
            "))"
        )
    };
}

const SHORT_NAME: &str = "size(self.metadata.name) <= 63";
const FIXED: &str = "self == oldSelf";
const POSITIVE: &str = "self.matches('[1-9]')";
// A zero would have to mean either nothing or one device; whoever writes it means nothing.
const AT_LEAST_ONE: &str = "type(self) == int ? self >= 1 : !self.matches('^0+%$')";
const RELEASE: &str = "self.matches('^[0-9]{4}-(0[1-9]|1[0-2])$')";
const PACKAGE_ADDRESS: &str = "self.matches('^https?://[A-Za-z0-9]([A-Za-z0-9.-]*[A-Za-z0-9])?(:[0-9]{1,5})?/[A-Za-z0-9._~%/+-]*[.]msu$')";
// A selector without requirements is what remains of a mistyped one, and takes every device.
const SELECTS: &str = "(has(self.matchLabels) && size(self.matchLabels) > 0) || (has(self.matchExpressions) && size(self.matchExpressions) > 0)";

// Units from days on are no durations to CEL, and too long for both of these anyway.
const UP_TO_A_MINUTE: &str =
    "!self.contains('d') && duration(self) > duration('0s') && duration(self) <= duration('60s')";
const UP_TO_TWO_HOURS: &str =
    "!self.contains('d') && duration(self) > duration('0s') && duration(self) <= duration('2h')";
const UP_TO_A_DAY: &str =
    "!self.contains('d') && duration(self) > duration('0s') && duration(self) <= duration('24h')";
const A_QUARTER_TO_TWELVE_HOURS: &str =
    "!self.contains('d') && duration(self) >= duration('15m') && duration(self) <= duration('12h')";
const AT_MOST_A_DAY: &str = "!self.contains('d') && duration(self) <= duration('24h')";

const PATCH_ROLLOUT: &[Rule] = &[
    rule(
        "",
        SHORT_NAME,
        "metadata.name: must have at most 63 characters, because it becomes a label value",
    ),
    rule(
        "spec.updates",
        "[has(self.select), has(self.kbs) && size(self.kbs) > 0, \
         has(self.packages) && size(self.packages) > 0].exists_one(given, given)",
        "spec.updates: give exactly one of `select` (updates by release and kind), `kbs` (a list of KB numbers) and `packages` (updates by address)",
    ),
    rule(
        "spec.updates",
        FIXED,
        "spec.updates: cannot change, because stages would prove different things; make a new PatchRollout for other updates",
    ),
    rule(
        "spec.updates.select.release",
        RELEASE,
        "spec.updates.select.release: must be a month written like `2026-11`",
    ),
    rule(
        "spec.updates.packages[].url",
        PACKAGE_ADDRESS,
        "spec.updates.packages[].url: must look like `https://HOST/PATH.msu`, without user, query and fragment",
    ),
    rule(
        "spec.updates.packages[]",
        "self.allowHttp || self.url.startsWith('https://')",
        "spec.updates.packages[].url: must begin with `https://`, unless `allowHttp` is true",
    ),
    rule(
        "spec.updates.packages[].sha256",
        "self.matches('^[0-9a-f]{64}$')",
        "spec.updates.packages[].sha256: must be 64 hexadecimal digits in lower case",
    ),
    rule(
        "spec.updates.packages[].targetBuild",
        "self.matches('^[0-9]{4,6}[.][0-9]{1,6}$')",
        "spec.updates.packages[].targetBuild: must be `build.UBR`, such as `20348.2762`",
    ),
    rule(
        "spec.stages",
        concat!(
            each_stage!(),
            "i >= size(oldSelf) || (i < size(self) && self[i].name == oldSelf[i].name))"
        ),
        "spec.stages: stages may only be appended; those that exist keep their name and place",
    ),
    rule(
        "",
        concat!(
            "!has(self.status) || !has(self.status.stages) || ",
            each_stage!(),
            "i >= size(oldSelf.spec.stages) || i >= size(self.spec.stages) || ",
            "!self.status.stages.exists(t, t.name == oldSelf.spec.stages[i].name && t.state != 'Pending') || ",
            "(",
            same!("group"),
            " && ",
            same!("selector"),
            " && oldSelf.spec.stages[i].offline == self.spec.stages[i].offline))"
        ),
        "spec.stages[]: `group`, `selector` and `offline` cannot change once the stage has opened, because its devices are frozen; append a stage, or abort and make a new PatchRollout",
    ),
    rule(
        "",
        concat!(
            "!has(self.status) || !has(self.status.stages) || ",
            each_stage!(),
            "i >= size(oldSelf.spec.stages) || i >= size(self.spec.stages) || ",
            "!self.status.stages.exists(t, t.name == oldSelf.spec.stages[i].name && !(t.state in ['Pending', 'Gated'])) || ",
            same!("gates"),
            ")"
        ),
        "spec.stages[].gates: cannot change once devices of the stage may start; append a stage, or abort and make a new PatchRollout",
    ),
    rule(
        "spec.stages",
        "size(self) == 0 || !self[0].requireProven",
        "spec.stages[0].requireProven: no stage comes before the first one; set it on a later one",
    ),
    rule(
        "spec.stages[]",
        "has(self.group) != has(self.selector)",
        "spec.stages[]: give exactly one of `group` (a DeviceGroup's name) and `selector` (devices by label)",
    ),
    rule(
        "spec.stages[].name",
        "self.matches('^[a-z0-9]([-a-z0-9]*[a-z0-9])?$')",
        "spec.stages[].name: must consist of lower-case letters, digits and inner `-`, such as `test-servers`",
    ),
    rule(
        "spec.stages[].selector",
        SELECTS,
        "spec.stages[].selector: an empty selector would take every device; write `matchLabels` or `matchExpressions`",
    ),
    rule(
        "spec.stages[].maxConcurrency",
        AT_LEAST_ONE,
        "spec.stages[].maxConcurrency: must be at least 1 (or `1%`); to start nothing, suspend the rollout",
    ),
    rule(
        "spec.stages[].progressDeadline",
        POSITIVE,
        "spec.stages[].progressDeadline: must be longer than zero, such as `7d`",
    ),
    rule(
        "spec.stages[].startWithin",
        POSITIVE,
        "spec.stages[].startWithin: must be longer than zero, such as `4h`",
    ),
    rule(
        "spec.stages[].silenceDeadline",
        POSITIVE,
        "spec.stages[].silenceDeadline: must be longer than zero, such as `1h`",
    ),
    rule(
        "spec.stages[].rebootSlowAfter",
        POSITIVE,
        "spec.stages[].rebootSlowAfter: must be longer than zero, such as `30m`",
    ),
    rule(
        "spec.stages[].rebootDeadline",
        POSITIVE,
        "spec.stages[].rebootDeadline: must be longer than zero, such as `2h`",
    ),
    rule(
        "spec.stages[].deviceDeadline",
        POSITIVE,
        "spec.stages[].deviceDeadline: must be longer than zero, such as `24h`",
    ),
    rule(
        "spec.stages[].offline.after",
        POSITIVE,
        "spec.stages[].offline.after: must be longer than zero, such as `24h`",
    ),
    rule(
        "spec.stages[].offline.closeAfter",
        POSITIVE,
        "spec.stages[].offline.closeAfter: must be longer than zero, such as `14d`",
    ),
    rule(
        "spec.stages[].offline",
        "!has(self.closeAfter) || self.action == 'CatchUp'",
        "spec.stages[].offline.closeAfter: only a stage with `action: CatchUp` stays open for latecomers",
    ),
    rule(
        "spec.stages[]",
        "self.offline.action != 'CatchUp' || (has(self.minCoverage) && \
         !(string(self.minCoverage) in ['0', '0%', '100%']) && (!has(self.minProven) || self.minProven > 0))",
        "spec.stages[].offline: `action: CatchUp` needs a `minCoverage` between 1% and 99%, such as `80%`, and a `minProven` of at least 1: otherwise the stage waits for every device, or for none",
    ),
    // CEL's durations know no days; spans with days are compared by the controller.
    rule(
        "spec.stages[]",
        "!has(self.rebootSlowAfter) || !has(self.rebootDeadline) || \
         self.rebootSlowAfter.contains('d') || self.rebootDeadline.contains('d') || \
         duration(self.rebootSlowAfter) <= duration(self.rebootDeadline)",
        "spec.stages[].rebootSlowAfter: must not be longer than `rebootDeadline`",
    ),
    rule(
        "spec.predownload.ahead",
        POSITIVE,
        "spec.predownload.ahead: must be longer than zero, such as `48h`; to download nothing ahead, remove `predownload`",
    ),
    rule(
        "spec.predownload.maxConcurrency",
        AT_LEAST_ONE,
        "spec.predownload.maxConcurrency: must be at least 1 (or `1%`); to download nothing ahead, remove `predownload`",
    ),
    rule(
        "spec.preflight",
        FIXED,
        "spec.preflight: cannot change after creation; make a new PatchRollout",
    ),
    rule(
        "spec.health",
        FIXED,
        "spec.health: cannot change after creation; make a new PatchRollout",
    ),
    rule(
        "spec.health.probes[]",
        "has(self.tcp) == (self.type == 'Tcp') && has(self.http) == (self.type == 'Http') && \
         has(self.process) == (self.type == 'Process') && has(self.disk) == (self.type == 'Disk') && \
         has(self.eventLog) == (self.type == 'EventLog') && has(self.dns) == (self.type == 'Dns') && \
         has(self.ldap) == (self.type == 'Ldap') && has(self.smb) == (self.type == 'Smb') && \
         has(self.sql) == (self.type == 'Sql')",
        "spec.health.probes[]: give exactly the field that `type` names, such as `tcp` for type Tcp",
    ),
    rule(
        "spec.health.probes[].timeout",
        UP_TO_A_MINUTE,
        "spec.health.probes[].timeout: must be longer than zero and at most `60s`",
    ),
    rule(
        "spec.health.probes[].eventLog.within",
        UP_TO_A_DAY,
        "spec.health.probes[].eventLog.within: must be longer than zero and at most `24h`",
    ),
    rule(
        "spec.reboot",
        FIXED,
        "spec.reboot: cannot change after creation; make a new PatchRollout",
    ),
    rule(
        "spec.reboot.deadline",
        AT_MOST_A_DAY,
        "spec.reboot.deadline: must be at most `24h`; `0s` waits for nobody",
    ),
    rule(
        "spec.reboot",
        "!has(self.deferrals) || self.deferrals == 0 || !has(self.deadline) || self.deadline.contains('d') || \
         duration(self.deadline) >= duration('15m')",
        "spec.reboot.deferrals: needs a `deadline` of 15m at least; until then people may put the restart off",
    ),
    rule(
        "spec.reboot.activeHours",
        "has(self.fixed) == (self.type == 'Fixed')",
        "spec.reboot.activeHours: give `fixed` for type Fixed, and for no other",
    ),
    rule(
        "spec.reboot.activeHours.fixed",
        "self.start != self.end",
        "spec.reboot.activeHours.fixed: `start` and `end` must differ",
    ),
    rule(
        "spec.onFailure",
        FIXED,
        "spec.onFailure: cannot change after creation; make a new PatchRollout",
    ),
    rule(
        "spec.onFailure.maxConcurrency",
        AT_LEAST_ONE,
        "spec.onFailure.maxConcurrency: must be at least 1 (or `1%`); to roll nothing back, set `action: Halt`",
    ),
    rule(
        "spec.onHalt",
        FIXED,
        "spec.onHalt: cannot change after creation; make a new PatchRollout",
    ),
    rule(
        "",
        "!has(self.spec.supersedes) || self.spec.supersedes != self.metadata.name",
        "spec.supersedes: a rollout cannot supersede itself; name another one, or leave it out",
    ),
    rule(
        "spec",
        "has(self.supersedes) == has(oldSelf.supersedes) && \
         (!has(self.supersedes) || self.supersedes == oldSelf.supersedes)",
        "spec.supersedes: cannot change after creation; make a new PatchRollout",
    ),
    // One that an older schema let pass can still be suspended and ended, as long as nobody changes whom its
    // first stage asks.
    rule(
        "spec",
        "!has(self.supersedes) || size(self.stages) == 0 || (has(self.stages[0].gates) && has(self.stages[0].gates.before) && \
         self.stages[0].gates.before.exists(g, g.type == 'Approval' && g.mode != 'DryRun' && !(has(g.approval) && g.approval.authorMayApprove))) || \
         (oldSelf.hasValue() && (has(self.stages[0].gates) ? has(oldSelf.value().stages[0].gates) && \
         self.stages[0].gates == oldSelf.value().stages[0].gates : !has(oldSelf.value().stages[0].gates)))",
        "spec.supersedes: ends another rollout, so a second person has to agree before any device is taken; give the first stage an enforced gate of type Approval in `gates.before`, without `authorMayApprove`",
    ),
    rule(
        "spec.expedite",
        "self.skipSoak || self.ignoreWindows",
        "spec.expedite: leaves nothing out; set `skipSoak`, `ignoreWindows` or both",
    ),
    rule(
        "spec",
        "!has(self.expedite) || self.stages.exists(s, has(s.gates) && has(s.gates.before) && \
         s.gates.before.exists(g, g.type == 'Approval' && g.mode != 'DryRun' && !(has(g.approval) && g.approval.authorMayApprove)))",
        "spec.expedite: counts only in stages where somebody approved it; give at least one an enforced gate of type Approval in `gates.before`, without `authorMayApprove`",
    ),
    rule(
        "spec",
        "has(self.autonomousRollback) == has(oldSelf.autonomousRollback) && \
         (!has(self.autonomousRollback) || self.autonomousRollback == oldSelf.autonomousRollback)",
        "spec.autonomousRollback: cannot change after creation; make a new PatchRollout",
    ),
    rule(
        "spec.autonomousRollback",
        "!has(self.networkLost) || 'NetworkLost' in self.triggers",
        "spec.autonomousRollback.networkLost: only for the trigger NetworkLost; add it to `triggers`",
    ),
    rule(
        "spec.autonomousRollback.networkLost.after",
        A_QUARTER_TO_TWELVE_HOURS,
        "spec.autonomousRollback.networkLost.after: must be at least `15m` and at most `12h`",
    ),
    rule(
        "spec",
        "!has(oldSelf.authors) || (has(self.authors) && oldSelf.authors.all(a, a in self.authors))",
        "spec.authors: may only grow, because it says who may not approve; add yourself",
    ),
    // Removing `abort` is accepted and changes nothing: GitOps tools strip fields that they do not own.
    rule(
        "spec.abort",
        FIXED,
        "spec.abort: cannot change, because an aborted rollout has ended; make a new PatchRollout",
    ),
];

const PATCH_ROLLOUT_SLICE: &[Rule] = &[
    rule("spec.rollout", FIXED, "spec.rollout: cannot change; a slice belongs to one rollout"),
    rule(
        "spec.rolloutUid",
        FIXED,
        "spec.rolloutUid: cannot change; a slice belongs to one rollout",
    ),
    rule("spec.stage", FIXED, "spec.stage: cannot change; a slice belongs to one stage"),
    rule("spec.index", FIXED, "spec.index: cannot change; a slice keeps its place in the stage"),
    rule("spec.of", FIXED, "spec.of: cannot change; the number of slices is frozen"),
    rule("spec.freezeId", FIXED, "spec.freezeId: cannot change; the stage's devices are frozen"),
    rule(
        "spec.lines",
        "size(self) == size(oldSelf)",
        "spec.lines: no line may be added or removed; the stage's devices are frozen",
    ),
    rule(
        "spec.lines",
        "self.map(line, line.split(' ', 2)[0]) == oldSelf.map(line, line.split(' ', 2)[0])",
        "spec.lines: every line keeps its device, in the order of the freeze",
    ),
];

const PATCH_JOB: &[Rule] = &[
    rule(
        "",
        SHORT_NAME,
        "metadata.name: must have at most 63 characters, because it is the name of the device",
    ),
    rule(
        "spec",
        FIXED,
        "spec: cannot change, because it is sealed for the device; a new attempt is a new PatchJob",
    ),
];

const PATCH_LEDGER: &[Rule] = &[
    rule(
        "",
        "self.metadata.name == 'ledger'",
        "metadata.name: must be `ledger`; a namespace has exactly one",
    ),
    rule(
        "",
        "!has(oldSelf.status) || (has(self.status) && self.status.sequence >= oldSelf.status.sequence)",
        "status.sequence: may only grow; it keeps a former leader from granting",
    ),
];

const DEVICE: &[Rule] = &[rule(
    "",
    SHORT_NAME,
    "metadata.name: must have at most 63 characters, because it becomes a label value and the name of the device's job",
)];

const DEVICE_GROUP: &[Rule] = &[
    rule(
        "",
        SHORT_NAME,
        "metadata.name: must have at most 63 characters, so that a stage can name it",
    ),
    rule(
        "spec.selector",
        SELECTS,
        "spec.selector: an empty selector would take every device; write `matchLabels` or `matchExpressions`",
    ),
    rule(
        "spec.hooks.beforeInstall.timeout",
        UP_TO_TWO_HOURS,
        "spec.hooks.beforeInstall.timeout: must be longer than zero and at most `2h`",
    ),
    rule(
        "spec.hooks.beforeReboot.timeout",
        UP_TO_TWO_HOURS,
        "spec.hooks.beforeReboot.timeout: must be longer than zero and at most `2h`",
    ),
    rule(
        "spec.hooks.afterHealthy.timeout",
        UP_TO_TWO_HOURS,
        "spec.hooks.afterHealthy.timeout: must be longer than zero and at most `2h`",
    ),
];

const UPDATE: &[Rule] =
    &[rule("spec.release", RELEASE, "spec.release: must be a month written like `2026-11`")];

const NOTIFIER: &[Rule] = &[
    rule("", SHORT_NAME, "metadata.name: must have at most 63 characters, as every name here"),
    rule(
        "spec.sinks[]",
        "has(self.url) != has(self.urlFrom)",
        "spec.sinks[]: write exactly one of `url` and `urlFrom`",
    ),
    rule(
        "spec.sinks[].url",
        "self.startsWith('https://')",
        "spec.sinks[].url: must begin with `https://`; what is told says who is down",
    ),
    rule(
        "spec.sinks[]",
        "self.type == 'Webhook' || !has(self.webhook)",
        "spec.sinks[].webhook: belongs to a sink of type Webhook",
    ),
    rule(
        "spec.sinks[]",
        "self.type == 'Alertmanager' || !has(self.alertmanager)",
        "spec.sinks[].alertmanager: belongs to a sink of type Alertmanager",
    ),
];

const MAINTENANCE_WINDOW: &[Rule] = &[
    rule(
        "",
        SHORT_NAME,
        "metadata.name: must have at most 63 characters, so that a stage can name it",
    ),
    rule(
        "spec.selector",
        SELECTS,
        "spec.selector: write `matchLabels` or `matchExpressions`, or leave `selector` out for every device",
    ),
    rule(
        "spec",
        "self.type != 'Deny' || (has(self.reason) && self.reason.matches('[^ \\t\\r\\n]'))",
        "spec.reason: a freeze must say why; everybody who waits reads it",
    ),
    rule(
        "spec",
        "self.type != 'Deny' || (!has(self.startCutoff) && !has(self.overrun.limit) && self.overrun.action == 'Finish')",
        "spec: `startCutoff` and `overrun` are for windows of type Allow",
    ),
    rule(
        "spec.schedule",
        "[has(self.cron), has(self.patchTuesday), has(self.monthly), has(self.once)].filter(given, given).size() == 1",
        "spec.schedule: give exactly one of `cron`, `patchTuesday`, `monthly` and `once`",
    ),
    rule(
        "spec",
        "has(self.schedule.once) ? !has(self.duration) && !has(self.timeZone) : has(self.duration) && has(self.timeZone)",
        "spec: a recurring schedule needs `duration` and `timeZone`; `once` has its own end and needs neither",
    ),
    rule(
        "spec.schedule.once",
        "self.until > self.from",
        "spec.schedule.once: `until` must be later than `from`",
    ),
    rule(
        "spec.schedule.cron",
        "self.matches('^[^ ]+( [^ ]+){4}$')",
        "spec.schedule.cron: must have five fields with one space between: minute, hour, day of the month, month, day of the week",
    ),
    rule(
        "spec.timeZone",
        "self.matches('^[A-Za-z][A-Za-z0-9_+/-]*$')",
        "spec.timeZone: must be a name of the IANA database such as `Europe/Berlin`, or `Device`",
    ),
    rule(
        "spec.duration",
        "self.contains('d') ? self.matches('^([1-9]|[12][0-9]|3[01])d$') : duration(self) >= duration('1m') && duration(self) <= duration('744h')",
        "spec.duration: must be between `1m` and `31d`; days stand alone",
    ),
    rule(
        "spec.startCutoff",
        AT_MOST_A_DAY,
        "spec.startCutoff: must be at most `24h`, and days are written as hours",
    ),
    rule(
        "spec",
        "!has(self.startCutoff) || !has(self.duration) || self.duration.contains('d') || self.startCutoff.contains('d') || duration(self.startCutoff) < duration(self.duration)",
        "spec.startCutoff: must be shorter than `duration`, or nothing could ever begin",
    ),
    rule(
        "spec.overrun.limit",
        AT_MOST_A_DAY,
        "spec.overrun.limit: must be at most `24h`, and days are written as hours",
    ),
    rule(
        "spec.overrun",
        "!has(self.limit) || self.action == 'Finish'",
        "spec.overrun.limit: is for action Finish",
    ),
];

const EMERGENCY_STOP: &[Rule] = &[
    rule(
        "",
        SHORT_NAME,
        "metadata.name: must have at most 63 characters, because every sentence about the stop names it",
    ),
    rule(
        "spec.reason",
        "self.matches('[^ \\t\\r\\n]')",
        "spec.reason: must say why; everybody who waits reads it",
    ),
    rule(
        "spec",
        "!has(self.kbs) || size(self.kbs) > 0",
        "spec.kbs: name at least one KB, or leave `kbs` out to stop every update",
    ),
    rule(
        "spec.selector",
        SELECTS,
        "spec.selector: write `matchLabels` or `matchExpressions`, or leave `selector` out to stop every device",
    ),
    // Whoever narrowed a stop would lift a part of it, and nobody would see it go.
    rule(
        "spec",
        "has(self.kbs) == has(oldSelf.kbs) && (!has(self.kbs) || self.kbs == oldSelf.kbs)",
        "spec.kbs: cannot change; make another EmergencyStop, then delete this one",
    ),
    rule(
        "spec",
        "has(self.selector) == has(oldSelf.selector) && (!has(self.selector) || self.selector == oldSelf.selector)",
        "spec.selector: cannot change; make another EmergencyStop, then delete this one",
    ),
    rule(
        "spec.rollbacks",
        FIXED,
        "spec.rollbacks: cannot change; make another EmergencyStop, then delete this one",
    ),
];

const PATCH_ROLLBACK: &[Rule] = &[
    rule(
        "",
        SHORT_NAME,
        "metadata.name: must have at most 63 characters, because every sentence about the order names it",
    ),
    rule(
        "spec.reason",
        "self.matches('[^ \\t\\r\\n]')",
        "spec.reason: must say why; it is what people read when they ask why the rollout stands still",
    ),
    rule(
        "spec",
        "[has(self.devices), has(self.group), has(self.selector)].filter(given, given).size() <= 1",
        "spec: give at most one of `devices`, `group` and `selector`",
    ),
    rule(
        "spec",
        "!has(self.devices) || size(self.devices) > 0",
        "spec.devices: name at least one device, or leave `devices` out to reach every one that the rollout updated",
    ),
    rule(
        "spec.selector",
        SELECTS,
        "spec.selector: write `matchLabels` or `matchExpressions`, or leave `selector` out to reach every device that the rollout updated",
    ),
    rule(
        "spec.maxConcurrency",
        AT_LEAST_ONE,
        "spec.maxConcurrency: must be at least 1 (or `1%`); to end the order, delete it",
    ),
    // Whoever widened an order would take back more than was asked for when it was looked at.
    rule("spec.rollout", FIXED, "spec.rollout: cannot change; make another PatchRollback"),
    rule("spec.reason", FIXED, "spec.reason: cannot change; make another PatchRollback"),
    rule(
        "spec",
        "has(self.devices) == has(oldSelf.devices) && (!has(self.devices) || self.devices == oldSelf.devices)",
        "spec.devices: cannot change; make another PatchRollback",
    ),
    rule(
        "spec",
        "has(self.group) == has(oldSelf.group) && (!has(self.group) || self.group == oldSelf.group)",
        "spec.group: cannot change; make another PatchRollback",
    ),
    rule(
        "spec",
        "has(self.selector) == has(oldSelf.selector) && (!has(self.selector) || self.selector == oldSelf.selector)",
        "spec.selector: cannot change; make another PatchRollback",
    ),
    rule("spec.windows", FIXED, "spec.windows: cannot change; make another PatchRollback"),
    // Once it has begun, nobody who may merely edit it takes back more at once than whoever ordered it meant.
    // To compare shares would cost the API server more than a rule may.
    rule(
        "",
        "!has(oldSelf.status) || !has(oldSelf.status.startedAt) || \
         (!has(self.spec.maxConcurrency) && !has(oldSelf.spec.maxConcurrency)) || \
         (has(self.spec.maxConcurrency) && (self.spec.maxConcurrency == 1 || (has(oldSelf.spec.maxConcurrency) && \
         (self.spec.maxConcurrency == oldSelf.spec.maxConcurrency || (type(self.spec.maxConcurrency) == int && \
         type(oldSelf.spec.maxConcurrency) == int && self.spec.maxConcurrency <= oldSelf.spec.maxConcurrency)))))",
        "spec.maxConcurrency: may only shrink once the order has begun, a share to 1; to end the order, delete it",
    ),
    rule(
        "spec.includeSuperseding",
        FIXED,
        "spec.includeSuperseding: cannot change; edit the UpdateHold that the rollback leaves",
    ),
    // What asks a second person is written with the order, or its question could be dodged.
    rule(
        "spec",
        "has(self.approvalAbove) == has(oldSelf.approvalAbove) && (!has(self.approvalAbove) || self.approvalAbove == oldSelf.approvalAbove)",
        "spec.approvalAbove: cannot change; make another PatchRollback",
    ),
    rule(
        "spec",
        "has(self.authors) == has(oldSelf.authors) && (!has(self.authors) || self.authors == oldSelf.authors)",
        "spec.authors: cannot change; make another PatchRollback",
    ),
    // Whoever changed it would have written it, and could approve it all the same.
    rule(
        "spec",
        "!has(self.approvalAbove) || (has(self.maxConcurrency) == has(oldSelf.maxConcurrency) && \
         (!has(self.maxConcurrency) || self.maxConcurrency == oldSelf.maxConcurrency))",
        "spec.maxConcurrency: cannot change where `approvalAbove` is given, because it is part of what is approved; suspend the rollout, or make another PatchRollback",
    ),
];

const ENROLLMENT_TOKEN: &[Rule] = &[
    rule(
        "",
        "size(self.metadata.name) <= 63 && !self.metadata.name.contains('.')",
        "metadata.name: must have at most 63 characters and no dot, because it is written into the token",
    ),
    rule(
        "spec.labels",
        "self.all(key, !format.qualifiedName().validate(key).hasValue())",
        "spec.labels: every key must be a label such as `ring` or `example.com/ring`",
    ),
    rule(
        "spec.labels",
        "self.all(key, !format.labelValue().validate(self[key]).hasValue())",
        "spec.labels: every value must have at most 63 letters, digits, `-`, `_` or `.`, and begin and end with a letter or digit",
    ),
    rule("spec.publicKey", FIXED, "spec.publicKey: cannot change; make a new EnrollmentToken"),
    rule(
        "spec.expiresAt",
        "self <= oldSelf",
        "spec.expiresAt: may only be brought forward; make a new EnrollmentToken for a longer time",
    ),
    rule(
        "spec.maxUses",
        "self <= oldSelf",
        "spec.maxUses: may only be lowered; make a new EnrollmentToken for more devices",
    ),
    rule(
        "spec",
        "has(self.labels) == has(oldSelf.labels) && (!has(self.labels) || self.labels == oldSelf.labels)",
        "spec.labels: cannot change; make a new EnrollmentToken",
    ),
    rule("spec.mode", FIXED, "spec.mode: cannot change; make a new EnrollmentToken"),
    rule("spec.mayReplace", FIXED, "spec.mayReplace: cannot change; make a new EnrollmentToken"),
    rule(
        "",
        "!has(oldSelf.status) || !has(oldSelf.status.uses) || \
         (has(self.status) && has(self.status.uses) && self.status.uses >= oldSelf.status.uses)",
        "status.uses: may only grow; every certificate that was issued counts",
    ),
];

const ENROLLMENT_REQUEST: &[Rule] = &[
    rule("", SHORT_NAME, "metadata.name: must have at most 63 characters"),
    rule(
        "spec",
        "self.kind == 'Enroll' ? has(self.token) && !has(self.certificate) : has(self.certificate) && !has(self.token)",
        "spec: kind Enroll needs `token` and no `certificate`, kind Renew needs `certificate` and no `token`",
    ),
    rule("spec", FIXED, "spec: cannot change; file a new EnrollmentRequest"),
    rule(
        "",
        "!has(oldSelf.status) || !has(oldSelf.status.certificate) || \
         (has(self.status) && has(self.status.certificate) && self.status.certificate == oldSelf.status.certificate)",
        "status.certificate: cannot change once it is issued; file a new EnrollmentRequest",
    ),
];
