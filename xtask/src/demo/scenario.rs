//! The three stories: what is applied, when each one is over, and what must be true then.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::{Duration, Instant},
};

use anyhow::{Context, Result};
use kube::{ResourceExt, api::ListParams};
use wardring_api::{
    Device, JobAction, PatchRollout, RolloutPhase, ServiceStatus, StageCounts, StageState,
    StageStatus, UpdateHold, conditions,
};
use wardring_e2e::{
    Fleet, Installation, Tenant,
    writes::{self, Writes},
};
use wardring_harness::wait_until_ok;

use super::{
    fleet::{self, GROUPS, Members, Trouble},
    report::{Check, Report, StageReport},
    screen::Screen,
    watch::{Story, follow},
};
use crate::shell;

/// The rollout's name in every manifest.
const ROLLOUT: &str = "patch-tuesday";

/// Longest time until every device has reported what it runs.
const REPORT_LIMIT: Duration = Duration::from_secs(120);

/// Longest time that facts may come after an outcome.
const FACTS_LIMIT: Duration = Duration::from_secs(10);

/// A story.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scenario {
    /// Three stages, all proven.
    Good,
    /// An update breaks SQL Server on the test servers.
    Bad,
    /// Two workstations never come back.
    Silent,
}

impl Scenario {
    /// Its name on the command line, and of its manifest.
    pub fn name(self) -> &'static str {
        match self {
            Scenario::Good => "good",
            Scenario::Bad => "bad",
            Scenario::Silent => "silent",
        }
    }

    /// The namespace it takes place in.
    pub fn namespace(self) -> String {
        format!("demo-{}", self.name())
    }

    fn headline(self) -> &'static str {
        match self {
            Scenario::Good => "good: test servers, then workstations, then production",
            Scenario::Bad => "bad: an update stops MSSQLSERVER on test servers",
            Scenario::Silent => "silent: two workstations never come back after \"Installed\"",
        }
    }

    fn trouble(self) -> Trouble {
        match self {
            Scenario::Good => Trouble::None,
            Scenario::Bad => Trouble::SqlServer,
            Scenario::Silent => Trouble::TwoSilent,
        }
    }

    /// Whether the story is over, for better or worse.
    fn is_over(self, rollout: &PatchRollout) -> bool {
        let Some(phase) = rollout.status.as_ref().and_then(|status| status.phase) else {
            return false;
        };
        match phase {
            RolloutPhase::Completed
            | RolloutPhase::RolledBack
            | RolloutPhase::Aborted
            | RolloutPhase::Invalid => true,
            // A halt is the end unless a rollback is to follow.
            RolloutPhase::Halted => self != Scenario::Bad,
            RolloutPhase::Pending
            | RolloutPhase::Progressing
            | RolloutPhase::Suspended
            | RolloutPhase::RollingBack => false,
        }
    }

    /// Plays the story in a namespace of its own.
    pub async fn play(
        self,
        installation: &Installation,
        devices: usize,
        screen: &Screen,
    ) -> Result<(Report, Fleet)> {
        screen.headline(self.headline());
        let members = fleet::members(devices, self.trouble());
        let tenant = installation.tenant(&self.namespace()).await?;
        let fleet = fleet::start(&tenant, &members, self.trouble()).await?;
        screen.step(&format!("{} agents enrolled, each with a key of its own", members.len()));
        let before = reported(&tenant, members.len()).await?;
        screen.step("every device has reported what it runs");
        for manifest in ["groups", "updates"] {
            self.apply(installation, manifest, screen).await?;
        }
        let client = tenant.client().await?;
        let writes_before = writes::count(&client).await?;
        let started = Instant::now();
        self.apply(installation, self.name(), screen).await?;
        // Many times what it takes on two idle cores.
        let limit = Duration::from_secs(180) + Duration::from_millis(500) * devices as u32;
        let story =
            follow(&tenant, ROLLOUT, limit, screen, |rollout| self.is_over(rollout)).await?;
        let seconds = started.elapsed().as_secs_f64();
        let writes = match (writes_before, writes::count(&client).await?) {
            (Some(before), Some(after)) => Some(writes::since(&before, after)),
            _ => None,
        };
        let after = settled(&tenant, &story, &members, &before).await?;
        let holds = tenant.api::<UpdateHold>().await?.list(&ListParams::default()).await?.items;
        let end = End { members: &members, before, after, story, holds };
        Ok((self.report(&end, writes, seconds), fleet))
    }

    async fn apply(
        self,
        installation: &Installation,
        manifest: &str,
        screen: &Screen,
    ) -> Result<()> {
        let file = format!("examples/demo/{manifest}.yaml");
        screen.step(&format!("$ kubectl apply -n {} -f {file}", self.namespace()));
        let path = shell::root().join(&file).display().to_string();
        let namespace = self.namespace();
        installation.cluster.kubectl(&["apply", "-n", &namespace, "-f", &path]).await?.ok()?;
        Ok(())
    }

    fn report(self, end: &End<'_>, writes: Option<Writes>, seconds: f64) -> Report {
        let checks = match self {
            Scenario::Good => end.good(),
            Scenario::Bad => end.bad(),
            Scenario::Silent => end.silent(),
        };
        let status = end.story.rollout.status.clone().unwrap_or_default();
        let patched = end.story.jobs.values().filter(|seen| !seen.permits.is_empty()).count();
        // Writes without a single permit are shown as they are.
        let patched = patched.max(1) as f64;
        Report {
            scenario: self.name(),
            phase: status.phase,
            stages: status
                .stages
                .into_iter()
                .map(|stage| StageReport { name: stage.name, counts: stage.counts })
                .collect(),
            holds: end.holds.iter().map(ResourceExt::name_any).collect(),
            writes_per_device: writes
                .as_ref()
                .map(|writes| writes.values().sum::<u64>() as f64 / patched),
            writes: writes
                .into_iter()
                .flatten()
                .map(|(resource, writes)| (resource, writes as f64 / patched))
                .collect(),
            seconds,
            checks,
        }
    }
}

