//! Which Windows the agent is made for.

/// Windows 10 1607 and Windows Server 2016: what is older lacks calls that the agent makes.
pub const OLDEST_BUILD: u32 = 14_393;
/// What Windows calls the processors that there is a build for.
const PROCESSOR: &str = "AMD64";

/// Why the agent does not belong on this Windows.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Unfit {
    /// It is too old.
    #[error(
        "this Windows has build {build}; the agent needs {OLDEST_BUILD} (Windows 10 1607, Windows Server \
         2016) or newer"
    )]
    Old {
        /// Its build.
        build: u32,
    },
    /// It runs on other processors.
    #[error(
        "this Windows is for {processor} processors, and there is no agent for them: the one for x64 would \
         run in an emulation, where nobody has shown that it can patch"
    )]
    Processor {
        /// What Windows calls them.
        processor: String,
    },
}

/// Judges a Windows by its build and by the processors it is for, where they are known.
///
/// # Errors
/// The agent does not belong there.
pub fn judge(build: Option<u32>, processor: Option<&str>) -> Result<(), Unfit> {
    match (build, processor) {
        (_, Some(processor)) if !processor.eq_ignore_ascii_case(PROCESSOR) => {
            Err(Unfit::Processor { processor: processor.to_owned() })
        }
        (Some(build), _) if build < OLDEST_BUILD => Err(Unfit::Old { build }),
        // What Windows does not tell is for the self-test to say.
        _ => Ok(()),
    }
}

/// Judges this Windows. A program that runs in an emulation is told the emulated processor, so the
/// registry is asked for what Windows itself runs on.
///
/// # Errors
/// The agent does not belong here.
#[cfg(windows)]
pub(super) fn check() -> Result<(), Unfit> {
    use windows_registry::LOCAL_MACHINE;
    let read = |key: &str, name| LOCAL_MACHINE.open(key).and_then(|key| key.get_string(name)).ok();
    let build = read(r"SOFTWARE\Microsoft\Windows NT\CurrentVersion", "CurrentBuildNumber");
    let processor = read(
        r"SYSTEM\CurrentControlSet\Control\Session Manager\Environment",
        "PROCESSOR_ARCHITECTURE",
    );
    judge(build.and_then(|build| build.parse().ok()), processor.as_deref())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_windows_that_the_agent_was_made_for_gets_it() {
        for (build, processor, expected) in [
            (Some(14_393), Some("AMD64"), None),
            (Some(26_100), Some("amd64"), None),
            (None, None, None),
            (Some(10_240), Some("AMD64"), Some("build 10240")),
            (Some(9_600), None, Some("build 9600")),
            (Some(26_100), Some("ARM64"), Some("for ARM64 processors")),
            (None, Some("x86"), Some("for x86 processors")),
        ] {
            let judged = judge(build, processor);
            match expected {
                None => assert_eq!(judged, Ok(()), "{build:?} {processor:?}"),
                Some(why) => assert!(judged.unwrap_err().to_string().contains(why), "{why}"),
            }
        }
    }
}
