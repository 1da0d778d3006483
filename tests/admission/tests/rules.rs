//! Every rule of the CRDs, held against a real API server.

use std::time::Duration;

use anyhow::{Result, ensure};
use futures::{StreamExt, stream};
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::{
    Api, Client,
    api::{Patch, PatchParams, PostParams},
};
use serde_json::{Value, json};
use wardring_admission::{Expect, Fixture, fixtures, in_own_namespace, install};
use wardring_api::{PatchRollout, crd::all_crds};
use wardring_harness::{DevCluster, wait_until_ok};

/// A rule as it stands in a CRD.
struct Rule {
    kind: String,
    message: String,
    is_transition: bool,
}

impl Rule {
    fn is_subject_of(&self, fixture: &Fixture) -> bool {
        let named = fixture.message.as_ref().is_some_and(|part| self.message.contains(part));
        named && fixture.kind() == self.kind
    }
}

/// Calls `visit` with every part of `schema`, itself included.
fn every_part(schema: &mut Value, visit: &mut impl FnMut(&mut serde_json::Map<String, Value>)) {
    match schema {
        Value::Object(fields) => {
            visit(fields);
            fields.values_mut().for_each(|child| every_part(child, visit));
        }
        Value::Array(items) => items.iter_mut().for_each(|child| every_part(child, visit)),
        _ => {}
    }
}

fn rules() -> Vec<Rule> {
    let mut rules = Vec::new();
    for crd in all_crds() {
        let kind = crd.spec.names.kind.clone();
        let mut crd = serde_json::to_value(crd).expect("a CRD is plain JSON");
        every_part(&mut crd, &mut |fields| {
            let list = fields.get("x-kubernetes-validations").and_then(Value::as_array);
            for rule in list.into_iter().flatten() {
                rules.push(Rule {
                    kind: kind.clone(),
                    message: rule["message"].as_str().expect("every rule has a message").to_owned(),
                    is_transition: rule["rule"]
                        .as_str()
                        .expect("a rule is text")
                        .contains("oldSelf"),
                });
            }
        });
    }
    rules
}

/// The CRDs without rules, and without the patterns that say the same as a rule next to them.
fn crds_without_rules() -> Vec<CustomResourceDefinition> {
    let strip = |crd| {
        let mut crd = serde_json::to_value(crd).expect("a CRD is plain JSON");
        every_part(&mut crd, &mut |fields| {
            if fields.remove("x-kubernetes-validations").is_some() {
                fields.remove("pattern");
            }
        });
        serde_json::from_value(crd).expect("a CRD without rules is a CRD")
    };
    all_crds().into_iter().map(strip).collect()
}

/// Plays fixtures side by side, each in its own namespace, and returns what went wrong.
async fn play_all<F>(client: &Client, fixtures: &[Fixture], play: F) -> Vec<String>
where
    F: AsyncFn(&Fixture, &str) -> Result<()>,
{
    stream::iter(fixtures)
        .map(|fixture| in_own_namespace(client, async |name| play(fixture, name).await))
        .buffer_unordered(8)
        .filter_map(async |outcome| outcome.err().map(|error| format!("{error:#}")))
        .collect()
        .await
}

#[tokio::test]
async fn the_api_server_answers_every_manifest_as_written_in_its_fixture() {
    let cluster = DevCluster::start().await.unwrap();
    let client = cluster.client().await.unwrap();
    install(&client, &all_crds()).await.unwrap();
    let fixtures = fixtures().unwrap();
    assert!(fixtures.len() >= 60, "only {} fixtures were found", fixtures.len());

    let wrong = play_all(&client, &fixtures, async |fixture, namespace| {
        fixture.check(&client, namespace).await
    })
    .await;

    assert!(wrong.is_empty(), "\n{}", wrong.join("\n"));
}

#[tokio::test]
async fn without_the_rules_the_api_server_takes_what_they_refuse() {
    let cluster = DevCluster::start().await.unwrap();
    let client = cluster.client().await.unwrap();
    install(&client, &crds_without_rules()).await.unwrap();
    let rules = rules();
    let mut refused = fixtures().unwrap();
    refused.retain(|fixture| {
        fixture.expect == Expect::Reject && rules.iter().any(|rule| rule.is_subject_of(fixture))
    });

    let wrong = play_all(&client, &refused, async |fixture, namespace| {
        match fixture.play(&client, namespace).await? {
            None => Ok(()),
            Some(answer) => anyhow::bail!("{}: still refused: {answer}", fixture.name),
        }
    })
    .await;

    assert!(wrong.is_empty(), "\n{}", wrong.join("\n"));
}

/// Whoever upgrades has rollouts that the rules of today refuse.
#[tokio::test]
async fn a_rollout_that_ends_another_one_unasked_since_an_older_schema_can_be_stopped_and_mended() {
    let cluster = DevCluster::start().await.unwrap();
    let client = cluster.client().await.unwrap();
    install(&client, &crds_without_rules()).await.unwrap();
    in_own_namespace(&client, async |namespace| {
        let api: Api<PatchRollout> = Api::namespaced(client.clone(), namespace);
        let spec = json!({
            "updates": { "kbs": ["KB5068787"] },
            "supersedes": "november",
            "stages": [{ "name": "test", "group": "test-servers" }],
        });
        let object = |name: &str| {
            serde_json::from_value::<PatchRollout>(json!({
                "apiVersion": "wardring.dev/v1alpha1", "kind": "PatchRollout",
                "metadata": { "name": name }, "spec": spec.clone(),
            }))
            .expect("it reads")
        };
        let params = PostParams::default();
        for name in ["suspended", "aborted", "mended"] {
            api.create(&params, &object(name)).await?;
        }
        install(&client, &all_crds()).await?;
        // Until the new schema is served everywhere.
        wait_until_ok(Duration::from_secs(30), "another one to be refused", async || {
            let dry = PostParams { dry_run: true, ..PostParams::default() };
            match api.create(&dry, &object("another")).await {
                Err(refused) if refused.to_string().contains("a second person") => Ok(()),
                answer => Err(format!("{answer:?}")),
            }
        })
        .await?;
        let change = async |name: &str, change: Value| {
            api.patch(name, &PatchParams::default(), &Patch::Merge(json!({ "spec": change }))).await
        };
        change("suspended", json!({ "suspend": true })).await?;
        change("aborted", json!({ "abort": { "reason": "made anew" } })).await?;
        let asks = |gates: Value| json!({ "stages": [{ "name": "test", "group": "test-servers", "gates": gates }] });
        let gate = json!({ "before": [{ "name": "on-call", "type": "Approval", "approval": {} }] });
        change("mended", asks(gate)).await?;
        let back = change("mended", asks(json!({}))).await.unwrap_err().to_string();
        ensure!(back.contains("a second person has to agree"), "{back}");
        Ok(())
    })
    .await
    .unwrap();
}

#[test]
fn every_rule_refuses_a_fixture_and_every_transition_rule_lets_one_pass() {
    let fixtures = fixtures().unwrap();
    let mut missing = Vec::new();
    for rule in rules() {
        let has = |expect: Expect| {
            fixtures.iter().any(|fixture| {
                fixture.expect == expect
                    && rule.is_subject_of(fixture)
                    && (fixture.is_transition() || !rule.is_transition)
            })
        };
        if !has(Expect::Reject) {
            missing.push(format!("{}: nothing is refused: {}", rule.kind, rule.message));
        }
        if rule.is_transition && !has(Expect::Accept) {
            missing.push(format!("{}: no successor passes: {}", rule.kind, rule.message));
        }
    }
    assert!(missing.is_empty(), "\n{}", missing.join("\n"));
}
