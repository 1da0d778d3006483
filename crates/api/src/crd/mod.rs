//! The CustomResourceDefinitions: what the derive macros make of the types, completed with limits,
//! list kinds, rules and columns.
//!
//! The derive knows the shapes; everything the API server shall enforce beyond them is added here, in
//! tables that can be read from top to bottom. The schema must be at least as strict as the Rust types:
//! one stored object that does not decode would blind every watch of its kind.

mod bounds;
mod columns;
mod rules;
mod walk;

use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::CustomResourceExt;
use serde_json::Value;

pub use rules::{Rule, rules};

use crate::{
    Device, DeviceGroup, EmergencyStop, EnrollmentRequest, EnrollmentToken, GateProvider,
    MaintenanceWindow, Notifier, PatchApproval, PatchJob, PatchLedger, PatchRollback, PatchRollout,
    PatchRolloutSlice, Update, UpdateHold,
};

/// Every CRD of the group, complete, in the order of the reference page.
pub fn all_crds() -> Vec<CustomResourceDefinition> {
    [
        PatchRollout::crd(),
        PatchRolloutSlice::crd(),
        PatchJob::crd(),
        PatchLedger::crd(),
        Device::crd(),
        DeviceGroup::crd(),
        Update::crd(),
        UpdateHold::crd(),
        MaintenanceWindow::crd(),
        EmergencyStop::crd(),
        Notifier::crd(),
        GateProvider::crd(),
        PatchRollback::crd(),
        PatchApproval::crd(),
        EnrollmentToken::crd(),
        EnrollmentRequest::crd(),
    ]
    .into_iter()
    .map(complete)
    .collect()
}

fn complete(crd: CustomResourceDefinition) -> CustomResourceDefinition {
    let kind = crd.spec.names.kind.clone();
    let mut crd = serde_json::to_value(crd).expect("a derived CRD is plain JSON");
    let version = &mut crd["spec"]["versions"][0];
    version["additionalPrinterColumns"] = columns::columns(&kind);
    let schema = &mut version["schema"]["openAPIV3Schema"];
    schema["description"] = schema["properties"]["spec"]["description"].clone();
    bounds::tighten(schema);
    for rule in rules(&kind) {
        attach(schema, &rule);
    }
    serde_json::from_value(crd).expect("completing keeps the shape of a CRD")
}

/// Adds `rule` to the schema at its path.
fn attach(schema: &mut Value, rule: &Rule) {
    let node = walk::find(schema, rule.path)
        .unwrap_or_else(|| panic!("the rule at `{}` has a field to sit on", rule.path));
    let list = &mut node["x-kubernetes-validations"];
    if list.is_null() {
        *list = Value::Array(Vec::new());
    }
    let list = list.as_array_mut().expect("validations are a list");
    let mut written = serde_json::json!({ "rule": rule.rule, "message": rule.message });
    // A rule that also holds at creation reads what was there before as something that may be missing.
    if rule.rule.contains("oldSelf.hasValue()") {
        written["optionalOldSelf"] = true.into();
    }
    list.push(written);
}

#[cfg(test)]
mod tests;
