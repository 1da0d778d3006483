//! What DISM prints. It is asked in English and with bars between the columns; whatever is not a
//! line of that table is passed over, so that a headline, a progress bar or an advertisement in any
//! language cannot be mistaken for a package.

use std::collections::BTreeMap;

use super::package::{Identity, State};

/// The packages of `/Get-Packages /Format:Table /English`.
pub(super) fn packages(output: &str) -> BTreeMap<Identity, State> {
    output.lines().filter_map(line).collect()
}

fn line(line: &str) -> Option<(Identity, State)> {
    let mut cells = line.split('|').map(str::trim);
    let identity = Identity::parse(cells.next()?)?;
    Some((identity, state(cells.next()?)))
}

fn state(word: &str) -> State {
    match word {
        "Installed" => State::Installed,
        "Install Pending" => State::InstallPending,
        "Uninstall Pending" => State::UninstallPending,
        "Superseded" => State::Superseded,
        "Staged" | "Not Present" | "Removed" => State::Absent,
        // In another language, or new: nobody here may call it gone.
        _ => State::Other,
    }
}

/// The last words of a run that failed, for people: the first line that names an error, or the last.
pub(super) fn complaint(output: &str) -> String {
    let lines = || output.lines().map(str::trim).filter(|line| !line.is_empty());
    let error = lines().find(|line| line.to_ascii_lowercase().contains("error"));
    error.or_else(|| lines().next_back()).unwrap_or_default().chars().take(200).collect()
}

#[cfg(fuzzing)]
pub(crate) fn read_anything(output: &str) {
    for (identity, state) in packages(output) {
        let printed = format!("{} | {}", identity.as_str(), "Installed");
        assert_eq!(packages(&printed).into_keys().next().as_ref(), Some(&identity), "{state:?}");
        let _ = (identity.is_update(), identity.is_servicing_stack(), identity.rollup_build());
    }
    assert!(complaint(output).chars().count() <= 200);
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::package::tests::id;
    use super::*;

    const PRINTED: &str = "\r
Deployment Image Servicing and Management tool\r
Version: 10.0.20348.681\r
\r
Image Version: 10.0.20348.2700\r
\r
Packages listing:\r
\r
------------------------------------------------------------ | ----------------- | ------------ | ---------------\r
Package Identity                                             | State             | Release Type | Install Time   \r
------------------------------------------------------------ | ----------------- | ------------ | ---------------\r
Package_for_RollupFix~31bf3856ad364e35~amd64~~20348.2762.1.12 | Uninstall Pending | Security Update | 10/9/2024 1:00 AM\r
Package_for_ServicingStack_2755~31bf3856ad364e35~amd64~~20348.2755.1.1 | Installed | Update | 10/9/2024 1:00 AM\r
Package_for_KB1~31bf3856ad364e35~amd64~~10.0.1.1 | Installiert | Update | 09.10.2024\r
\r
The operation completed successfully.\r
";

    #[test]
    fn the_table_is_read_and_nothing_else_is() {
        let found = packages(PRINTED);
        assert_eq!(found.len(), 3);
        let state = |name, version| found[&id(name, version)];
        assert_eq!(state("Package_for_RollupFix", "20348.2762.1.12"), State::UninstallPending);
        assert_eq!(state("Package_for_ServicingStack_2755", "20348.2755.1.1"), State::Installed);
        assert_eq!(state("Package_for_KB1", "10.0.1.1"), State::Other, "another language");
    }

    #[test]
    fn every_state_that_may_be_called_gone_is_known_by_name() {
        let one = |word: &str| {
            let line = format!("{} | {word} | x", id("a", "1.0.0.0").as_str());
            packages(&line).into_values().next()
        };
        assert_eq!(one("Install Pending"), Some(State::InstallPending));
        assert_eq!(one("Superseded"), Some(State::Superseded));
        assert_eq!(one("Not Present"), Some(State::Absent));
        assert_eq!(one("Staged"), Some(State::Absent));
        assert_eq!(one("not present"), Some(State::Other));
    }

    #[test]
    fn a_failure_is_told_in_its_own_words() {
        let output =
            "Version: 1\r\n\r\nError: 0x800f0825\r\n\r\nPackage cannot be uninstalled.\r\n";
        assert_eq!(complaint(output), "Error: 0x800f0825");
        assert_eq!(complaint("a\nb\n\n"), "b");
        assert_eq!(complaint(""), "");
    }

    proptest! {
        #[test]
        fn any_garbage_is_read_to_its_end(text in "(\\PC|[|~\r\n]){0,200}") {
            for identity in packages(&text).keys() {
                prop_assert!(text.contains(identity.as_str()));
            }
            let _ = complaint(&text);
        }
    }
}
