//! Packages as the component based servicing of Windows lists them.

use std::collections::{BTreeMap, BTreeSet};

use jiff::Timestamp;
use wardring_seal::{UpdateKind, UpdateTarget};

use super::super::registry::{Registry, Unreadable, Value};

const PACKAGES: &str =
    r"SOFTWARE\Microsoft\Windows\CurrentVersion\Component Based Servicing\Packages";
/// Seconds between 1601, where Windows begins to count, and 1970.
const EPOCH_S: i64 = 11_644_473_600;

/// Identity of a package: `name~publisher~architecture~language~version`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Identity(String);

impl Identity {
    /// Reads an identity. It goes into a command line, so nothing passes that is not one.
    pub fn parse(text: &str) -> Option<Identity> {
        let parts: Vec<&str> = text.split('~').collect();
        let [name, publisher, architecture, language, version] = parts[..] else { return None };
        let is_word = |text: &str| {
            text.chars().all(|char| char.is_ascii_alphanumeric() || "._-+".contains(char))
        };
        let is_version = version.split('.').count() == 4
            && version.split('.').all(|number| number.parse::<u32>().is_ok());
        let is_publisher =
            publisher.len() == 16 && publisher.chars().all(|char| char.is_ascii_hexdigit());
        let is_one = !name.is_empty()
            && text.len() <= 512
            && [name, architecture, language].into_iter().all(is_word)
            && is_publisher
            && is_version;
        is_one.then(|| Identity(text.to_owned()))
    }

    /// The identity as Windows writes it.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    fn name(&self) -> &str {
        self.0.split('~').next().unwrap_or_default()
    }

    fn version(&self) -> &str {
        self.0.rsplit('~').next().unwrap_or_default()
    }

    /// Whether it is an update. Features, languages and editions of Windows are packages, too, and
    /// none of them is ever removed here, whatever a list says.
    pub fn is_update(&self) -> bool {
        self.name().starts_with("Package_for_")
    }

    /// Whether it is a servicing stack, which stays for good ("Servicing stack updates",
    /// windows-itpro-docs). Since 2021 it comes along with the cumulative update.
    pub fn is_servicing_stack(&self) -> bool {
        self.name().starts_with("Package_for_ServicingStack")
    }

    /// `build.UBR` of a cumulative update, which stands at the front of its version:
    /// `Package_for_RollupFix~…~~20348.2762.1.12`.
    pub fn rollup_build(&self) -> Option<String> {
        if !self.name().eq_ignore_ascii_case("Package_for_RollupFix") {
            return None;
        }
        let mut numbers = self.version().split('.');
        Some(format!("{}.{}", numbers.next()?, numbers.next()?))
    }

    /// Whether its name says that it is this update's.
    fn is_of_update(&self, update: &UpdateTarget) -> bool {
        let build = update.target_build.as_deref().filter(|_| update.kind == UpdateKind::Quality);
        match build {
            Some(build) => self.rollup_build().as_deref() == Some(build),
            None => self.is_of_kb(&update.kb),
        }
    }

    /// Whether its name holds this KB: `Package_for_KB5034441`.
    fn is_of_kb(&self, kb: &str) -> bool {
        let rest = self.name().strip_prefix("Package_for_").unwrap_or_default();
        rest.split('_').next().is_some_and(|word| word.eq_ignore_ascii_case(kb))
    }
}

/// State of a package.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum State {
    /// Installed.
    Installed,
    /// Installed, for good.
    Permanent,
    /// A restart finishes its installation.
    InstallPending,
    /// A restart finishes its removal.
    UninstallPending,
    /// A newer one took its place.
    Superseded,
    /// Known to Windows, and not in force.
    Absent,
    /// Something this version knows no name for.
    Other,
}

impl State {
    /// The state by the number in the registry. Numbers: the component based servicing log
    /// (CBS.log) writes them beside their names; 0x70 and 0x80 are the ones this stands on.
    fn of(number: u64) -> State {
        match number {
            0x00 | 0x10 | 0x20 | 0x30 | 0x40 => State::Absent,
            0x05 => State::UninstallPending,
            0x50 => State::Superseded,
            0x60 => State::InstallPending,
            0x70 => State::Installed,
            0x80 => State::Permanent,
            _ => State::Other,
        }
    }
}

