//! How long a stop takes to stop: from whatever stops a rollout in full swing to the last permit that any
//! gateway still granted.
//!
//! Seen from outside, by a watch on the jobs, so the API server's and the watch's own delay count too.

use std::{
    collections::BTreeMap,
    num::NonZero,
    pin::pin,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use anyhow::{Context, Result};
use futures::StreamExt;
use jiff::Timestamp;
use kube::{
    Api,
    api::{DeleteParams, Patch, PatchParams, PostParams},
    runtime::{WatchStreamExt, watcher},
};
use serde_json::json;
use wardring_api::{EmergencyStop, EmergencyStopSpec, GateProvider, PatchJob, PatchRollout};
use wardring_harness::{
    https::{self, HttpsServer, Received, Reply},
    wait_until_ok,
};

use super::{
    converge::Options,
    load::Load,
    program,
    site::{Crew, FLEET, Site},
    table::{Limit, Measure, middle},
};

/// Stop to last permit; the design's figure for agents that are connected.
const LIMIT_S: f64 = 2.0;
/// What twenty times as many connected agents may make of it.
const RATIO: f64 = 1.2;
/// How long each device installs where all of them have a job at the same time: they ask for permits as
/// fast as they get answers.
const RUSH_MS: u64 = 1;
/// The same where it is said how many have a job at the same time, so that processors which bear so many
/// have time to spare. Where they have none, a stop takes as long as the requests wait that were there before.
const STEADY_MS: u64 = 500;
/// Every device of a rollout gets two permits, for the installation and for the restart; people stop a
/// rollout when these shares of them are granted.
const STOPPED_AT: [(Brake, f64); 4] =
    [(Brake::Suspend, 0.15), (Brake::Stop, 0.35), (Brake::Suspend, 0.55), (Brake::Stop, 0.75)];
/// The server that a gate asks says that things go wrong from this share of the devices' permits on; the
/// gate asks every five seconds.
const FAILS_AT: f64 = 0.1;
/// No permit for so long means that there will be none.
const QUIET: Duration = Duration::from_secs(5);
const LIMIT: Duration = Duration::from_secs(600);
/// Name of the EmergencyStop.
const STOP: &str = "bench";

/// What stops a rollout.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Brake {
    /// A person suspends it.
    Suspend,
    /// A person stops everything everywhere.
    Stop,
    /// A device fails, which is more than the stage bears.
    Budget,
    /// A gate over the outside fails while the stage is open.
    Gate,
}

impl Brake {
    const ALL: [Brake; 4] = [Brake::Suspend, Brake::Stop, Brake::Budget, Brake::Gate];

    /// The field of the result, and what the table says.
    fn words(self) -> (&'static str, &'static str) {
        match self {
            Brake::Suspend => ("suspend", "suspension"),
            Brake::Stop => ("stop", "EmergencyStop"),
            Brake::Budget => ("budget", "failure over the budget"),
            Brake::Gate => ("gate", "gate that fails"),
        }
    }
}

/// Measures in optimised programs; returns what the table shows.
pub fn run(options: Options) -> Result<Vec<Measure>> {
    let outcome = program::optimised("halt", options)?;
    let mut measures = Vec::new();
    for (few_or_many, crowd) in [("few", "few agents"), ("many", "many agents")] {
        for brake in Brake::ALL {
            let (field, words) = brake.words();
            let field = format!("{field}-{few_or_many}");
            let name = format!("halt: {words}, {crowd}");
            measures.push(outcome.measure(&field, &name, "s", Limit::AtMost(LIMIT_S))?);
        }
        for (percentile, limit) in [("p50", Limit::None), ("p99", Limit::AtMost(LIMIT_S))] {
            let name = format!("halt: {percentile} of all stops, {crowd}");
            let field = format!("{percentile}-{few_or_many}");
            measures.push(outcome.measure(&field, &name, "s", limit)?);
        }
        let field = format!("busy-{few_or_many}");
        let name = format!("halt: busy before a stop, {crowd}");
        measures.push(outcome.measure(&field, &name, "share", Limit::None)?);
    }
    let name = "halt: mean of the causes, many to few agents";
    measures.push(outcome.measure("ratio", name, "ratio", Limit::AtMost(RATIO))?);
    measures.push(outcome.measure(
        "lost",
        "halt: agents that lost contact meanwhile",
        "agents",
        Limit::AtMost(0.0),
    )?);
    measures.push(outcome.measure(
        "late",
        "halt: permits after the stop",
        "permits",
        Limit::None,
    )?);
    Ok(measures)
}

