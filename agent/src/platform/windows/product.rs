//! The product's name, as updates are matched by it.

use super::registry::{Registry, Unreadable, Value, text};

/// First build that is Windows 11; the registry still calls it Windows 10.
const WINDOWS_11: u32 = 22_000;

/// `build.UBR` by the registry. A Windows without a UBR has none behind its point.
///
/// # Errors
/// The build cannot be read, or is not there: what it is, is not known then.
#[cfg_attr(not(windows), allow(dead_code, reason = "asked on Windows only"))]
pub(super) fn build(registry: &impl Registry, path: &str) -> Result<String, Unreadable> {
    let text = |name| Ok(registry.value(path, name)?.and_then(Value::text));
    let build = match text("CurrentBuild")? {
        Some(build) => Some(build),
        None => text("CurrentBuildNumber")?,
    };
    let missing = || Unreadable { path: path.to_owned(), why: "it names no build".to_owned() };
    let ubr = registry.value(path, "UBR")?.and_then(|ubr| ubr.number()).unwrap_or(0);
    Ok(format!("{}.{ubr}", build.ok_or_else(missing)?))
}

/// The product by what the registry says of it: server names without their edition, client names
/// with the feature release, because an update is for one of these.
pub(super) fn product(
    name: &str,
    build: &str,
    installation_type: &str,
    release: Option<&str>,
) -> String {
    let words: Vec<&str> = name.split_whitespace().collect();
    if installation_type == "Client" || name.starts_with("Windows 1") {
        let is_11 = build.parse::<u32>().is_ok_and(|build| build >= WINDOWS_11);
        let version = if is_11 { "11" } else { words.get(1).copied().unwrap_or("10") };
        let release = release.map(|release| format!(" {release}")).unwrap_or_default();
        return format!("Windows {version}{release}");
    }
    let year = words.iter().position(|word| word.parse::<u32>().is_ok());
    match year {
        Some(index) => {
            let r2 = words.get(index + 1).filter(|word| **word == "R2").map_or("", |_| " R2");
            format!("{}{r2}", words[..=index].join(" "))
        }
        // One name covers builds that no update has in common ("Azure Stack HCI").
        None => match release {
            Some(release) => format!("{name} {release}"),
            None => name.to_owned(),
        },
    }
}

/// The feature release by the registry: `DisplayVersion` since 20H2, `ReleaseId` before it (1607 and 1809
/// are what the long-term releases of 2016 and 2019 run). The first Windows 10 has neither.
#[cfg_attr(not(windows), allow(dead_code, reason = "asked on Windows only"))]
pub(super) fn release(registry: &impl Registry, path: &str) -> Option<String> {
    let read = |name| text(registry, path, name);
    read("DisplayVersion")
        .or_else(|| read("ReleaseId"))
        .or_else(|| (read("CurrentBuild").as_deref() == Some("10240")).then(|| "1507".to_owned()))
}

#[cfg(test)]
mod tests {
    use super::{build, product, release};
    use crate::platform::windows::registry::tests::Hive;

    #[test]
    fn a_build_that_cannot_be_read_is_none() {
        let path = r"SOFTWARE\Version";
        let hive = Hive::default().text(path, "CurrentBuild", "20348").number(path, "UBR", 2762);
        assert_eq!(build(&hive, path).unwrap(), "20348.2762");
        assert!(build(&hive.locked(path), path).is_err());
        assert!(build(&Hive::default(), path).is_err());
        let old = Hive::default().text(path, "CurrentBuildNumber", "9600");
        assert_eq!(build(&old, path).unwrap(), "9600.0");
    }

    #[test]
    fn servers_lose_their_edition_and_clients_get_their_release() {
        let server = |name| product(name, "20348", "Server", Some("21H2"));
        assert_eq!(server("Windows Server 2022 Datacenter"), "Windows Server 2022");
        assert_eq!(server("Windows Server 2012 R2 Standard"), "Windows Server 2012 R2");
        let client = |build, release| product("Windows 10 Pro", build, "Client", release);
        assert_eq!(client("26100", Some("24H2")), "Windows 11 24H2");
        assert_eq!(client("19045", Some("22H2")), "Windows 10 22H2");
        assert_eq!(client("17763", Some("1809")), "Windows 10 1809");
        assert_eq!(client("17763", None), "Windows 10");
        let hci = product("Azure Stack HCI", "20349", "Server", Some("22H2"));
        assert_eq!(hci, "Azure Stack HCI 22H2");
    }

    #[test]
    fn a_long_term_release_is_named_by_the_older_value() {
        let path = r"SOFTWARE\Version";
        let ltsc =
            Hive::default().text(path, "ReleaseId", "1809").text(path, "CurrentBuild", "17763");
        assert_eq!(release(&ltsc, path).as_deref(), Some("1809"));
        let newer = ltsc.text(path, "DisplayVersion", "22H2");
        assert_eq!(
            release(&newer, path).as_deref(),
            Some("22H2"),
            "ReleaseId stands still at 2009"
        );
        let first = Hive::default().text(path, "CurrentBuild", "10240");
        assert_eq!(release(&first, path).as_deref(), Some("1507"));
    }
}
