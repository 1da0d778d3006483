//! One measurement: find the provider, wait for a turn, ask, judge.

use std::time::Duration;

use wardring_api::{Gate, GateProviderType, GateResult, GateType, conditions::clip};
use wardring_planner::{
    Measurement,
    condition::{ConditionValue, Judgement, Variables, judge},
};

use super::{
    alertmanager,
    context::Context,
    prometheus,
    provider::Provider,
    reading::{Found, Reading},
    registry::{Registry, Standing},
    tickets, webhook,
};

/// From the wish to measure to the end of it, turns of others and several questions included.
pub const DEADLINE: Duration = Duration::from_secs(30);
/// What a status holds of the question, and of the words about the answer.
const MAX_QUERY: usize = 512;
const MAX_MESSAGE: usize = 256;

/// Measures once, in at most [`DEADLINE`]. Says also at which provider, if it is one.
pub async fn measure(
    registry: &Registry,
    gate: &Gate,
    context: &Context,
    told: &mut Option<String>,
) -> (Measurement, Option<String>) {
    let mut provider = None;
    let asked = tokio::time::timeout(DEADLINE, async {
        let found = find(registry, gate, context).await?;
        provider = provider_of(gate).map(str::to_owned);
        let turn = found.turns.acquire().await;
        let _turn = turn.map_err(|_| "the provider's turns are closed".to_owned())?;
        // It may have changed while others had their turn.
        let found = find(registry, gate, context).await?;
        Ok(read(&found, gate, context, told).await)
    });
    let reading = match asked.await {
        Ok(Ok(reading)) => reading,
        Ok(Err(why)) => Reading { query: String::new(), found: Found::Fault(why) },
        Err(_) => Reading {
            query: String::new(),
            found: Found::Fault(format!("not measured within {DEADLINE:?}")),
        },
    };
    let judgement = judged(gate, reading.found);
    let measurement = Measurement {
        rollout_uid: context.rollout_uid.clone(),
        stage: context.stage.clone(),
        gate: context.gate.clone(),
        definition: context.definition.clone(),
        at: context.now,
        result: judgement.result,
        query: Some(clip(&reading.query, MAX_QUERY)).filter(|query| !query.is_empty()),
        value: judgement.value,
        message: judgement.message,
    };
    (measurement, provider)
}

/// The provider that a gate names.
pub fn provider_of(gate: &Gate) -> Option<&str> {
    match gate.kind {
        GateType::Prometheus => gate.prometheus.as_ref().map(|gate| gate.provider.as_str()),
        GateType::Alertmanager => gate.alertmanager.as_ref().map(|gate| gate.provider.as_str()),
        GateType::Webhook => gate.webhook.as_ref().map(|gate| gate.provider.as_str()),
        GateType::Tickets => gate.tickets.as_ref().map(|gate| gate.provider.as_str()),
        _ => None,
    }
}

async fn find(
    registry: &Registry,
    gate: &Gate,
    context: &Context,
) -> Result<std::sync::Arc<Provider>, String> {
    let name = provider_of(gate).ok_or("the gate names no provider")?;
    registry.synced().await;
    let kind = match gate.kind {
        GateType::Prometheus => GateProviderType::Prometheus,
        GateType::Alertmanager => GateProviderType::Alertmanager,
        GateType::Webhook => GateProviderType::Webhook,
        GateType::Tickets => GateProviderType::Tickets,
        _ => return Err("the gate is not measured outside".to_owned()),
    };
    let namespace = &context.namespace;
    // One sentence for what is not there and what is not ours: a tenant learns no names by guessing.
    let none = || {
        format!(
            "there is no GateProvider {name} of type {kind:?} that namespace {namespace} may use"
        )
    };
    match registry.find(name) {
        Standing::Usable(provider) if provider.tenants.hold(namespace) && provider.kind == kind => {
            Ok(provider)
        }
        Standing::Unusable(tenants) if tenants.hold(namespace) => {
            Err(format!("GateProvider {name} cannot be used; its condition Ready says why"))
        }
        _ => Err(none()),
    }
}

async fn read(
    provider: &Provider,
    gate: &Gate,
    context: &Context,
    told: &mut Option<String>,
) -> Reading {
    let endpoint = &provider.endpoint;
    match (&gate.prometheus, &gate.alertmanager, &gate.webhook, &gate.tickets) {
        (Some(gate), None, None, None) => prometheus::read(endpoint, gate, context).await,
        (None, Some(gate), None, None) => alertmanager::read(endpoint, gate, context).await,
        (None, None, Some(_), None) => webhook::read(endpoint, context, told).await,
        (None, None, None, Some(gate)) => tickets::read(endpoint, gate, context).await,
        _ => Reading {
            query: String::new(),
            found: Found::Fault("the gate must have exactly the field that its type names".into()),
        },
    }
}

/// What was found, held against the gate's conditions.
fn judged(gate: &Gate, found: Found) -> Judgement {
    let told =
        |result, why: &str| Judgement { result, value: None, message: clip(why, MAX_MESSAGE) };
    match found {
        Found::Fault(why) => told(GateResult::Error, &why),
        Found::Nothing(why) => told(GateResult::NoData, &why),
        Found::Values(values) if gate.kind == GateType::Webhook => verdict(gate, &values),
        Found::Values(values) => judge(gate, &values),
    }
}

/// A webhook's own verdict; conditions look only at what it passes.
fn verdict(gate: &Gate, values: &Variables) -> Judgement {
    let state = match values.get("state") {
        Some(ConditionValue::Text(state)) => state.as_str(),
        _ => "",
    };
    let has_condition = gate.success_condition.is_some() || gate.failure_condition.is_some();
    let (result, message) = match state {
        "pass" if has_condition => return judge(gate, values),
        "pass" => (GateResult::Pass, "the webhook passes it"),
        "fail" => (GateResult::Fail, "the webhook refuses it"),
        _ => (GateResult::Inconclusive, "the webhook has no verdict yet"),
    };
    let value = values.get("result").map(|value| clip(&value.told(), 128));
    Judgement { result, value, message: message.to_owned() }
}