/// The measuring itself; prints one JSON object.
pub async fn measure(options: Options) -> Result<()> {
    let devices = options.devices.map_or(1_000, NonZero::get);
    let connected = options.connected.map_or(20_000, NonZero::get).max(devices);
    let (at_work, install_ms) =
        options.at_work.map_or((devices, RUSH_MS), |at_work| (at_work.get(), STEADY_MS));
    let rounds = options.rounds.map_or(6, NonZero::get);
    let mut result: BTreeMap<String, Vec<f64>> = BTreeMap::new();
    let mut all_lost = 0;
    for (crowd, bystanders) in [("few", 0), ("many", connected - devices)] {
        let crew = Crew {
            devices,
            bystanders,
            install_ms,
            updates: rounds,
            // As often as people stop one by each of their means.
            faulty_updates: 2 * rounds,
            quick_updates: 2 * rounds,
        };
        let (times, lost) = site(crew, at_work).await?;
        all_lost += lost;
        let mut all: Vec<f64> = times.iter().map(|time| time.seconds).collect();
        all.sort_by(f64::total_cmp);
        result.insert(format!("p50-{crowd}"), vec![middle(&all)]);
        result.insert(format!("p99-{crowd}"), vec![percentile(&all, 99)]);
        for time in times {
            let field = format!("{}-{crowd}", time.brake.words().0);
            result.entry(field).or_default().push(time.seconds);
            result.entry("late".into()).or_default().push(time.late);
            result.entry(format!("busy-{crowd}")).or_default().push(time.busy);
        }
    }
    let means = |crowd: &str| -> f64 {
        Brake::ALL.map(|brake| mean(&result[&format!("{}-{crowd}", brake.words().0)])).iter().sum()
    };
    result.insert("ratio".into(), vec![means("many") / means("few")]);
    result.insert("lost".into(), vec![all_lost as f64]);
    println!("{}", json!(result));
    Ok(())
}

/// The least of the times that so many percent of them do not exceed; there is at least one, and they are in
/// order.
fn percentile(times: &[f64], percent: usize) -> f64 {
    times[(times.len() * percent).div_ceil(100) - 1]
}

/// Of at least one.
fn mean(times: &[f64]) -> f64 {
    times.iter().sum::<f64>() / times.len() as f64
}

/// What one stop took.
struct Time {
    brake: Brake,
    seconds: f64,
    late: f64,
    /// Of the processors, while the rollout went on before the stop.
    busy: f64,
}

/// Every stop, again and again, in an installation of its own; and how many bystanders lost contact.
async fn site(crew: Crew, at_work: usize) -> Result<(Vec<Time>, usize)> {
    let folder = tempfile::tempdir().context("failed to make a folder")?;
    let site = Site::open(folder.path(), crew).await?;
    eprintln!("   {} devices and {} bystanders enrolled", crew.devices, crew.bystanders);
    let began = Timestamp::now();
    let mut times = Vec::new();
    for round in 1..=crew.updates {
        times.extend(by_people(&site, round, at_work).await?);
    }
    for round in crew.updates + 1..=crew.updates + crew.faulty_updates {
        times.push(by_budget(&site, round, at_work).await?);
    }
    let before = crew.updates + crew.faulty_updates;
    for round in before + 1..=before + crew.quick_updates {
        times.push(by_gate(&site, round, at_work).await?);
    }
    let lost = crew.bystanders - site.bystanders_in_contact_since(began).await?;
    Ok((times, lost))
}

/// A rollout that people stop again and again and let go on.
async fn by_people(site: &Site, round: usize, at_work: usize) -> Result<Vec<Time>> {
    let devices = site.crew.devices;
    let permits = Permits::watch(site.api());
    let rollout = site.roll_out(round, at_work, json!({})).await?;
    let mut times = Vec::new();
    for (brake, share) in STOPPED_AT {
        let load = Load::now()?;
        permits.until((share * 2.0 * devices as f64) as usize).await?;
        let busy = Load::now()?.since(load);
        let (began, before) = (Instant::now(), permits.lock().total);
        anyhow::ensure!(before < 2 * devices, "nobody was left to stop; measure with more devices");
        pull(site, &rollout, brake).await?;
        times.push(permits.last(brake, busy, began, before).await);
        release(site, &rollout, brake).await?;
    }
    site.until_completed(&rollout, LIMIT).await?;
    site.until_patched(round).await?;
    Ok(times)
}

