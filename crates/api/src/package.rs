//! Packages by address: updates that no update service offers.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::KbId;

/// What an address of a package looks like: no user, no query and no fragment, because all of them
/// could carry a secret that everybody who may read a rollout would read.
pub const PACKAGE_URL: &str =
    "^https?://[A-Za-z0-9]([A-Za-z0-9.-]*[A-Za-z0-9])?(:[0-9]{1,5})?/[A-Za-z0-9._~%/+-]*[.]msu$";

/// One update by the address of its package (`.msu`), such as an out-of-band fix of Microsoft's.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct UpdatePackage {
    /// KB number.
    pub kb: KbId,
    /// Product it is for, such as `Windows Server 2022`; a device is matched by equality.
    #[schemars(length(min = 1, max = 128))]
    pub product: String,
    /// Where devices fetch it: `https://HOST/PATH.msu`, without user, query and fragment. No
    /// redirection is followed.
    #[schemars(regex(pattern = PACKAGE_URL), length(max = 512))]
    pub url: String,
    /// SHA-256 of the whole file, 64 hexadecimal digits in lower case.
    #[schemars(regex(pattern = r"^[0-9a-f]{64}$"), length(max = 64))]
    pub sha256: String,
    /// `build.UBR` after a proven install, such as `20348.2762`. Without it the installed state of
    /// the package is the proof.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(regex(pattern = r"^[0-9]{4,6}[.][0-9]{1,6}$"), length(max = 32))]
    pub target_build: Option<String>,
    /// Whether an address that begins with `http://` is taken, too: then everybody on the way sees
    /// what is fetched. What is installed is decided by `sha256` and Microsoft's signature alone.
    #[serde(default)]
    pub allow_http: bool,
}

/// Where the package of a resolved update is, and what it must be.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct PackageSource {
    /// Address.
    #[schemars(length(max = 512))]
    pub url: String,
    /// SHA-256 of the whole file, hexadecimal.
    #[schemars(length(max = 64))]
    pub sha256: String,
}
