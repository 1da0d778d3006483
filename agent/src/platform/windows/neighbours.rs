//! What this device is for, and who else patches it. Read from the configuration and reported with
//! the setting to change; no setting of anybody is ever changed here.

use super::registry::{Registry, Unreadable, Value};

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

/// Whether a ConfigMgr client is here, or may be.
#[cfg(windows)]
pub(super) fn has_configmgr(registry: &impl Registry) -> bool {
    service(registry, CONFIGMGR).unwrap_or(true)
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
    let asked =
        [deadlines(registry), by_mdm(registry), by_configmgr(registry), by_cluster(registry)];
    let mut others = Vec::new();
    for found in asked {
        match found {
            Ok(other) => others.extend(other),
            // A locked door is no empty room: somebody may patch here.
            Err(error) => {
                let sentence = format!("unknown: let SYSTEM read {} in the registry", error.path);
                others.push(sentence.chars().take(128).collect());
            }
        }
    }
    others.dedup();
    others
}

fn deadlines<R: Registry>(registry: &R) -> Result<Option<String>, Unreadable> {
    let by_one = value_of(registry, POLICY, "SetComplianceDeadline")? == Some(1);
    let by_each = value_of(registry, POLICY, "ConfigureDeadlineForQualityUpdates")?.is_some();
    let sentence =
        "Windows Update for Business deadlines: unset policy WindowsUpdate SetComplianceDeadline";
    Ok((by_one || by_each).then(|| sentence.to_owned()))
}

fn by_mdm<R: Registry>(registry: &R) -> Result<Option<String>, Unreadable> {
    // 5 switches automatic updates off; without the policy other ones of the same page still drive
    // Windows to install.
    let installs = match value_of(registry, MDM, "AllowAutoUpdate")? {
        Some(5) => false,
        Some(_) => true,
        None => {
            value_of(registry, MDM, "ConfigureDeadlineForQualityUpdates")?.is_some()
                || value_of(registry, MDM, "DeferQualityUpdatesPeriodInDays")?.is_some()
        }
    };
    let sentence = "Intune or another MDM: set Update/AllowAutoUpdate to 5 for it";
    Ok(installs.then(|| sentence.to_owned()))
}

fn by_configmgr<R: Registry>(registry: &R) -> Result<Option<String>, Unreadable> {
    let sentence =
        "ConfigMgr client: set client setting `Enable software updates on clients` to No";
    Ok(service(registry, CONFIGMGR)?.then(|| sentence.to_owned()))
}

/// The cluster updates itself: its role is a resource of this type.
fn by_cluster<R: Registry>(registry: &R) -> Result<Option<String>, Unreadable> {
    for resource in registry.keys(CLUSTER_RESOURCES)? {
        let kind = registry.value(&format!(r"{CLUSTER_RESOURCES}\{resource}"), "Type")?;
        let kind = kind.and_then(Value::text);
        if kind.is_some_and(|kind| kind.eq_ignore_ascii_case("ClusterAwareUpdatingResource")) {
            let role = "Cluster-Aware Updating: Disable-CauClusterRole, or remove the role";
            return Ok(Some(role.to_owned()));
        }
    }
    Ok(None)
}

fn value_of<R: Registry>(registry: &R, key: &str, name: &str) -> Result<Option<u64>, Unreadable> {
    Ok(registry.value(key, name)?.and_then(|value| value.number()))
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
    fn whoever_cannot_be_looked_for_may_patch_here() {
        for path in [POLICY, MDM, CLUSTER_RESOURCES, &format!(r"{SERVICES}\CcmExec")] {
            let found = others(&Hive::default().locked(path));
            let [only] = &found[..] else { panic!("{path}: {found:?}") };
            assert!(only.starts_with("unknown: ") && only.contains(path), "{only}");
            assert!(only.len() <= 128, "{only}");
        }
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