/// A package.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Package {
    /// State.
    pub state: State,
    /// When it was installed.
    pub installed_at: Option<Timestamp>,
}

/// Packages by identity.
pub(crate) type Packages = BTreeMap<Identity, Package>;

/// The packages that Windows shows: those that DISM lists. The thousands below them come and go
/// with one of these.
pub(crate) fn installed(registry: &impl Registry) -> Result<Packages, Unreadable> {
    let mut packages = Packages::new();
    for name in registry.keys(PACKAGES)? {
        let Some(identity) = Identity::parse(&name) else { continue };
        let path = format!(r"{PACKAGES}\{name}");
        let number = |name: &str| {
            registry.value(&path, name).map(|value| value.as_ref().and_then(Value::number))
        };
        // 2 is hidden; one without the value is looked at rather than overlooked.
        if number("Visibility")? == Some(2) {
            continue;
        }
        let Some(state) = number("CurrentState")? else { continue };
        let installed_at = match (number("InstallTimeHigh")?, number("InstallTimeLow")?) {
            (Some(high), Some(low)) => file_time(high << 32 | low),
            _ => None,
        };
        packages.insert(identity, Package { state: State::of(state), installed_at });
    }
    Ok(packages)
}

/// A FILETIME, counted in tenths of microseconds.
fn file_time(ticks: u64) -> Option<Timestamp> {
    let seconds = i64::try_from(ticks / 10_000_000).ok()?.checked_sub(EPOCH_S)?;
    Timestamp::from_second(seconds).ok()
}

/// Names of the packages that are in force, or will be with the next restart. What an installation
/// brought is what is in here after it and was not before.
pub(crate) fn in_force(packages: &Packages) -> BTreeSet<String> {
    let is_in_force = |package: &Package| {
        matches!(package.state, State::Installed | State::Permanent | State::InstallPending)
    };
    let found = packages.iter().filter(|(_, package)| is_in_force(package));
    found.map(|(identity, _)| identity.as_str().to_owned()).collect()
}

/// The packages of an update by their names, where nobody saw it come: a cumulative update by its
/// build, anything else by its KB. None when no name tells.
pub(crate) fn of_update(update: &UpdateTarget, packages: &Packages) -> Vec<Identity> {
    packages.keys().filter(|identity| identity.is_of_update(update)).cloned().collect()
}

/// Whether a package of this name is the update's.
pub(in crate::platform::windows) fn is_of(update: &UpdateTarget, name: &str) -> bool {
    Identity::parse(name).is_some_and(|identity| identity.is_of_update(update))
}

#[cfg(test)]
pub(super) mod tests {
    use wardring_seal::{UpdateKind, UpdateTarget};

    use super::super::super::registry::tests::Hive;
    use super::*;

    pub fn id(name: &str, version: &str) -> Identity {
        Identity::parse(&format!("{name}~31bf3856ad364e35~amd64~~{version}")).unwrap()
    }

    pub fn package(state: State) -> Package {
        Package { state, installed_at: None }
    }

    pub fn update(kind: UpdateKind) -> UpdateTarget {
        UpdateTarget {
            kb: "KB5044281".to_owned(),
            product: String::new(),
            kind,
            target_build: Some("20348.2762".to_owned()),
            identities: Vec::new(),
            package: None,
        }
    }

    fn hive(packages: &[(&Identity, u64, u64)]) -> Hive {
        packages.iter().fold(Hive::default(), |hive, (identity, state, visibility)| {
            let path = format!(r"{PACKAGES}\{}", identity.as_str());
            hive.number(&path, "CurrentState", *state).number(&path, "Visibility", *visibility)
        })
    }

