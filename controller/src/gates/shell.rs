//! Every gate that is active, each with a task of its own while it is measured.
//!
//! A pass says which gates are due and reads what was measured last; it waits for none of it. What is
//! measured wakes the namespace. Losing all of this is safe: it is measured again.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Instant,
};

use jiff::Timestamp;
use tokio::task::AbortHandle;
use wardring_api::{GatePhase, GateResult};
use wardring_planner::{MeasureOrder, Measurement};

use super::{
    context::{Context, Member},
    measure::measure,
    registry::Registry,
};
use crate::{
    cache::Cache,
    metrics::{MeasurementLabels, Metrics, ProviderLabels},
};

/// The measurements of a leader; clones share them.
#[derive(Clone, Debug)]
pub struct Gates {
    registry: Registry,
    cache: Cache,
    metrics: Metrics,
    state: Arc<Mutex<State>>,
}

#[derive(Debug, Default)]
struct State {
    gates: BTreeMap<GateId, Tracked>,
    /// By namespace, how often a measurement came to something else than the one before it.
    news: BTreeMap<String, u64>,
    runs: u64,
}

/// One gate of one stage.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct GateId {
    namespace: String,
    rollout_uid: String,
    stage: String,
    phase: GatePhase,
    gate: String,
    /// One that was edited begins anew.
    definition: String,
}

/// Shared with the task that measures.
type Told = Arc<Mutex<Option<String>>>;

#[derive(Debug, Default)]
struct Tracked {
    newest: Option<Measurement>,
    run: Option<Run>,
    /// What this process told a webhook of it.
    told: Told,
}

#[derive(Debug)]
struct Run {
    number: u64,
    task: AbortHandle,
}

impl Gates {
    /// Nothing measured yet.
    pub fn new(registry: Registry, cache: Cache, metrics: Metrics) -> Gates {
        Gates { registry, cache, metrics, state: Arc::default() }
    }

