//! What this device is for, and who else patches it. Read from the configuration and reported with
//! the setting to change; no setting of anybody is ever changed here.

use super::registry::{Registry, Unreadable, Value, number, text};

const PRODUCT_OPTIONS: &str = r"SYSTEM\CurrentControlSet\Control\ProductOptions";
const SERVICES: &str = r"SYSTEM\CurrentControlSet\Services";
const TERMINAL_SERVER: &str = r"SYSTEM\CurrentControlSet\Control\Terminal Server";
const POLICY: &str = r"SOFTWARE\Policies\Microsoft\Windows\WindowsUpdate";
const MDM: &str = r"SOFTWARE\Microsoft\PolicyManager\current\device\Update";
const CLUSTER_RESOURCES: &str = r"Cluster\Resources";

/// The service of the ConfigMgr client.
const CONFIGMGR: &str = "CcmExec";

const DISABLED: u64 = 4;

/// Word for a device that cannot tell whether it has a role.
const UNKNOWN: &str = "Unknown";

/// Whether a service is there and may start.
fn service(registry: &impl Registry, name: &str) -> Result<bool, Unreadable> {
    let start = registry.value(&format!(r"{SERVICES}\{name}"), "Start")?;
    Ok(start.and_then(|start| start.number()).is_some_and(|start| start != DISABLED))
}

/// The same where nothing depends on it that would harm anybody.
fn has_service(registry: &impl Registry, name: &str) -> bool {
    service(registry, name).unwrap_or(false)
}

/// Whether a ConfigMgr client is here.
#[cfg(windows)]
pub(super) fn has_configmgr(registry: &impl Registry) -> bool {
    has_service(registry, CONFIGMGR)
}

/// Roles, in the API's words.
///
/// `ProductType` is `LanmanNT` on domain controllers alone, `TSAppCompat` is 1 on session hosts
/// alone (Windows documentation, "Determining the installed product" and `Win32_TerminalServiceSetting`);
/// the others are told by their service. The cluster service is there, but disabled, on a server
/// that is in no cluster.
///
/// What cannot be read is no "no": the device then says `Unknown` beside what it knows, and is held, because
/// it may be a domain controller.
pub(super) fn roles(registry: &impl Registry) -> Vec<String> {
    let is_controller = || {
        let kind = registry.value(PRODUCT_OPTIONS, "ProductType")?.and_then(Value::text);
        Ok(kind.is_some_and(|kind| kind.eq_ignore_ascii_case("LanmanNT")))
    };
    let is_session_host = || {
        let mode = registry.value(TERMINAL_SERVER, "TSAppCompat")?;
        let shares = mode.and_then(|mode| mode.number()) == Some(1);
        Ok(shares && service(registry, "TermService")?)
    };
    let asked = [
        ("DomainController", is_controller()),
        ("ClusterNode", service(registry, "ClusSvc")),
        ("HyperVHost", service(registry, "vmms")),
        ("RdsHost", is_session_host()),
    ];
    let mut roles = Vec::new();
    let mut is_unknown = false;
    for (role, answer) in asked {
        match answer {
            Ok(true) => roles.push(role.to_owned()),
            Ok(false) => {}
            Err(error) => {
                tracing::warn!(role, %error, "whether the device has this role is unknown");
                is_unknown = true;
            }
        }
    }
    roles.extend(is_unknown.then(|| UNKNOWN.to_owned()));
    roles
}

/// Others that patch this device, each with the setting to change, at most 128 bytes each: that is
/// what a device's status takes. Automatic Updates are told with the policies of Windows Update.
///
/// Policies: "Manage additional Windows Update settings" and the Update CSP (windows-itpro-docs).
pub(super) fn others(registry: &impl Registry) -> Vec<String> {
    let mut others = Vec::new();
    let policy = |name: &str| number(registry, POLICY, name);
    let has_deadline = policy("SetComplianceDeadline") == Some(1)
        || policy("ConfigureDeadlineForQualityUpdates").is_some();
    if has_deadline {
        others.push(
            r"Windows Update for Business deadlines: unset policy WindowsUpdate SetComplianceDeadline"
                .to_owned(),
        );
    }
    let mdm = |name: &str| number(registry, MDM, name);
    // 5 switches automatic updates off; without the policy other ones of the same page still drive
    // Windows to install.
    let installs = match mdm("AllowAutoUpdate") {
        Some(5) => false,
        Some(_) => true,
        None => ["ConfigureDeadlineForQualityUpdates", "DeferQualityUpdatesPeriodInDays"]
            .into_iter()
            .any(|name| mdm(name).is_some()),
    };
    if installs {
        others.push("Intune or another MDM: set Update/AllowAutoUpdate to 5 for it".to_owned());
    }
    if has_service(registry, CONFIGMGR) {
        let client =
            "ConfigMgr client: set client setting `Enable software updates on clients` to No";
        others.push(client.to_owned());
    }
    if has_cluster_updating(registry) {
        let role = "Cluster-Aware Updating: Disable-CauClusterRole, or remove the role".to_owned();
        others.push(role);
    }
    others
}