/// A rollout that halts by itself, because a device in its middle fails. The time counts from when the
/// device's own word stands in its job.
async fn by_budget(site: &Site, round: usize, at_work: usize) -> Result<Time> {
    let permits = Permits::watch(site.api());
    let load = Load::now()?;
    let rollout = site.roll_out(round, at_work, json!({})).await?;
    let (began, before) = permits.until_outcome(&site.faulty()).await?;
    let busy = Load::now()?.since(load);
    // The failing device has a permit, too, and so had everybody before it.
    let left = site.crew.devices.saturating_sub(before);
    anyhow::ensure!(left > 0, "nobody was left to stop; measure with more devices");
    let time = permits.last(Brake::Budget, busy, began, before).await;
    end_halted(site, &rollout).await?;
    Ok(time)
}

/// A rollout that halts because a server, asked by a gate, says that things go wrong. The time counts
/// from when the server answers so.
async fn by_gate(site: &Site, round: usize, at_work: usize) -> Result<Time> {
    let devices = site.crew.devices;
    let permits = Permits::watch(site.api());
    let failed: Arc<Mutex<Option<(Instant, usize)>>> = Arc::default();
    let server = {
        let (seen, failed) = (permits.seen.clone(), failed.clone());
        let enough = (FAILS_AT * devices as f64) as usize;
        HttpsServer::start(move |question| {
            let total = seen.lock().unwrap_or_else(PoisonError::into_inner).total;
            let is_bad = total >= enough;
            if is_bad {
                let mut failed = failed.lock().unwrap_or_else(PoisonError::into_inner);
                failed.get_or_insert((Instant::now(), total));
            }
            answer(question, is_bad)
        })
        .await?
    };
    let provider = format!("bench-{round}");
    let spec = json!({
        "type": "Prometheus", "url": server.url(), "caBundle": server.ca(),
        "allowedNetworks": ["127.0.0.1"], "namespaces": [FLEET],
    });
    let spec = serde_json::from_value(spec).context("the provider is wrong")?;
    let providers: Api<GateProvider> = Api::all(site.client.clone());
    let created = GateProvider::new(&provider, spec);
    let created = providers.create(&PostParams::default(), &created).await;
    created.context("failed to create the GateProvider")?;
    let gate = json!({
        "name": "errors", "type": "Prometheus", "interval": "5s", "onFailure": "Halt",
        "prometheus": { "provider": provider, "query": "errors" }, "successCondition": "result < 1.0",
    });
    let load = Load::now()?;
    let rollout = site.roll_out(round, at_work, json!({ "during": [gate] })).await?;
    let (began, before) = wait_until_ok(LIMIT, "the gate's failing answer", async || {
        let failed = failed.lock().unwrap_or_else(PoisonError::into_inner);
        failed.ok_or_else(|| "none yet".to_owned())
    })
    .await?;
    let busy = Load::now()?.since(load);
    eprintln!("   the gate failed when {before} of {devices} devices had their permit");
    anyhow::ensure!(before < devices, "nobody was left to stop; measure with more devices");
    let time = permits.last(Brake::Gate, busy, began, before).await;
    end_halted(site, &rollout).await?;
    Ok(time)
}

/// What Prometheus answers to a question for an instant.
fn answer(question: &Received, is_bad: bool) -> Reply {
    let asked = question.target.split_once('?').map_or("", |(_, query)| query);
    let time = asked.split('&').find_map(|part| part.strip_prefix("time="));
    let time: f64 = time.and_then(|text| text.parse().ok()).unwrap_or_default();
    let value = if is_bad { "1" } else { "0" };
    let result = json!([{ "metric": {}, "value": [time, value] }]);
    https::json(
        &json!({ "status": "success", "data": { "resultType": "vector", "result": result } }),
    )
}

/// Deletes a rollout that has to be halted, and waits until nothing is left of it.
async fn end_halted(site: &Site, rollout: &str) -> Result<()> {
    let rollouts = site.api::<PatchRollout>();
    let halted = rollouts.get(rollout).await.context("failed to read the rollout")?;
    let halted = halted.status.is_some_and(|status| status.halted.is_some());
    anyhow::ensure!(halted, "the rollout did not halt");
    let deleted = rollouts.delete(rollout, &DeleteParams::default()).await;
    deleted.context("failed to delete the rollout")?;
    site.until_swept().await
}

async fn pull(site: &Site, rollout: &str, brake: Brake) -> Result<()> {
    match brake {
        Brake::Suspend => suspend(&site.api(), rollout, true).await,
        Brake::Stop => {
            let spec = EmergencyStopSpec {
                reason: "a benchmark".into(),
                kbs: Vec::new(),
                selector: None,
                rollbacks: Default::default(),
            };
            let stops: Api<EmergencyStop> = Api::all(site.client.clone());
            let stop = EmergencyStop::new(STOP, spec);
            let created = stops.create(&PostParams::default(), &stop).await;
            created.map(drop).context("failed to create the EmergencyStop")
        }
        Brake::Budget | Brake::Gate => Ok(()),
    }
}