    /// The providers that may be asked.
    pub fn registry(&self) -> Registry {
        self.registry.clone()
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The newest measurement of each gate in the namespace.
    pub fn measurements(&self, namespace: &str) -> Vec<Measurement> {
        let state = self.state();
        let here = state.gates.iter().filter(|(id, _)| id.namespace == namespace);
        here.filter_map(|(_, tracked)| tracked.newest.clone()).collect()
    }

    /// Counts how often what is measured in the namespace changed: a plan that is being carried out
    /// is then planned anew, because it may grant what a gate just forbade.
    pub fn news(&self, namespace: &str) -> u64 {
        self.state().news.get(namespace).copied().unwrap_or(0)
    }

    /// Takes in which gates of the namespace are active: starts what is due and not under way, and
    /// forgets the others.
    pub fn follow(&self, namespace: &str, orders: &[MeasureOrder]) {
        let present = Timestamp::now();
        let active: BTreeSet<GateId> = orders.iter().map(|order| id(namespace, order)).collect();
        let mut state = self.state();
        state.gates.retain(|id, tracked| {
            let stays = id.namespace != namespace || active.contains(id);
            if let Some(run) = tracked.run.take_if(|_| !stays) {
                run.task.abort();
            }
            stays
        });
        for order in orders.iter().filter(|order| order.due <= present) {
            let id = id(namespace, order);
            let number = state.runs + 1;
            let tracked = state.gates.entry(id.clone()).or_default();
            // A task that panicked is over without having said so.
            let is_running = tracked.run.as_ref().is_some_and(|run| !run.task.is_finished());
            // The plan may be older than the measurement that it asks for.
            let is_done = tracked.newest.as_ref().is_some_and(|newest| newest.at >= order.due);
            if is_running || is_done {
                continue;
            }
            let (gates, told) = (self.clone(), tracked.told.clone());
            let order = order.clone();
            let task = tokio::spawn(async move { gates.run(id, number, &order, &told).await });
            tracked.run = Some(Run { number, task: task.abort_handle() });
            state.runs = number;
        }
        let running = state.gates.values().filter(|tracked| tracked.run.is_some()).count();
        self.metrics.gates_running.set(i64::try_from(running).unwrap_or(i64::MAX));
    }

    async fn run(&self, id: GateId, number: u64, order: &MeasureOrder, told: &Told) {
        let began = Instant::now();
        let context = self.context(&id.namespace, order);
        let mut now_told = told.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let (measurement, provider) =
            measure(&self.registry, &order.gate, &context, &mut now_told).await;
        *told.lock().unwrap_or_else(PoisonError::into_inner) = now_told;
        // Only names of providers that there are: a tenant may write any name.
        let provider = provider.unwrap_or_else(|| "none".to_owned());
        let result = word(measurement.result);
        let labels = MeasurementLabels { provider: provider.clone(), result };
        self.metrics.gate_measurements.get_or_create(&labels).inc();
        let seconds = self.metrics.gate_seconds.get_or_create(&ProviderLabels { provider });
        seconds.observe(began.elapsed().as_secs_f64());
        let namespace = id.namespace.clone();
        if self.keep(&id, number, measurement) {
            self.cache.touch(&namespace);
        }
    }

    /// For whom and since when, by what the cache knows of the devices now.
    fn context(&self, namespace: &str, order: &MeasureOrder) -> Context {
        let population = self.cache.read(namespace, |space| {
            let devices = space.map(|space| space.devices.clone()).unwrap_or_default();
            let member = |name: &str| {
                let row = devices.get(name);
                let aliases = row.map(|row| row.hostname().to_owned()).into_iter().collect();
                Member { device: name.to_owned(), aliases }
            };
            order.population.names().map(member).collect()
        });
        Context {
            namespace: namespace.to_owned(),
            rollout: order.rollout.name.clone(),
            rollout_uid: order.rollout.uid.clone(),
            stage: order.stage.clone(),
            phase: order.phase,
            gate: order.gate.name.clone(),
            definition: order.status.definition.clone(),
            stage_began: order.stage_began,
            gate_began: order.status.started_at,
            now: Timestamp::now(),
            population,
        }
    }

    /// Keeps what was measured, unless nobody waits for it any more.
    fn keep(&self, id: &GateId, number: u64, measurement: Measurement) -> bool {
        let mut state = self.state();
        let State { gates, news, .. } = &mut *state;
        let is_run = |run: &mut Run| run.number == number;
        let Some(tracked) = gates.get_mut(id) else { return false };
        if tracked.run.take_if(is_run).is_none() {
            return false;
        }
        let before = tracked.newest.as_ref().map(|newest| newest.result);
        if before != Some(measurement.result) {
            *news.entry(id.namespace.clone()).or_default() += 1;
        }
        tracked.newest = Some(measurement);
        true
    }

    /// Ends everything: the term is over.
    pub fn stop(&self) {
        let mut state = self.state();
        for run in state.gates.values().filter_map(|tracked| tracked.run.as_ref()) {
            run.task.abort();
        }
        state.gates.clear();
        self.registry.forget();
        self.metrics.gates_running.set(0);
    }
}

fn id(namespace: &str, order: &MeasureOrder) -> GateId {
    GateId {
        namespace: namespace.to_owned(),
        rollout_uid: order.rollout.uid.clone(),
        stage: order.stage.clone(),
        phase: order.phase,
        gate: order.gate.name.clone(),
        definition: order.status.definition.clone(),
    }
}

fn word(result: GateResult) -> &'static str {
    match result {
        GateResult::Pass => "pass",
        GateResult::Fail => "fail",
        GateResult::Inconclusive => "inconclusive",
        GateResult::NoData => "nodata",
        GateResult::Error => "error",
    }
}

#[cfg(test)]
mod tests {
    use std::{
        collections::BTreeMap,
        time::{Duration, Instant},
    };

    use serde_json::{Value, json};
    use tokio::sync::Semaphore;
    use wardring_api::{Gate, GateProviderSpec, GateProviderType, GateStatus, PatchRolloutSlice};
    use wardring_harness::{
        https::{self, HttpsServer, Step},
        wait_until,
    };
    use wardring_planner::{Population, RolloutRef, SliceView};

    use super::*;
    use crate::{
        cache::SlimDevice,
        gates::provider::{Provider, tests::spec_at},
    };

    const SOON: Duration = Duration::from_secs(20);

    /// A provider of a namespace, with one turn.
    fn provide(gates: &Gates, name: &str, server: &HttpsServer) {
        let turns = Arc::new(Semaphore::new(1));
        let provider = Provider::new(&spec_at(server), None, turns).unwrap();
        gates.registry.know(BTreeMap::from([(name.to_owned(), Arc::new(provider))]));
    }

    /// The same of this kind, called `tests`.
    fn provide_as(gates: &Gates, kind: GateProviderType, server: &HttpsServer) {
        let spec = GateProviderSpec { kind, ..spec_at(server) };
        let provider = Provider::new(&spec, None, Arc::new(Semaphore::new(1))).unwrap();
        gates.registry.know(BTreeMap::from([("tests".to_owned(), Arc::new(provider))]));
    }

    fn order(name: &str, provider: &str) -> MeasureOrder {
        order_of(json!({
            "name": name, "type": "Prometheus", "successCondition": "result < 5.0",
            "prometheus": { "provider": provider, "query": "errors" },
        }))
    }