/// Devices by name.
type Devices = BTreeMap<String, Device>;

async fn list(tenant: &Tenant<'_>) -> Result<Devices> {
    let devices = tenant.api::<Device>().await?.list(&ListParams::default()).await;
    let devices = devices.context("failed to list the devices")?.items;
    Ok(devices.into_iter().map(|device| (device.name_any(), device)).collect())
}

/// The devices, once those that were patched have said what they run now. Facts are reported when they
/// change and may come a little after the outcome, which alone decides.
async fn settled(
    tenant: &Tenant<'_>,
    story: &Story,
    members: &Members,
    before: &Devices,
) -> Result<Devices> {
    let deadline = Instant::now() + FACTS_LIMIT;
    loop {
        let after = list(tenant).await?;
        let mut late = story.jobs.iter().filter(|(name, seen)| {
            let Some(member) = members.get(*name) else { return false };
            let rolled_back = seen.actions.contains(&JobAction::Rollback);
            let wanted = if rolled_back { member.before } else { member.after };
            build(&after, name) != Some(wanted) || services(&after, name) != services(before, name)
        });
        // Whoever stays late is found by the checks.
        if late.next().is_none() || Instant::now() > deadline {
            return Ok(after);
        }
        tokio::time::sleep(Duration::from_millis(250)).await;
    }
}

/// Waits until every device has said what it runs and is in contact.
async fn reported(tenant: &Tenant<'_>, devices: usize) -> Result<Devices> {
    let api = tenant.api::<Device>().await?;
    wait_until_ok(REPORT_LIMIT, "every device to report", async || {
        let list = api.list(&ListParams::default()).await.map_err(|error| error.to_string())?;
        let known = list.items.iter().filter(|device| {
            let status = device.status.as_ref();
            status.is_some_and(|status| {
                status.os.is_some() && conditions::is_true(&status.conditions, conditions::ONLINE)
            })
        });
        match known.count() {
            known if known == devices => {
                Ok(list.items.into_iter().map(|device| (device.name_any(), device)).collect())
            }
            known => Err(format!("{known} of {devices} devices are in contact and reported")),
        }
    })
    .await
}

/// Everything that was read through the API at the end of a story.
struct End<'a> {
    members: &'a Members,
    before: Devices,
    after: Devices,
    story: Story,
    holds: Vec<UpdateHold>,
}

