//! Whether the cluster's CRDs know every field this version needs: an API server drops fields that
//! its schema does not name, silently, and a dropped field would be a forgotten grant.

use anyhow::{Context, bail};
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::{
    CustomResourceDefinition, JSONSchemaProps,
};
use kube::{Api, Client, ResourceExt};

/// Missing fields named in the sentence; more would not help.
const NAMED: usize = 3;

/// Compares the CRDs in the cluster with ours.
pub async fn verify(client: &Client) -> anyhow::Result<()> {
    let api: Api<CustomResourceDefinition> = Api::all(client.clone());
    for wanted in wardring_api::crd::all_crds() {
        let name = wanted.name_any();
        let found = match api.get_opt(&name).await {
            Ok(found) => found,
            Err(kube::Error::Api(status)) if status.code == 401 => bail!(
                "the API server does not accept our credentials: renew the token or certificate in the kubeconfig"
            ),
            Err(kube::Error::Api(status)) if status.code == 403 => bail!(
                "not allowed to read CustomResourceDefinition {name}: install the chart's roles for this service account"
            ),
            Err(error) => {
                return Err(error).context("failed to read the CustomResourceDefinitions");
            }
        };
        let Some(found) = found else {
            bail!(
                "CustomResourceDefinition {name} is missing: apply the chart's crds/ folder first"
            );
        };
        let missing = missing_fields(&wanted, &found);
        if !missing.is_empty() {
            let fields = missing.iter().take(NAMED).cloned().collect::<Vec<_>>().join(", ");
            bail!(
                "CustomResourceDefinition {name} is older than this controller ({} fields are missing, such as {fields}): upgrade the CRDs first",
                missing.len()
            );
        }
    }
    Ok(())
}

fn schema(crd: &CustomResourceDefinition) -> Option<&JSONSchemaProps> {
    let version = crd.spec.versions.iter().find(|v| v.name == wardring_api::VERSION && v.served)?;
    version.schema.as_ref()?.open_api_v3_schema.as_ref()
}

/// Paths of fields that `wanted` has and `found` has not.
fn missing_fields(
    wanted: &CustomResourceDefinition,
    found: &CustomResourceDefinition,
) -> Vec<String> {
    let mut missing = Vec::new();
    match (schema(wanted), schema(found)) {
        (Some(wanted), Some(found)) => compare(wanted, found, "", &mut missing),
        (Some(_), None) => missing.push(wardring_api::VERSION.to_owned()),
        (None, _) => {}
    }
    missing
}

fn compare(wanted: &JSONSchemaProps, found: &JSONSchemaProps, at: &str, missing: &mut Vec<String>) {
    for (name, wanted) in wanted.properties.iter().flatten() {
        let path = if at.is_empty() { name.clone() } else { format!("{at}.{name}") };
        match found.properties.as_ref().and_then(|known| known.get(name)) {
            Some(found) => compare(wanted, found, &path, missing),
            None => missing.push(path),
        }
    }
    use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::JSONSchemaPropsOrArray::Schema;
    if let (Some(Schema(wanted)), Some(Schema(found))) = (&wanted.items, &found.items) {
        compare(wanted, found, &format!("{at}[]"), missing);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_crd_that_lacks_a_nested_field_is_named() {
        for wanted in wardring_api::crd::all_crds() {
            assert!(missing_fields(&wanted, &wanted).is_empty());
        }
        let wanted = wardring_api::crd::all_crds()
            .into_iter()
            .find(|crd| crd.name_any().starts_with("patchledgers"))
            .unwrap();
        let mut old = wanted.clone();
        let version = &mut old.spec.versions[0];
        let schema = version.schema.as_mut().unwrap().open_api_v3_schema.as_mut().unwrap();
        let status = schema.properties.as_mut().unwrap().get_mut("status").unwrap();
        status.properties.as_mut().unwrap().remove("batch");
        assert_eq!(missing_fields(&wanted, &old), ["status.batch"]);
        old.spec.versions.clear();
        assert_eq!(missing_fields(&wanted, &old), ["v1alpha1"]);
    }
}
