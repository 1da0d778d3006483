//! The signer's reads and writes. Each write is a compare-and-swap, or is safe to repeat.

use std::sync::Arc;

use futures::{StreamExt, TryStreamExt, stream};
use kube::ResourceExt;
use kube::api::{Api, DeleteParams, Patch, PatchParams, PostParams, Preconditions};
use serde_json::json;
use wardring_api::names::CONTROLLER_MANAGER;
use wardring_api::reasons::Reason;
use wardring_api::{
    Device, DeviceSpec, EnrollmentRequest, EnrollmentRequestStatus, EnrollmentToken,
};

use super::decide::{Bind, Issue, Refused};
use super::signer::{CONCURRENCY, Signer, SignerError};
use super::triage::BatchKey;

/// Whether the Device names the enrolment now.
pub(super) enum Bound {
    /// It did before.
    Already,
    /// It does since this write.
    Newly(Box<Device>),
    /// Somebody was faster; decide again.
    No,
    /// It cannot.
    Never(Refused),
}

impl Signer {
    pub(super) async fn bind(
        &self,
        request: &EnrollmentRequest,
        device: Option<&Device>,
        issue: &Issue,
    ) -> Result<Bound, SignerError> {
        let namespace = request.namespace().unwrap_or_default();
        let devices: Api<Device> = Api::namespaced(self.client.clone(), &namespace);
        let written = match (&issue.bind, device) {
            (Bind::Already, _) => return Ok(Bound::Already),
            (Bind::Create { labels, mode }, _) => {
                let mut device = Device::new(
                    &issue.device,
                    DeviceSpec {
                        mode: *mode,
                        enrolment_id: Some(issue.enrolment_id.clone()),
                        ..DeviceSpec::default()
                    },
                );
                device.metadata.labels = Some(labels.clone());
                devices.create(&post_params(), &device).await
            }
            (Bind::Set, device) => {
                // With the version that was decided on: who changed the Device since is heard first.
                let version = device.and_then(ResourceExt::resource_version);
                let patch = json!({
                    "metadata": { "resourceVersion": version },
                    "spec": { "enrolmentId": issue.enrolment_id },
                });
                devices.patch(&issue.device, &patch_params(), &Patch::Merge(patch)).await
            }
        };
        match written {
            Ok(device) => Ok(Bound::Newly(Box::new(device))),
            Err(error) if is_race(&error) => Ok(Bound::No),
            // The token's labels, most likely; no later try would be answered differently.
            Err(kube::Error::Api(status)) if status.is_invalid() => {
                let message = format!(
                    "the API server does not accept a Device as the token describes it; check the token's labels ({})",
                    status.message
                );
                Ok(Bound::Never(Refused::new(Reason::TokenRefused, message)))
            }
            Err(source) => Err(SignerError::Api { action: "bind the device", source }),
        }
    }

    pub(super) async fn read_token(
        &self,
        key: &BatchKey,
    ) -> Result<Option<EnrollmentToken>, SignerError> {
        let Some(name) = &key.token else { return Ok(None) };
        let tokens: Api<EnrollmentToken> = Api::namespaced(self.client.clone(), &key.namespace);
        get(&tokens, name, "read the enrolment token").await
    }

    pub(super) async fn read_devices(
        &self,
        namespace: &str,
        requests: &[Arc<EnrollmentRequest>],
    ) -> Result<Vec<Option<Device>>, SignerError> {
        let devices: Api<Device> = Api::namespaced(self.client.clone(), namespace);
        let devices = &devices;
        // Owned items: a stream over borrowed ones could not be spawned.
        stream::iter(requests.to_vec())
            .map(|request| async move {
                get(devices, &request.spec.device, "read the device").await
            })
            .buffered(CONCURRENCY)
            .try_collect()
            .await
    }

    pub(super) async fn write_count(&self, token: &EnrollmentToken) -> Result<(), SignerError> {
        let namespace = token.namespace().unwrap_or_default();
        let tokens: Api<EnrollmentToken> = Api::namespaced(self.client.clone(), &namespace);
        let patch = json!({
            "metadata": { "resourceVersion": token.resource_version() },
            "status": token.status,
        });
        tokens
            .patch_status(&token.name_any(), &patch_params(), &Patch::Merge(patch))
            .await
            .map(|_| ())
            .map_err(|source| SignerError::Api { action: "count the uses of a token", source })
    }

    /// Writes the answer; `false` if another signer was faster or the request is gone.
    pub(super) async fn write_answer(
        &self,
        request: &EnrollmentRequest,
        status: &EnrollmentRequestStatus,
    ) -> Result<bool, SignerError> {
        let namespace = request.namespace().unwrap_or_default();
        let requests: Api<EnrollmentRequest> = Api::namespaced(self.client.clone(), &namespace);
        let patch = json!({
            "metadata": { "resourceVersion": request.resource_version() },
            "status": status,
        });
        let name = request.name_any();
        match requests.patch_status(&name, &patch_params(), &Patch::Merge(patch)).await {
            Ok(_) => Ok(true),
            // Answered by another signer, or gone: the watch will tell.
            Err(error) if is_race(&error) => Ok(false),
            Err(source) => Err(SignerError::Api { action: "answer the request", source }),
        }
    }

    /// Removes a request; one that is gone, or another by now, is as good.
    pub(super) async fn remove(&self, request: &EnrollmentRequest) -> Result<(), SignerError> {
        let namespace = request.namespace().unwrap_or_default();
        let api: Api<EnrollmentRequest> = Api::namespaced(self.client.clone(), &namespace);
        let preconditions = Preconditions { uid: request.uid(), resource_version: None };
        let params = DeleteParams { preconditions: Some(preconditions), ..DeleteParams::default() };
        match api.delete(&request.name_any(), &params).await {
            Ok(_) => Ok(()),
            Err(error) if is_race(&error) => Ok(()),
            Err(source) => Err(SignerError::Api { action: "remove a request", source }),
        }
    }
}

/// An object by a name that a gateway chose: one that cannot be a name has no object.
async fn get<K>(api: &Api<K>, name: &str, action: &'static str) -> Result<Option<K>, SignerError>
where
    K: kube::Resource + Clone + std::fmt::Debug + serde::de::DeserializeOwned,
{
    // The name becomes part of a path; anything but plain characters could ask for something else.
    let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'.';
    if name.is_empty() || !name.bytes().all(is_plain) || name.starts_with('.') {
        return Ok(None);
    }
    api.get_opt(name).await.map_err(|source| SignerError::Api { action, source })
}

/// Whether a write lost to another one: the object changed, appeared or went away in between.
fn is_race(error: &kube::Error) -> bool {
    matches!(error, kube::Error::Api(status)
        if status.is_conflict() || status.is_already_exists() || status.is_not_found())
}

fn post_params() -> PostParams {
    PostParams { field_manager: Some(CONTROLLER_MANAGER.to_owned()), ..PostParams::default() }
}

fn patch_params() -> PatchParams {
    PatchParams { field_manager: Some(CONTROLLER_MANAGER.to_owned()), ..PatchParams::default() }
}