    fn order_of(gate: Value) -> MeasureOrder {
        let at = "2026-11-21T02:00:00Z".parse().unwrap();
        let gate: Gate = serde_json::from_value(gate).unwrap();
        let status: GateStatus = serde_json::from_value(json!({
            "name": gate.name, "phase": "During", "state": "Waiting", "since": at, "startedAt": at,
            "definition": "d",
        }))
        .unwrap();
        MeasureOrder {
            rollout: RolloutRef { name: "november".into(), uid: "u-1".into() },
            stage: "pilot".into(),
            phase: GatePhase::During,
            gate,
            due: at,
            stage_began: at,
            status,
            population: Population { slices: Arc::default(), counts: Default::default() },
        }
    }

    fn fresh() -> Gates {
        Gates::new(Registry::default(), Cache::default(), Metrics::new())
    }

    /// A Prometheus whose every value of every time is this.
    async fn prometheus(value: &'static str) -> HttpsServer {
        HttpsServer::start(move |request| {
            let time = request.target.split("time=").nth(1).unwrap_or_default();
            let time: f64 = time.split('&').next().unwrap_or_default().parse().unwrap();
            https::json(&json!({ "status": "success", "data": {
                "resultType": "vector", "result": [{ "metric": {}, "value": [time, value] }],
            }}))
        })
        .await
        .unwrap()
    }