    #[test]
    fn an_identity_is_nothing_but_an_identity() {
        assert!(Identity::parse("Package_for_KB1~31bf3856ad364e35~amd64~~10.0.1.2").is_some());
        assert!(Identity::parse("A-B_c.D~31bf3856ad364e35~x86~de-DE~10.0.1.2").is_some());
        for text in [
            "",
            "Package_for_KB1",
            "Package_for_KB1~31bf3856ad364e35~amd64~~10.0.1",
            "Package_for_KB1~nothex3856ad364e~amd64~~10.0.1.2",
            "Package for~31bf3856ad364e35~amd64~~10.0.1.2",
            r#"X" /Add-Package~31bf3856ad364e35~amd64~~10.0.1.2"#,
            "X~31bf3856ad364e35~amd64~~10.0.1.2~",
            "X~31bf3856ad364e35~amd64~~10.0.1.x",
        ] {
            assert_eq!(Identity::parse(text), None, "{text}");
        }
    }

    #[test]
    fn what_an_installation_brought_is_the_difference_of_what_is_in_force() {
        let (old, new) = (
            id("package_for_rollupfix", "20348.2700.1.8"),
            id("package_for_rollupfix", "20348.2762.1.12"),
        );
        let stack = id("package_for_servicingstack_2755", "20348.2755.1.1");
        let before = installed(&hive(&[(&old, 0x70, 1), (&new, 0x40, 1)])).unwrap();
        let after = hive(&[(&old, 0x50, 1), (&new, 0x60, 1), (&stack, 0x80, 1)]);
        let (before, after) = (in_force(&before), in_force(&installed(&after).unwrap()));
        let brought: Vec<&String> = after.difference(&before).collect();
        assert_eq!(brought, [new.as_str(), stack.as_str()]);
    }

    #[test]
    fn hidden_packages_and_strange_keys_are_not_listed() {
        let (shown, hidden) =
            (id("Package_for_KB1", "1.0.0.0"), id("Package_1_for_KB1", "1.0.0.0"));
        let found = hive(&[(&shown, 0x70, 1), (&hidden, 0x70, 2)]).key(&format!(r"{PACKAGES}\x"));
        let found = installed(&found).unwrap();
        // The registry of a test knows small letters only.
        let names: Vec<String> = found.keys().map(|id| id.as_str().to_owned()).collect();
        assert_eq!(names, [shown.as_str().to_lowercase()]);
        assert!(installed(&Hive::default().locked(PACKAGES)).is_err());
    }

    #[test]
    fn states_and_times_are_read() {
        let path = format!(r"{PACKAGES}\{}", id("a", "1.0.0.0").as_str());
        for (number, state) in [
            (0x40, State::Absent),
            (5, State::UninstallPending),
            (0x50, State::Superseded),
            (0x60, State::InstallPending),
            (0x70, State::Installed),
            (0x80, State::Permanent),
            (0x65, State::Other),
        ] {
            let hive = Hive::default()
                .number(&path, "CurrentState", number)
                .number(&path, "InstallTimeHigh", 0x01DB_0000)
                .number(&path, "InstallTimeLow", 0);
            let found = installed(&hive).unwrap();
            assert_eq!(found.values().next().unwrap().state, state, "{number:#x}");
            let at = found.values().next().unwrap().installed_at.unwrap();
            assert_eq!(at.strftime("%Y-%m").to_string(), "2024-09");
        }
    }

    #[test]
    fn an_update_is_found_by_its_build_or_by_its_kb() {
        let rollup = id("Package_for_RollupFix", "20348.2762.1.12");
        let single = id("Package_for_KB5034441", "10.0.1.1");
        let packages: Packages = [rollup.clone(), single.clone()]
            .into_iter()
            .map(|identity| (identity, package(State::Installed)))
            .collect();
        let update = |kb: &str, kind, build: Option<&str>| UpdateTarget {
            kb: kb.to_owned(),
            product: String::new(),
            kind,
            target_build: build.map(str::to_owned),
            identities: Vec::new(),
            package: None,
        };
        let quality = update("KB5044281", UpdateKind::Quality, Some("20348.2762"));
        assert_eq!(of_update(&quality, &packages), [rollup]);
        let other = update("kb5034441", UpdateKind::Other, None);
        assert_eq!(of_update(&other, &packages), [single]);
        assert!(of_update(&update("KB503444", UpdateKind::Other, None), &packages).is_empty());
        let next = update("KB5044281", UpdateKind::Quality, Some("20348.2849"));
        assert!(of_update(&next, &packages).is_empty());
    }
}
