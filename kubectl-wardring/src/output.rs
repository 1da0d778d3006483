//! Objects in the formats that kubectl has.

use anyhow::Result;
use kube::Resource;
use serde::Serialize;
use serde_json::{Value, json};

use crate::args::Format;

/// Prints what a verb did to `object`: `patchrollout.wardring.dev/2026-11 suspended`, or the object.
pub fn done<K>(object: &K, did: &str, format: Option<Format>) -> Result<()>
where
    K: Resource<DynamicType = ()> + Serialize,
{
    match format {
        Some(Format::Json | Format::Yaml) => print!("{}", document(&whole(object)?, format)?),
        Some(Format::Name) => println!("{}", resource_name(object)),
        Some(Format::Wide) | None => println!("{} {did}", resource_name(object)),
    }
    Ok(())
}

/// `resource.group/name`.
pub fn resource_name<K: Resource<DynamicType = ()>>(object: &K) -> String {
    let kind = K::kind(&()).to_lowercase();
    let name = object.meta().name.as_deref().unwrap_or_default();
    format!("{kind}.{}/{name}", K::group(&()))
}

/// Objects as a `List`.
pub fn list<K>(objects: &[K]) -> Result<Value>
where
    K: Resource<DynamicType = ()> + Serialize,
{
    let items = objects.iter().map(whole).collect::<Result<Vec<_>>>()?;
    Ok(json!({ "apiVersion": "v1", "kind": "List", "metadata": {}, "items": items }))
}

/// One object, with the kind that the API server leaves out of list items.
pub fn whole<K>(object: &K) -> Result<Value>
where
    K: Resource<DynamicType = ()> + Serialize,
{
    let mut value = serde_json::to_value(object)?;
    value["apiVersion"] = json!(K::api_version(&()));
    value["kind"] = json!(K::kind(&()));
    // As kubectl does: nobody reads it, and it is longer than the rest.
    if let Some(meta) = value["metadata"].as_object_mut() {
        meta.remove("managedFields");
    }
    Ok(value)
}

/// A document in JSON or YAML, ending in a line break.
pub fn document(value: &Value, format: Option<Format>) -> Result<String> {
    Ok(match format {
        Some(Format::Yaml) => serde_yaml::to_string(value)?,
        _ => serde_json::to_string_pretty(value)? + "\n",
    })
}
