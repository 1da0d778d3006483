//! Where this device gets its updates by policy, and whether Windows installs them on its own.
//!
//! The values are those of "Manage additional Windows Update settings" (windows-itpro-docs,
//! `windows/deployment/update/waas-wu-settings.md`). They are read and reported, never changed.

use wardring_seal::UpdateSource;

/// The policies of Windows Update, below `HKEY_LOCAL_MACHINE`.
pub const POLICY: &str = r"SOFTWARE\Policies\Microsoft\Windows\WindowsUpdate";
/// Those of Automatic Updates.
pub const AUTOMATIC: &str = r"SOFTWARE\Policies\Microsoft\Windows\WindowsUpdate\AU";

/// What the policies say; a value that is not set is `None`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Policy {
    /// WUServer.
    pub server: Option<String>,
    /// UseWUServer: without it the address above means nothing.
    pub use_server: Option<u32>,
    /// NoAutoUpdate.
    pub no_automatic: Option<u32>,
    /// AUOptions.
    pub options: Option<u32>,
    /// DoNotConnectToWindowsUpdateInternetLocations.
    pub no_internet: Option<u32>,
    /// DisableWindowsUpdateAccess.
    pub no_access: Option<u32>,
}

impl Policy {
    fn wsus(&self) -> Option<&str> {
        self.server.as_deref().filter(|server| self.use_server == Some(1) && !server.is_empty())
    }

    /// Name of a source, for reports; at most 64 bytes.
    pub fn name(&self, source: UpdateSource) -> String {
        let name = match (source, self.wsus()) {
            (UpdateSource::Default | UpdateSource::Wsus, Some(server)) => {
                format!("WSUS {}", without_credentials(server))
            }
            (UpdateSource::Wsus, None) => "WSUS".to_owned(),
            (UpdateSource::Default | UpdateSource::WindowsUpdate, _) => "WindowsUpdate".to_owned(),
            (UpdateSource::MicrosoftUpdate, _) => "MicrosoftUpdate".to_owned(),
        };
        name.chars().filter(|char| char.is_ascii_graphic() || *char == ' ').take(64).collect()
    }

    /// The policy that keeps this device from Microsoft's own update services, if one does.
    pub fn keeps_off_the_internet(&self) -> Option<&'static str> {
        match (self.no_internet, self.no_access) {
            (Some(1), _) => Some("DoNotConnectToWindowsUpdateInternetLocations"),
            (_, Some(1)) => Some("DisableWindowsUpdateAccess"),
            _ => None,
        }
    }

    /// Whether Windows installs updates on its own, and the setting that would end it.
    pub fn automatic_updates(&self) -> Option<String> {
        if self.no_automatic == Some(1) {
            return None;
        }
        let how = match self.options {
            // 2 asks before it downloads, 3 before it installs: a person has the last word.
            Some(2 | 3) => return None,
            Some(options) => format!("AUOptions {options}"),
            None => "no policy".to_owned(),
        };
        // A report takes 128 bytes of this.
        Some(format!(r"Automatic Updates ({how}): set policy WindowsUpdate\AU NoAutoUpdate to 1"))
    }
}

/// An address without what may stand before its `@`: it goes into statuses and logs.
fn without_credentials(server: &str) -> String {
    match (server.split_once("://"), server.rsplit_once('@')) {
        (Some((scheme, _)), Some((_, host))) => format!("{scheme}://{host}"),
        _ => server.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wsus() -> Policy {
        Policy {
            server: Some("http://wsus.corp:8530".to_owned()),
            use_server: Some(1),
            ..Policy::default()
        }
    }

    #[test]
    fn the_default_source_is_the_wsus_of_the_policy_when_it_is_in_use() {
        assert_eq!(wsus().name(UpdateSource::Default), "WSUS http://wsus.corp:8530");
        let unused = Policy { use_server: None, ..wsus() };
        assert_eq!(unused.name(UpdateSource::Default), "WindowsUpdate");
        assert_eq!(wsus().name(UpdateSource::MicrosoftUpdate), "MicrosoftUpdate");
    }

    #[test]
    fn no_password_and_nothing_long_leaves_the_device() {
        let evil = Policy { server: Some("https://me:secret@wsus".to_owned()), ..wsus() };
        assert_eq!(evil.name(UpdateSource::Default), "WSUS https://wsus");
        let long = Policy { server: Some(format!("http://{}\n", "x".repeat(99))), ..wsus() };
        assert_eq!(long.name(UpdateSource::Default).len(), 64);
    }

    #[test]
    fn automatic_updates_are_named_with_the_setting_that_ends_them() {
        let with = |no_automatic, options| Policy { no_automatic, options, ..wsus() };
        assert_eq!(with(Some(1), Some(4)).automatic_updates(), None);
        assert_eq!(with(None, Some(3)).automatic_updates(), None);
        let named = with(Some(0), Some(4)).automatic_updates().unwrap();
        assert!(named.contains("AUOptions 4") && named.contains("NoAutoUpdate"), "{named}");
        assert!(with(None, None).automatic_updates().unwrap().len() <= 128);
    }
}
