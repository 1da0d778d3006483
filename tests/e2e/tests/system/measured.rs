//! Gates that are measured outside: what a real Prometheus sees in the soak of the first stage keeps an
//! update from production, whatever another provider does.

use std::time::Instant;

use anyhow::{Context, Result};
use kube::{Api, api::PostParams};
use serde_json::{Value, json};
use tokio::net::TcpListener;
use wardring_api::{GateProvider, GateResult, PatchRollout, RolloutPhase, StageState};
use wardring_harness::{MetricsPage, Monitor, monitoring::Setup};

use crate::support::{
    History, LONG, Place, Plan, SHORT, history::Change, journal::count, manifests::with,
    place::stage_of, rollout, shared, stage, world,
};

async fn provide(place: &Place, name: &str, url: &str) -> Result<()> {
    let api: Api<GateProvider> = Api::all(place.client.clone());
    let spec = json!({
        "type": "Prometheus", "url": url, "allowHttp": true, "allowedNetworks": ["127.0.0.1"],
        "namespaces": [place.namespace],
    });
    let object = GateProvider::new(name, serde_json::from_value(spec)?);
    api.create(&PostParams::default(), &object).await?;
    Ok(())
}

fn gate(name: &str, provider: &str, on_failure: &str) -> Value {
    json!({
        "name": name, "type": "Prometheus", "interval": "5s",
        "prometheus": { "provider": provider, "query": "max(erp_errors)" },
        "successCondition": "result < 5.0", "onFailure": on_failure,
    })
}

#[tokio::test]
async fn what_prometheus_sees_in_the_soak_halts_before_production_and_a_dead_provider_delays_nothing()
-> Result<()> {
    let page = MetricsPage::start().await?;
    page.show("erp_errors 0\n");
    let config = format!(
        "global: {{scrape_interval: 1s}}\nscrape_configs:\n- job_name: erp\n  static_configs: [{{targets: ['{}']}}]\n",
        page.address()
    );
    let prometheus = Monitor::prometheus(Setup { config: &config, ..Setup::default() }).await?;
    // Takes connections and never says a word.
    let dead = TcpListener::bind("127.0.0.1:0").await?;
    let plan = Plan::default().group("test", 2, &world()).group("production", 2, &world());
    let (place, fleet) = Place::open(shared().await?, "measured", &plan).await?;
    provide(&place, "measured-prometheus", &prometheus.url()).await?;
    provide(&place, "measured-dead", &format!("http://{}", dead.local_addr()?)).await?;
    let history = History::begin(&place.client, &place.namespace).await;

    // The dead one only watches: in command, it would keep the stage from starting anything.
    let watching = with(gate("dead", "measured-dead", "Halt"), json!({ "mode": "DryRun" }));
    let gates = json!({ "during": [watching, gate("errors", "measured-prometheus", "Halt")] });
    let first = with(stage("test"), json!({ "soak": "1h", "gates": gates }));
    place.create::<PatchRollout>(rollout(&[first, stage("production")], json!({}))).await?;
    place
        .until::<PatchRollout>(LONG, "november", "to soak with a passed gate", |rollout| {
            let Some(status) = &rollout.status else { return false };
            status.stages.iter().any(|stage| {
                let errors = stage.gates.iter().find(|gate| gate.name == "errors");
                stage.state == StageState::Soaking
                    && errors.is_some_and(|gate| gate.result == Some(GateResult::Pass))
            })
        })
        .await?;

    page.show("erp_errors 50\n");
    let began = Instant::now();
    let status = place.until_phase(RolloutPhase::Halted).await?;
    let took = began.elapsed();

    let gates = &stage_of(&status, "test").gates;
    let find = |name: &str| gates.iter().find(|gate| gate.name == name);
    let errors = find("errors").context("the gate")?;
    assert_eq!((errors.result, errors.value.as_deref()), (Some(GateResult::Fail), Some("50")));
    assert_eq!(errors.query.as_deref(), Some("max(erp_errors)"));
    let halted = status.halted.as_ref().context("the halt")?;
    assert!(halted.message.contains("errors"), "{halted:?}");
    // Each question to the dead one takes ten seconds; a scrape, an interval and a pass take seven.
    let dead = find("dead").context("the other gate")?;
    assert_ne!(dead.result, Some(GateResult::Pass), "{dead:?}");
    assert!(took < SHORT, "{took:?}");
    for name in plan.names("production") {
        assert_eq!(count(&fleet, &name, "install")?, 0, "{name}");
    }
    let is_production = |change: &Change| match change {
        Change::Job(job) => job.spec.stage == "production",
        _ => false,
    };
    assert!(!history.events().iter().any(|event| is_production(&event.change)));
    Ok(())
}
