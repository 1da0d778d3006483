use serde_json::Value;

use super::*;

/// Calls `visit` with kind, path and node of every sub-schema of every CRD.
fn every_node(mut visit: impl FnMut(&str, &str, &Value)) {
    for crd in all_crds() {
        let kind = crd.spec.names.kind.clone();
        let mut crd = serde_json::to_value(crd).unwrap();
        let schema = &mut crd["spec"]["versions"][0]["schema"]["openAPIV3Schema"];
        walk::each(schema, "", &mut |path, node| visit(&kind, path, node));
    }
}

#[test]
fn everything_that_can_grow_has_a_limit() {
    let mut loose = Vec::new();
    every_node(|kind, path, node| {
        let missing = match node["type"].as_str() {
            Some("string") if node["enum"].is_null() => node["maxLength"].is_null(),
            Some("array") => node["maxItems"].is_null(),
            Some("object") if !node["additionalProperties"].is_null() => {
                node["maxProperties"].is_null()
            }
            Some("integer") => node["minimum"].is_null() || node["maximum"].is_null(),
            _ => false,
        };
        if missing {
            loose.push(format!("{kind} {path}"));
        }
    });
    assert_eq!(loose, Vec::<String>::new());
}

#[test]
fn the_schema_uses_nothing_that_the_api_server_ignores_or_refuses() {
    every_node(|kind, path, node| {
        for word in ["nullable", "anyOf", "oneOf", "allOf", "not", "uniqueItems", "$ref"] {
            assert!(node[word].is_null(), "{kind} {path}: {word}");
        }
        let known = ["date-time", "int32", "int64", "double"];
        if let Some(format) = node["format"].as_str() {
            assert!(known.contains(&format), "{kind} {path}: {format}");
        }
    });
}

#[test]
fn every_field_is_described() {
    let mut silent = Vec::new();
    every_node(|kind, path, node| {
        let named = !path.is_empty() && !path.ends_with(']') && !path.ends_with('}');
        if named && node["description"].as_str().is_none_or(str::is_empty) {
            silent.push(format!("{kind} {path}"));
        }
    });
    silent.retain(|field| !field.ends_with(" status"));
    assert_eq!(silent, Vec::<String>::new());
}

#[test]
fn a_field_that_must_not_change_is_always_there() {
    // A transition rule is skipped when its field appears or goes, so it sits on required fields or on
    // fields with a default; `spec.abort` alone may come and go.
    for crd in all_crds() {
        let kind = crd.spec.names.kind.clone();
        let mut crd = serde_json::to_value(crd).unwrap();
        let schema = &mut crd["spec"]["versions"][0]["schema"]["openAPIV3Schema"];
        for rule in rules(&kind).iter().filter(|rule| rule.rule.contains("oldSelf")) {
            if ["", "spec.abort"].contains(&rule.path) {
                continue;
            }
            let (parent, name) = rule.path.rsplit_once('.').unwrap_or(("", rule.path));
            let parent = walk::find(schema, parent).unwrap();
            let required = parent["required"]
                .as_array()
                .is_some_and(|list| list.iter().any(|required| required == name));
            let default = !parent["properties"][name]["default"].is_null();
            assert!(required || default, "{kind} {}", rule.path);
        }
    }
}

#[test]
fn messages_name_the_field_and_are_unique_within_a_kind() {
    for crd in all_crds() {
        let kind = crd.spec.names.kind;
        let rules = rules(&kind);
        for (index, rule) in rules.iter().enumerate() {
            assert!(rule.message.contains(": "), "{kind}: {}", rule.message);
            let again = rules[index + 1..].iter().any(|other| other.message == rule.message);
            assert!(!again, "{kind}: {}", rule.message);
        }
    }
}

#[test]
fn columns_stand_on_fields_that_exist() {
    for crd in all_crds() {
        let kind = crd.spec.names.kind.clone();
        let columns = crd.spec.versions[0].additional_printer_columns.clone().unwrap();
        let mut crd = serde_json::to_value(crd).unwrap();
        let schema = &mut crd["spec"]["versions"][0]["schema"]["openAPIV3Schema"];
        for column in columns {
            let path = column.json_path.trim_start_matches('.');
            let path = path.split('[').next().unwrap_or(path);
            let known = path.starts_with("metadata") || walk::find(schema, path).is_some();
            assert!(known, "{kind} {}", column.json_path);
        }
    }
}