/// Whether the cluster updates itself: its role is a resource of this type.
fn has_cluster_updating(registry: &impl Registry) -> bool {
    let resources = registry.keys(CLUSTER_RESOURCES).unwrap_or_default();
    resources.iter().any(|resource| {
        text(registry, &format!(r"{CLUSTER_RESOURCES}\{resource}"), "Type")
            .is_some_and(|kind| kind.eq_ignore_ascii_case("ClusterAwareUpdatingResource"))
    })
}

#[cfg(test)]
mod tests {
    use super::super::registry::tests::Hive;
    use super::*;

    fn service(hive: Hive, name: &str, start: u64) -> Hive {
        hive.number(&format!(r"{SERVICES}\{name}"), "Start", start)
    }

    #[test]
    fn roles_are_told_by_what_is_configured_not_by_names() {
        assert_eq!(roles(&Hive::default()), [""; 0]);
        let server = Hive::default().text(PRODUCT_OPTIONS, "ProductType", "ServerNT");
        assert_eq!(roles(&service(server, "ClusSvc", DISABLED)), [""; 0]);
        let busy = Hive::default().text(PRODUCT_OPTIONS, "ProductType", "LanmanNT").number(
            TERMINAL_SERVER,
            "TSAppCompat",
            1,
        );
        let busy = service(service(service(busy, "ClusSvc", 2), "vmms", 2), "TermService", 3);
        assert_eq!(roles(&busy), ["DomainController", "ClusterNode", "HyperVHost", "RdsHost"]);
    }

    #[test]
    fn a_role_that_cannot_be_read_is_unknown_and_not_none() {
        let told = service(Hive::default(), "vmms", 2);
        for path in
            [PRODUCT_OPTIONS.to_owned(), TERMINAL_SERVER.to_owned(), format!(r"{SERVICES}\ClusSvc")]
        {
            let locked = told.clone().locked(&path);
            assert_eq!(roles(&locked), ["HyperVHost", "Unknown"], "{path}");
        }
        let all = told.locked(PRODUCT_OPTIONS).locked(TERMINAL_SERVER);
        assert_eq!(roles(&all), ["HyperVHost", "Unknown"], "said once");
    }

    #[test]
    fn everybody_else_who_patches_is_named_with_the_setting_to_change() {
        assert_eq!(others(&Hive::default()), [""; 0]);
        let crowd = service(Hive::default(), "CcmExec", 2)
            .number(POLICY, "SetComplianceDeadline", 1)
            .number(MDM, "DeferQualityUpdatesPeriodInDays", 3)
            .text(&format!(r"{CLUSTER_RESOURCES}\4711"), "Type", "ClusterAwareUpdatingResource");
        let found = others(&crowd);
        let words =
            ["SetComplianceDeadline", "AllowAutoUpdate", "client setting", "CauClusterRole"];
        for (text, word) in found.iter().zip(words) {
            assert!(text.contains(word) && text.len() <= 128, "{text}");
        }
        assert_eq!(found.len(), 4);
    }

    #[test]
    fn what_was_switched_off_is_not_named() {
        let off = service(Hive::default(), "CcmExec", DISABLED)
            .number(MDM, "AllowAutoUpdate", 5)
            .number(MDM, "DeferQualityUpdatesPeriodInDays", 3)
            .text(&format!(r"{CLUSTER_RESOURCES}\1"), "Type", "Network Name");
        assert_eq!(others(&off), [""; 0]);
    }
}