    async fn measured(gates: &Gates, name: &str) -> Measurement {
        let find = || {
            let all = gates.measurements("clinic");
            all.into_iter().find(|measurement| measurement.gate == name)
        };
        wait_until(SOON, "a measurement", async || find()).await.unwrap()
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn a_dead_provider_delays_no_other_gate_and_no_pass() {
        let (good, dead) =
            (prometheus("7").await, HttpsServer::start(|_| vec![Step::Hang]).await.unwrap());
        let gates = fresh();
        provide(&gates, "good", &good);
        provide(&gates, "dead", &dead);
        // More gates at the dead provider than it has turns, and they come first.
        let mut orders: Vec<_> =
            (0..8).map(|number| order(&format!("a-{number}"), "dead")).collect();
        orders.push(order("errors", "good"));

        let began = Instant::now();
        gates.follow("clinic", &orders);
        assert!(began.elapsed() < Duration::from_secs(1), "a pass waits for nothing");
        let measurement = measured(&gates, "errors").await;

        assert_eq!(
            (measurement.result, measurement.value.as_deref()),
            (GateResult::Fail, Some("7"))
        );
        assert_eq!(gates.measurements("clinic").len(), 1, "the dead one has not answered yet");
        assert_eq!(gates.news("clinic"), 1);
        assert_eq!(gates.cache.take_dirty(), BTreeSet::from(["clinic".to_owned()]));
        gates.stop();
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn what_a_webhook_says_is_what_its_gate_measures() {
        let limit = Some("result < 5.0");
        for (answer, condition, result) in [
            (json!({ "state": "pass" }), None, GateResult::Pass),
            (json!({ "state": "fail" }), None, GateResult::Fail),
            (json!({ "state": "wait" }), None, GateResult::Inconclusive),
            (json!({ "state": "pass", "value": 4 }), limit, GateResult::Pass),
            (json!({ "state": "pass", "value": 7 }), limit, GateResult::Fail),
            (json!({ "state": "fail", "value": 4 }), limit, GateResult::Fail),
            (json!({ "state": "wait", "value": 4 }), limit, GateResult::Inconclusive),
            (json!({ "state": "fine" }), None, GateResult::Error),
        ] {
            let told = answer.clone();
            let server = HttpsServer::start(move |_| https::json(&told)).await.unwrap();
            let gates = fresh();
            provide_as(&gates, GateProviderType::Webhook, &server);
            let gate = json!({
                "name": "smoke-test", "type": "Webhook", "webhook": { "provider": "tests" },
                "successCondition": condition,
            });
            gates.follow("clinic", &[order_of(gate)]);
            let measurement = measured(&gates, "smoke-test").await;
            assert_eq!(measurement.result, result, "{answer} {condition:?}: {measurement:?}");
        }
    }

    /// A stage of two devices, of which only the first has reported its name; and one that is not in it.
    fn pilot(gates: &Gates) -> Population {
        for (name, hostname) in [("web-1", "ERP1"), ("other", "LAB7")] {
            let device = json!({
                "apiVersion": "wardring.dev/v1alpha1", "kind": "Device",
                "metadata": { "name": name, "namespace": "clinic", "uid": name, "resourceVersion": "3" },
                "spec": {}, "status": { "identity": { "hostname": hostname } },
            });
            gates.cache.apply::<SlimDevice>(serde_json::from_value(device).unwrap());
        }
        let slice: PatchRolloutSlice = serde_json::from_value(json!({
            "apiVersion": "wardring.dev/v1alpha1", "kind": "PatchRolloutSlice",
            "metadata": { "name": "november-1", "namespace": "clinic" },
            "spec": {
                "rollout": "november", "rolloutUid": "u-1", "stage": "pilot", "index": 0, "of": 1,
                "freezeId": "f-1", "lines": ["web-1 0 Pending", "web-2 0 Pending"],
            },
        }))
        .unwrap();
        let slices = Arc::new(vec![Arc::new(SliceView::new(&slice))]);
        Population { slices, counts: Default::default() }
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn tickets_are_asked_for_by_the_names_that_the_stages_devices_report() {
        let server =
            HttpsServer::start(|_| https::json(&json!({ "counts": [0, 0] }))).await.unwrap();
        let gates = fresh();
        provide_as(&gates, GateProviderType::Tickets, &server);
        let gate = json!({
            "name": "tickets", "type": "Tickets", "tickets": { "provider": "tests" },
            "successCondition": "result < 5.0",
        });
        gates.follow("clinic", &[MeasureOrder { population: pilot(&gates), ..order_of(gate) }]);

        assert_eq!(measured(&gates, "tickets").await.result, GateResult::Pass);
        let asked: Value = serde_json::from_slice(&server.received()[0].body).unwrap();
        let expected = json!([
            { "name": "web-1", "aliases": ["erp1"] },
            { "name": "web-2", "aliases": [] },
        ]);
        assert_eq!(asked["devices"], expected);
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn alerts_count_under_the_names_that_the_stages_devices_report() {
        for (instance, result) in [
            ("ERP1.clinic.example:9182", GateResult::Fail),
            ("web-2:9182", GateResult::Fail),
            ("LAB7.clinic.example:9182", GateResult::Pass),
        ] {
            let server = HttpsServer::start(move |asked| {
                let new = json!({
                    "labels": { "alertname": "Down", "instance": instance }, "annotations": {},
                    "startsAt": "2026-11-21T02:30:00Z", "endsAt": "2026-11-21T04:00:00Z",
                    "updatedAt": "2026-11-21T02:30:00Z", "fingerprint": "f-1", "receivers": [],
                    "status": { "state": "active", "silencedBy": [], "inhibitedBy": [] },
                });
                let explains = asked.target.contains("WardringRebootExpected");
                https::json(&if explains { json!([]) } else { json!([new]) })
            })
            .await
            .unwrap();
            let gates = fresh();
            provide_as(&gates, GateProviderType::Alertmanager, &server);
            let gate = json!({
                "name": "alerts", "type": "Alertmanager", "alertmanager": { "provider": "tests" },
                "successCondition": "result < 1.0",
            });
            gates.follow("clinic", &[MeasureOrder { population: pilot(&gates), ..order_of(gate) }]);
            let measurement = measured(&gates, "alerts").await;
            assert_eq!(measurement.result, result, "{instance}: {measurement:?}");
        }
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn a_gate_is_measured_once_at_a_time_and_forgotten_with_its_stage() {
        let slow = HttpsServer::start(|_| vec![Step::Hang]).await.unwrap();
        let gates = fresh();
        provide(&gates, "slow", &slow);
        let orders = [order("errors", "slow")];
        for _ in 0..5 {
            gates.follow("clinic", &orders);
        }
        wait_until(SOON, "the question", async || slow.received().pop()).await.unwrap();
        gates.follow("clinic", &orders);
        // Not by the provider's one turn, which would hide a second one.
        assert_eq!((gates.state().runs, slow.received().len()), (1, 1));
        // Another namespace's pass says nothing about this one.
        gates.follow("lab", &[]);
        assert_eq!(gates.state().gates.len(), 1);
        gates.follow("clinic", &[]);
        assert!(gates.state().gates.is_empty());
        assert!(gates.measurements("clinic").is_empty());
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn a_provider_that_is_not_for_the_namespace_is_as_one_that_is_not_there() {
        let server = prometheus("0").await;
        let gates = fresh();
        provide(&gates, "good", &server);
        let other = MeasureOrder { gate: order("errors", "good").gate, ..order("x", "good") };
        gates.follow("lab", std::slice::from_ref(&other));
        gates.follow("clinic", &[order("missing", "no-such")]);
        let none = measured(&gates, "missing").await;
        let other = async || gates.measurements("lab").pop();
        let not_ours = wait_until(SOON, "the other one", other).await.unwrap();
        assert_eq!((none.result, not_ours.result), (GateResult::Error, GateResult::Error));
        let words = |text: &str| text.replace("no-such", "good").replace("clinic", "lab");
        assert_eq!(words(&none.message), not_ours.message);
        assert!(server.received().is_empty());
    }
}