impl End<'_> {
    fn good(&self) -> Vec<Check> {
        let mut checks = vec![self.phase_is(RolloutPhase::Completed)];
        for (group, size) in self.group_sizes() {
            let stage = self.stage(group);
            checks.push(check(
                stage.state == StageState::Completed && stage.counts.succeeded as usize == size,
                format!(
                    "{group}: {} of {size} succeeded, proven after their restart",
                    stage.counts.succeeded
                ),
            ));
        }
        let proven = self
            .members
            .iter()
            .filter(|(name, member)| build(&self.after, name) == Some(member.after));
        let proven = proven.count();
        checks.push(check(
            proven == self.members.len(),
            format!("{proven} of {} devices run this month's build", self.members.len()),
        ));
        checks.push(self.stages_in_order());
        checks.push(check(self.holds.is_empty(), "no update is barred".to_owned()));
        checks
    }

    fn bad(&self) -> Vec<Check> {
        let counts = self.stage("test-servers").counts;
        let halted = self.story.rollout.status.as_ref().and_then(|status| status.halted.clone());
        let rolled_back: Vec<_> = self
            .story
            .jobs
            .iter()
            .filter(|(_, seen)| seen.actions.contains(&JobAction::Rollback))
            .map(|(name, _)| name.as_str())
            .collect();
        let restored = rolled_back.iter().filter(|name| {
            let before = self.members.get(**name).map(|member| member.before);
            let same = services(&self.before, name) == services(&self.after, name);
            same && services(&self.after, name).is_some() && build(&self.after, name) == before
        });
        let restored = restored.count();
        // By the devices' own signed word.
        let told = self.story.jobs.values().flat_map(|seen| &seen.said);
        let told = told.filter(|text| text.contains("restart attempts: MSSQLSERVER"));
        let told: Vec<_> = told.collect();
        let barred: BTreeSet<_> =
            self.holds.iter().flat_map(|hold| &hold.spec.kbs).map(|kb| kb.as_str()).collect();
        let mut checks = vec![
            self.phase_is(RolloutPhase::RolledBack),
            check(
                halted.as_ref().is_some_and(|halt| halt.reason == "FailureBudgetSpent"),
                format!(
                    "the failure budget halted it: {}",
                    halted.map(|halt| halt.message).unwrap_or_default()
                ),
            ),
            check(
                told.len() > 1,
                format!(
                    "{} devices tried to restart the service: {}",
                    told.len(),
                    told.first().map_or("none", |text| text.as_str())
                ),
            ),
            check(
                counts.rolled_back > 1
                    && counts.rolled_back as usize == rolled_back.len()
                    && counts.rollback_failed == 0,
                format!(
                    "{} test servers rolled back, {} failed to",
                    counts.rolled_back, counts.rollback_failed
                ),
            ),
            check(
                restored == rolled_back.len() && restored > 0,
                format!(
                    "{restored} of {} run the build from before again, with their services",
                    rolled_back.len()
                ),
            ),
            check(
                barred.contains("KB5068787"),
                format!("an UpdateHold bars {}", barred.into_iter().collect::<Vec<_>>().join(", ")),
            ),
        ];
        checks.push(check(
            counts.in_progress == 0,
            format!("{} devices are left with half a patch", counts.in_progress),
        ));
        checks.extend(self.untouched(&["workstations", "production"]));
        checks
    }

    fn silent(&self) -> Vec<Check> {
        let counts = self.stage("workstations").counts;
        let halted = self.story.rollout.status.as_ref().and_then(|status| status.halted.clone());
        let first = self.stage("test-servers");
        let mut checks = vec![
            self.phase_is(RolloutPhase::Halted),
            check(
                first.state == StageState::Completed,
                format!("test-servers: {} succeeded", first.counts.succeeded),
            ),
            check(
                counts.unreachable == 2,
                format!("{} workstations are Unreachable", counts.unreachable),
            ),
            check(
                halted.as_ref().is_some_and(|halt| halt.reason == "UnreachableBudgetSpent"),
                format!(
                    "silence halted it: {}",
                    halted.map(|halt| halt.message).unwrap_or_default()
                ),
            ),
        ];
        checks.extend(self.untouched(&["production"]));
        checks
    }

    /// No job ever existed for these groups, and no device of them changed or restarted.
    fn untouched(&self, groups: &[&str]) -> Vec<Check> {
        groups
            .iter()
            .map(|group| {
                let mut names = self.members.iter().filter(|(_, member)| member.group == *group);
                let same = names.all(|(name, _)| {
                    let boot = |devices: &Devices| {
                        devices
                            .get(name)
                            .and_then(|device| device.status.clone())
                            .map(|status| (status.boot_id, status.os))
                    };
                    !self.story.jobs.contains_key(name) && boot(&self.before) == boot(&self.after)
                });
                let counts = self.stage(group).counts;
                let idle = counts.total == counts.pending;
                check(
                    same && idle,
                    format!("{group} was never touched: no job, no restart, the same builds"),
                )
            })
            .collect()
    }

    fn phase_is(&self, wanted: RolloutPhase) -> Check {
        let phase = self.story.rollout.status.as_ref().and_then(|status| status.phase);
        let shown = phase.map_or_else(|| "unplanned".to_owned(), |phase| format!("{phase:?}"));
        check(phase == Some(wanted), format!("the rollout is {shown}"))
    }

    /// Each stage opened after the one before was done.
    fn stages_in_order(&self) -> Check {
        let stages: Vec<_> = GROUPS.iter().map(|group| self.stage(group)).collect();
        let ordered = stages.windows(2).all(|pair| {
            pair[0].completed_at.is_some() && pair[0].completed_at <= pair[1].started_at
        });
        check(ordered, "no stage opened before the one before it was done".to_owned())
    }

    fn stage(&self, name: &str) -> StageStatus {
        let stages = self.story.rollout.status.iter().flat_map(|status| &status.stages);
        let mut found = stages.filter(|stage| stage.name == name).cloned();
        found.next().unwrap_or_else(|| StageStatus {
            counts: StageCounts::default(),
            ..StageStatus::default()
        })
    }

    fn group_sizes(&self) -> Vec<(&'static str, usize)> {
        GROUPS
            .iter()
            .map(|group| {
                (*group, self.members.values().filter(|member| member.group == *group).count())
            })
            .collect()
    }
}

fn build<'a>(devices: &'a Devices, name: &str) -> Option<&'a str> {
    let os = devices.get(name)?.status.as_ref()?.os.as_ref()?;
    Some(&os.build)
}

/// The services that a device reported, with their states.
fn services<'a>(devices: &'a Devices, name: &str) -> Option<&'a [ServiceStatus]> {
    let status = devices.get(name)?.status.as_ref()?;
    Some(&status.services).filter(|services| !services.is_empty()).map(Vec::as_slice)
}

fn check(holds: bool, sentence: String) -> Check {
    Check { sentence, holds }
}
