//! The reference pages: every field of every kind, and every reason word.

use std::fmt::Write as _;

use serde_json::Value;
use wardring_api::reasons::Reason;

use super::NOTICE;

/// The page of all reasons.
pub(super) fn reasons() -> String {
    let mut page = format!(
        "<!-- {NOTICE} -->\n# Reasons\n\nEvery word that a condition, an event, a slice line or an \
         explanation may give as its reason.\n\n| reason | meaning |\n|---|---|\n"
    );
    for reason in Reason::ALL {
        // Writing to a String cannot fail, here and below.
        let _ = writeln!(page, "| `{}` | {} |", reason.as_str(), cell(reason.meaning()));
    }
    page
}

/// The page of all kinds.
pub(super) fn api(crds: &[Value]) -> String {
    let mut page = format!(
        "<!-- {NOTICE} -->\n# API reference\n\nGroup `wardring.dev`, version `v1alpha1`; every kind \
         is namespaced. A *time* is an RFC 3339 instant, a *span* is written like `90s`, `30m` or \
         `1d12h`, a *cap* is a number of devices or a percentage. Fields marked with `*` are \
         required. Beyond types and limits the API server enforces the rules listed with each kind; \
         who breaks one reads that sentence.\n\n"
    );
    for crd in crds {
        let kind = text(&crd["spec"]["names"]["kind"]);
        let _ = writeln!(page, "- [{kind}](#{})", kind.to_lowercase());
    }
    for crd in crds {
        kind(&mut page, crd);
    }
    page
}

fn kind(page: &mut String, crd: &Value) {
    let names = &crd["spec"]["names"];
    let schema = &crd["spec"]["versions"][0]["schema"]["openAPIV3Schema"];
    let short: Vec<&str> = list(&names["shortNames"]).iter().map(text).collect();
    let _ = writeln!(page, "\n## {}\n", text(&names["kind"]));
    let _ = writeln!(page, "{}\n", text(&schema["description"]));
    let _ = writeln!(
        page,
        "`kubectl get {}`, in short `{}`.\n",
        text(&names["plural"]),
        short.join("`, `")
    );
    page.push_str("| field | type | limits | meaning |\n|---|---|---|---|\n");
    let mut rules = Vec::new();
    collect(schema, &mut rules);
    for part in ["spec", "status"] {
        let node = &schema["properties"][part];
        collect(node, &mut rules);
        fields(page, &mut rules, part, node);
    }
    if !rules.is_empty() {
        page.push_str("\nRules:\n\n");
        for rule in rules {
            let _ = writeln!(page, "- {rule}");
        }
    }
}

/// One row per field below `node`.
fn fields(page: &mut String, rules: &mut Vec<String>, path: &str, node: &Value) {
    let Some(properties) = node["properties"].as_object() else { return };
    for (name, field) in properties {
        let path = format!("{path}.{name}");
        let required = list(&node["required"]).iter().any(|required| required == name);
        let (kind, inner) = kind_of(field);
        let _ = writeln!(
            page,
            "| `{path}`{} | {kind} | {} | {} |",
            if required { "*" } else { "" },
            cell(&limits(field)),
            cell(text(&field["description"])),
        );
        if kind == "selector" || kind == "list of condition" {
            continue;
        }
        // Value types bring their rules along at every use; the page explains them once, at its top.
        if !["span", "cap", "KB number"].contains(&kind.trim_start_matches("list of ")) {
            collect(field, rules);
            if inner != field {
                collect(inner, rules);
            }
        } else {
            collect_own(field, rules);
        }
        let path = if inner == field { path } else { format!("{path}[]") };
        fields(page, rules, &path, inner);
    }
}

/// The type of a field in words, and the schema whose properties are to be listed below it.
fn kind_of(field: &Value) -> (String, &Value) {
    if field["type"] == "array" {
        let item = &field["items"];
        let (kind, _) = kind_of(item);
        return (format!("list of {kind}"), item);
    }
    let is_selector = field["properties"]["matchLabels"].is_object();
    let is_condition = field["properties"]["lastTransitionTime"].is_object();
    let kind = match text(&field["type"]) {
        _ if field["x-kubernetes-int-or-string"] == true => "cap".to_owned(),
        "object" if is_selector => "selector".to_owned(),
        "object" if is_condition => "condition".to_owned(),
        "object" if field["additionalProperties"].is_object() => "map of text".to_owned(),
        "string" if !list(&field["enum"]).is_empty() => {
            let words: Vec<String> =
                list(&field["enum"]).iter().map(|word| format!("`{}`", text(word))).collect();
            words.join(", ")
        }
        "string" if field["format"] == "date-time" => "time".to_owned(),
        "string" if text(&field["pattern"]).contains("ms)?") => "span".to_owned(),
        "string" if text(&field["pattern"]).starts_with("^KB") => "KB number".to_owned(),
        "string" => "text".to_owned(),
        other => other.to_owned(),
    };
    (kind, field)
}

fn limits(field: &Value) -> String {
    let mut limits = Vec::new();
    let mut bound =
        |low: &str, high: &str, unit: &str| match (number(&field[low]), number(&field[high])) {
            (Some(low), Some(high)) if low == high => limits.push(format!("{low}{unit}")),
            (Some(low), Some(high)) => limits.push(format!("{low} to {high}{unit}")),
            (None, Some(high)) => limits.push(format!("at most {high}{unit}")),
            (Some(low), None) => limits.push(format!("at least {low}{unit}")),
            (None, None) => {}
        };
    if field["x-kubernetes-int-or-string"] != true {
        bound("minimum", "maximum", "");
    }
    bound("minItems", "maxItems", " items");
    bound("minProperties", "maxProperties", " entries");
    let is_time = field["format"] == "date-time";
    if field["x-kubernetes-int-or-string"] != true && !is_time {
        bound("minLength", "maxLength", " characters");
    }
    if !field["default"].is_null() && !field["default"].is_object() {
        limits.push(format!("default `{}`", text_or_json(&field["default"])));
    }
    limits.join(", ")
}

/// The messages of the rules on `node` and, for value types in lists, nothing below.
fn collect(node: &Value, rules: &mut Vec<String>) {
    for rule in list(&node["x-kubernetes-validations"]) {
        let message = text(&rule["message"]).to_owned();
        if !rules.contains(&message) {
            rules.push(message);
        }
    }
}

/// As [`collect`], without the rule that a value type brings along: those name no field.
fn collect_own(node: &Value, rules: &mut Vec<String>) {
    let mut found = Vec::new();
    collect(node, &mut found);
    rules.extend(found.into_iter().filter(|message| message.contains(": ")));
}

fn list(value: &Value) -> &[Value] {
    value.as_array().map(Vec::as_slice).unwrap_or_default()
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap_or_default()
}

fn text_or_json(value: &Value) -> String {
    value.as_str().map_or_else(|| value.to_string(), str::to_owned)
}

/// A bound as a whole number: schemas store bounds as floats.
fn number(value: &Value) -> Option<u64> {
    value.as_f64().map(|number| number as u64)
}

/// `text` on one line of a table.
fn cell(text: &str) -> String {
    text.replace('\n', " ").replace('|', "\\|")
}