async fn release(site: &Site, rollout: &str, brake: Brake) -> Result<()> {
    match brake {
        Brake::Suspend => suspend(&site.api(), rollout, false).await,
        Brake::Stop => {
            let stops: Api<EmergencyStop> = Api::all(site.client.clone());
            let deleted = stops.delete(STOP, &DeleteParams::default()).await;
            deleted.map(drop).context("failed to delete the EmergencyStop")
        }
        Brake::Budget | Brake::Gate => Ok(()),
    }
}

async fn suspend(rollouts: &Api<PatchRollout>, rollout: &str, suspend: bool) -> Result<()> {
    let patch = Patch::Merge(json!({ "spec": { "suspend": suspend } }));
    let patched = rollouts.patch(rollout, &PatchParams::default(), &patch).await;
    patched.context("failed to suspend or resume the rollout")?;
    Ok(())
}

/// The permits that were seen on jobs, until this is dropped.
struct Permits {
    seen: Arc<Mutex<Seen>>,
    watch: tokio::task::JoinHandle<()>,
}

#[derive(Default)]
struct Seen {
    /// Number of permits by the job's uid.
    jobs: BTreeMap<String, usize>,
    total: usize,
    last: Option<Instant>,
    /// When the outcome of a device's job was first seen, and how many permits there were then.
    outcomes: BTreeMap<String, (Instant, usize)>,
}

impl Permits {
    fn watch(jobs: Api<PatchJob>) -> Permits {
        let seen = Arc::new(Mutex::new(Seen::default()));
        let notes = seen.clone();
        let watch = tokio::spawn(async move {
            let events = watcher(jobs, watcher::Config::default()).default_backoff();
            let mut jobs = pin!(events.applied_objects());
            while let Some(job) = jobs.next().await {
                // A watch that breaks begins anew by itself.
                if let Ok(job) = job {
                    notes.lock().unwrap_or_else(PoisonError::into_inner).note(&job);
                }
            }
        });
        Permits { seen, watch }
    }

    fn lock(&self) -> MutexGuard<'_, Seen> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn until(&self, wanted: usize) -> Result<()> {
        wait_until_ok(LIMIT, "enough permits", async || match self.lock().total {
            total if total >= wanted => Ok(()),
            total => Err(format!("{total} of {wanted}")),
        })
        .await
    }
}

impl Permits {
    /// When the device's outcome was seen, and how many permits there were then.
    async fn until_outcome(&self, device: &str) -> Result<(Instant, usize)> {
        wait_until_ok(LIMIT, "the failing device's outcome", async || {
            self.lock().outcomes.get(device).copied().ok_or_else(|| "none yet".to_owned())
        })
        .await
    }

    /// Waits until no permit comes any more; what the stop that began then took.
    async fn last(&self, brake: Brake, busy: f64, began: Instant, before: usize) -> Time {
        loop {
            let (last, total) = {
                let seen = self.lock();
                (seen.last.map_or(began, |last| last.max(began)), seen.total)
            };
            if last.elapsed() > QUIET {
                let seconds = last.duration_since(began).as_secs_f64();
                let late = (total - before) as f64;
                let (cause, share) = (brake.words().1, busy * 100.0);
                eprintln!(
                    "   {cause}: {late} permits more, within {seconds:.3} s; processors {share:.0} % busy before"
                );
                return Time { brake, seconds, late, busy };
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }
}

impl Drop for Permits {
    fn drop(&mut self) {
        self.watch.abort();
    }
}

impl Seen {
    fn note(&mut self, job: &PatchJob) {
        let uid = job.metadata.uid.clone().unwrap_or_default();
        let permits = job.status.as_ref().map_or(0, |status| status.permitted.len());
        let known = self.jobs.entry(uid).or_default();
        if permits > *known {
            self.total += permits - *known;
            self.last = Some(Instant::now());
            *known = permits;
        }
        if job.status.as_ref().is_some_and(|status| status.outcome.is_some()) {
            let device = job.metadata.name.clone().unwrap_or_default();
            self.outcomes.entry(device).or_insert((Instant::now(), self.total));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_few_times_the_slowest_is_the_percentile_that_is_judged() {
        assert_eq!(percentile(&[0.1, 0.2, 0.3, 0.4], 99), 0.4);
        let many: Vec<f64> = (1..=200).map(f64::from).collect();
        assert_eq!(percentile(&many, 99), 198.0);
    }
}
