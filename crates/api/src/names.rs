//! Labels, annotations, finalizers, field managers and well-known object names, in one place.

/// Label on slices, jobs and holds: uid of the rollout they belong to. Used instead of
/// ownerReferences, because foreground deletion would destroy records before the finalizer runs.
pub const ROLLOUT_UID_LABEL: &str = "wardring.dev/rollout-uid";
/// Label on slices and jobs: name of the rollout (for people and selectors).
pub const ROLLOUT_LABEL: &str = "wardring.dev/rollout";
/// Label on slices and jobs: name of the stage.
pub const STAGE_LABEL: &str = "wardring.dev/stage";
/// Label the signer puts on a Device: name of the EnrollmentToken that admitted it.
pub const TOKEN_LABEL: &str = "wardring.dev/enrollment-token";

/// Annotation a person stamps on a PatchRollout to retry failed devices once; any new value counts.
pub const RETRY_ANNOTATION: &str = "wardring.dev/retry-requested-at";
/// Annotation a person stamps on a Device to let go of its job (a lost machine); any new value counts.
pub const RELEASE_ANNOTATION: &str = "wardring.dev/release-requested-at";
/// Annotation a person puts on the PatchLedger to confirm, after a restore from backup, that granting
/// may resume: its value is the sequence the ledger must jump above.
pub const RESTORE_CONFIRMED_ANNOTATION: &str = "wardring.dev/restore-confirmed-sequence";
/// Annotation on a PatchJob that was made again because somebody deleted it; it counts as permitted.
pub const REPAIRED_ANNOTATION: &str = "wardring.dev/repaired";

/// Finalizer on PatchRollout, so that a deletion recalls jobs that have not started.
pub const FINALIZER: &str = "wardring.dev/recall";

/// Field manager of the controller.
pub const CONTROLLER_MANAGER: &str = "wardring-controller";
/// Field manager of the condition Quarantined of a damaged Device: the controller applies Online by itself,
/// and one manager's next apply takes away what it does not name.
pub const QUARANTINE_MANAGER: &str = "wardring-controller-quarantine";
/// Field manager of the gateways.
pub const GATEWAY_MANAGER: &str = "wardring-gateway";
/// Field manager of `kubectl wardring` (not `kubectl*`, whose fields Flux strips).
pub const PLUGIN_MANAGER: &str = "wardring";

/// Annotation on a Secret with credentials for a GateProvider: the host (and port, if it is not the usual
/// one) that they are for. They are sent nowhere else, whatever the provider says.
pub const GATE_HOST_ANNOTATION: &str = "wardring.dev/gate-host";

/// Annotation on a Secret that a Notifier names: the host (and port, if it is not the usual one) of the sink
/// that it is for. It is used for no other, whatever the Notifier says.
pub const NOTIFY_HOST_ANNOTATION: &str = "wardring.dev/notify-host";

/// `createdBy` of a silence in Alertmanager that keeps nothing from our own gates.
pub const SILENCE_AUTHOR: &str = "wardring";

/// Name of the one PatchLedger in a namespace.
pub const LEDGER_NAME: &str = "ledger";
/// Name of the Lease that elects the controller.
pub const LEASE_NAME: &str = "wardring-controller";
/// Secret in the system namespace that holds the certificate authority.
pub const CA_SECRET: &str = "wardring-ca";
/// Secret in the system namespace with the gateways' serving certificate and key.
pub const GATEWAY_TLS_SECRET: &str = "wardring-gateway-tls";
/// ConfigMap in the system namespace that publishes the root certificates (`roots.pem`) and the hash
/// of the newest (`rootSha256`).
pub const ROOTS_CONFIGMAP: &str = "wardring-roots";

/// Longest device name: device names are label values and job names.
pub const MAX_NAME: usize = 63;
