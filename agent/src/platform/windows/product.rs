//! The product's name, as updates are matched by it.

/// First build that is Windows 11; the registry still calls it Windows 10.
const WINDOWS_11: u32 = 22_000;

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
        None => name.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::product;

    #[test]
    fn servers_lose_their_edition_and_clients_get_their_release() {
        let server = |name| product(name, "20348", "Server", Some("21H2"));
        assert_eq!(server("Windows Server 2022 Datacenter"), "Windows Server 2022");
        assert_eq!(server("Windows Server 2012 R2 Standard"), "Windows Server 2012 R2");
        let client = |build, release| product("Windows 10 Pro", build, "Client", release);
        assert_eq!(client("26100", Some("24H2")), "Windows 11 24H2");
        assert_eq!(client("19045", Some("22H2")), "Windows 10 22H2");
        assert_eq!(client("17763", None), "Windows 10");
    }
}
