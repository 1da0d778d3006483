//! Limits and list kinds that the derived schemas lack.

use serde_json::{Value, json};

use super::walk;
use crate::conditions::MAX_MESSAGE;

/// Largest whole number that JSON readers of every language keep exact.
const MAX_EXACT: u64 = (1 << 53) - 1;

/// Instants as our types read them: the API server's own `date-time` check lets more through, such
/// as any sign before the fraction.
const INSTANT: &str = r"^(19|20|21)[0-9]{2}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}([.][0-9]{1,9})?(Z|[+-](0[0-9]|1[0-4]):[0-5][0-9])$";

/// Lists that are matched by a key, so that a rule can tell old items from new ones.
const KEYED: &[(&str, &[&str])] = &[
    ("spec.stages", &["name"]),
    ("spec.health.probes", &["name"]),
    ("spec.updates.packages", &["kb", "product"]),
    ("spec.stages[].gates.before", &["name"]),
    ("spec.stages[].gates.during", &["name"]),
    ("spec.stages[].gates.after", &["name"]),
    ("spec.antiAffinity", &["key"]),
    ("spec.sinks", &["name"]),
    ("status.sinks", &["name"]),
    ("status.stages", &["name"]),
    ("status.conditions", &["type"]),
];

/// Lists of people in which neither order nor repetition means anything.
const SETS: &[&str] = &[
    "spec.updates.kbs",
    "spec.updates.select.kinds",
    "spec.updates.select.classifications",
    "spec.updates.select.products",
    "spec.updates.select.msrcSeverities",
    "spec.updates.select.exclude",
    "spec.health.services",
    "spec.health.presets",
    "spec.healthPresets",
    "spec.autonomousRollback.triggers",
    "spec.roles",
    "spec.kbs",
    "spec.devices",
    "spec.allows",
    "spec.events",
    "spec.windows",
    "spec.stages[].windows",
    "spec.stages[].gates.before[].deviceHealth.signals",
    "spec.stages[].gates.during[].deviceHealth.signals",
    "spec.stages[].gates.after[].deviceHealth.signals",
    "spec.authors",
    "spec.allowedNetworks",
    "spec.namespaces",
];

/// Completes `schema` in place.
pub(super) fn tighten(schema: &mut Value) {
    walk::each(schema, "", &mut |path, node| {
        let Some(fields) = node.as_object_mut() else { return };
        // Our writers leave a field out; a null would only be one more way to say the same.
        fields.remove("nullable");
        if fields.contains_key("x-kubernetes-int-or-string") {
            fields.remove("anyOf");
        }
        match fields.get("format").and_then(Value::as_str) {
            Some("uint32") => {
                fields.remove("format");
                at_least(fields, 0);
                at_most(fields, u64::from(u32::MAX));
            }
            Some("int64") => {
                at_least(fields, 0);
                at_most(fields, MAX_EXACT);
            }
            Some("date-time") => {
                fields.insert("maxLength".into(), json!(40));
                fields.insert("pattern".into(), json!(INSTANT));
            }
            _ => {}
        }
        if path == "spec.labels" {
            // The derive has no word for the length of a map's values; label values have at most 63.
            fields["additionalProperties"]["maxLength"] = json!(63);
        }
        if is_selector(fields) {
            let described = fields.get("description").cloned();
            *node = selector();
            node["description"] = described.unwrap_or_else(|| json!("Devices by label."));
        } else if path == "status.conditions" {
            node["items"] = condition();
        }
        for (_, keys) in KEYED.iter().filter(|(list, _)| *list == path) {
            node["x-kubernetes-list-type"] = json!("map");
            node["x-kubernetes-list-map-keys"] = json!(keys);
        }
        // A kind may have a word by the name of another kind's list.
        if SETS.contains(&path) && node["type"] == "array" {
            node["x-kubernetes-list-type"] = json!("set");
        }
    });
}

fn at_least(fields: &mut serde_json::Map<String, Value>, floor: u64) {
    let given = fields.get("minimum").and_then(Value::as_f64);
    if given.is_none_or(|given| given < floor as f64) {
        fields.insert("minimum".into(), json!(floor));
    }
}

fn at_most(fields: &mut serde_json::Map<String, Value>, ceiling: u64) {
    let given = fields.get("maximum").and_then(Value::as_f64);
    if given.is_none_or(|given| given > ceiling as f64) {
        fields.insert("maximum".into(), json!(ceiling));
    }
}

fn is_selector(fields: &serde_json::Map<String, Value>) -> bool {
    fields.get("properties").is_some_and(|properties| {
        properties.get("matchLabels").is_some() && properties.get("matchExpressions").is_some()
    })
}

/// Kubernetes' label selector, with limits: unbounded, comparing two would exceed the rules' budget.
fn selector() -> Value {
    json!({
        "type": "object",
        "properties": {
            "matchLabels": {
                "description": "Labels with the values they must have.",
                "type": "object",
                "maxProperties": 16,
                "additionalProperties": { "type": "string", "maxLength": 63 },
            },
            "matchExpressions": {
                "description": "Requirements; all of them must hold.",
                "type": "array",
                "maxItems": 16,
                "items": {
                    "type": "object",
                    "required": ["key", "operator"],
                    "properties": {
                        "key": {
                            "description": "Label.",
                            "type": "string",
                            "minLength": 1,
                            "maxLength": 317,
                        },
                        "operator": {
                            "description": "How the label's value is compared.",
                            "type": "string",
                            "enum": ["In", "NotIn", "Exists", "DoesNotExist"],
                        },
                        "values": {
                            "description": "Values for In and NotIn.",
                            "type": "array",
                            "maxItems": 32,
                            "items": { "type": "string", "maxLength": 63 },
                        },
                    },
                    "x-kubernetes-validations": [{
                        "rule": "(self.operator in ['In', 'NotIn']) == (has(self.values) && size(self.values) > 0)",
                        "message": "matchExpressions[].values: operators In and NotIn need at least one value, Exists and DoesNotExist take none",
                    }],
                },
            },
        },
    })
}

/// Kubernetes' condition, with limits.
fn condition() -> Value {
    json!({
        "description": "One condition.",
        "type": "object",
        "required": ["type", "status", "lastTransitionTime", "reason", "message"],
        "properties": {
            "type": { "description": "Name.", "type": "string", "minLength": 1, "maxLength": 64 },
            "status": {
                "description": "Whether it holds.",
                "type": "string",
                "enum": ["True", "False", "Unknown"],
            },
            "observedGeneration": {
                "description": "Generation it speaks of.",
                "type": "integer",
                "format": "int64",
            },
            "lastTransitionTime": {
                "description": "When the status last changed.",
                "type": "string",
                "format": "date-time",
            },
            "reason": { "description": "Reason word.", "type": "string", "minLength": 1, "maxLength": 64 },
            "message": {
                "description": "The sentence that explains it.",
                "type": "string",
                "maxLength": MAX_MESSAGE,
            },
        },
    })
}
