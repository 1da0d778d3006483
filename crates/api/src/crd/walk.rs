//! Ways through an OpenAPI schema.

use serde_json::Value;

/// The sub-schema at a dotted path such as `spec.stages[].group`; the empty path is the root.
pub(super) fn find<'a>(schema: &'a mut Value, path: &str) -> Option<&'a mut Value> {
    let mut node = schema;
    for step in path.split('.').filter(|step| !step.is_empty()) {
        let (name, item) = match step.strip_suffix("[]") {
            Some(name) => (name, true),
            None => (step, false),
        };
        node = node.get_mut("properties")?.get_mut(name)?;
        if item {
            node = node.get_mut("items")?;
        }
    }
    Some(node)
}

/// Calls `visit` with every sub-schema and its path, parents first.
pub(super) fn each(schema: &mut Value, path: &str, visit: &mut impl FnMut(&str, &mut Value)) {
    visit(path, schema);
    if let Some(properties) = schema.get_mut("properties").and_then(Value::as_object_mut) {
        for (name, child) in properties {
            let path = if path.is_empty() { name.clone() } else { format!("{path}.{name}") };
            each(child, &path, visit);
        }
    }
    if let Some(items) = schema.get_mut("items") {
        each(items, &format!("{path}[]"), visit);
    }
    if let Some(values) = schema.get_mut("additionalProperties").filter(|value| value.is_object()) {
        each(values, &format!("{path}{{}}"), visit);
    }
}
