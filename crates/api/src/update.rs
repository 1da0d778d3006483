//! Update: one update that devices are offered, as observed.

use kube::CustomResource;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{KbId, MsrcSeverity, UpdateKind};

/// One entry of the catalogue. Name: KB in lower case and the product as a slug.
#[derive(CustomResource, Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[kube(
    group = "wardring.dev",
    version = "v1alpha1",
    kind = "Update",
    plural = "updates",
    shortname = "wupd",
    category = "wardring",
    namespaced,
    derive = "PartialEq"
)]
#[serde(rename_all = "camelCase")]
pub struct UpdateSpec {
    /// KB number.
    pub kb: KbId,
    /// Title.
    #[schemars(length(max = 256))]
    pub title: String,
    /// Product it is for, such as `Windows Server 2022`; a device is matched by equality.
    #[schemars(length(min = 1, max = 128))]
    pub product: String,
    /// Kind.
    pub kind: UpdateKind,
    /// Microsoft's classification, such as `Security Updates`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 64))]
    pub classification: Option<String>,
    /// Microsoft's severity.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub msrc_severity: Option<MsrcSeverity>,
    /// Release month, `2026-11`.
    #[schemars(regex(pattern = r"^[0-9]{4}-(0[1-9]|1[0-2])$"), length(max = 64))]
    pub release: String,
    /// `build.UBR` after a proven install, for quality updates.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 32))]
    pub target_build: Option<String>,
    /// Update identities, `<UpdateID>/<revision>`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16), inner(length(max = 64)))]
    pub identities: Vec<String>,
    /// KB that took its place.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub superseded_by: Option<KbId>,
    /// Whether it can be taken back, as far as known.
    #[serde(default)]
    pub reversible: Reversible,
}

/// Whether an update can be taken back.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum Reversible {
    /// Expected to be removable.
    Expected,
    /// Known not to be.
    No,
    /// Not known.
    #[default]
    Unknown,
}
