//! Files that Windows renames or removes at its next start (`PendingFileRenameOperations`).
//!
//! The value is a list of pairs: a source, and a destination that is empty for a removal. Names
//! begin with `\??\`, a destination that may be overwritten with `!` before that (Windows
//! documentation, `MoveFileExW`, `MOVEFILE_DELAY_UNTIL_REBOOT`).

/// Folders whose files are Windows' own, or ours.
const OWN: &[&str] = &[r"\windows\", r"\winsxs\", r"\program files\wardring\"];
/// Folders below them where everybody leaves things.
const ANYBODY: &[&str] = &[
    r"\windows\temp\",
    r"\windows\system32\spool\",
    r"\windows\system32\config\systemprofile\",
    r"\windows\serviceprofiles\",
    r"\windows\installer\",
];

/// Whether a rename of a file of Windows is pending that was not pending before.
pub(super) fn counts(pending: &[String], before: &[String]) -> bool {
    let known: Vec<_> = pairs(before).collect();
    pairs(pending).any(|pair| (is_own(&pair.0) || is_own(&pair.1)) && !known.contains(&pair))
}

/// The pairs, without prefixes and in small letters; an odd text at the end is a removal.
fn pairs(texts: &[String]) -> impl Iterator<Item = (String, String)> {
    texts.chunks(2).map(|pair| (plain(&pair[0]), plain(pair.get(1).map_or("", String::as_str))))
}

fn plain(name: &str) -> String {
    let name = name.trim_start_matches(['!', '*']);
    name.strip_prefix(r"\??\").unwrap_or(name).to_lowercase()
}

fn is_own(path: &str) -> bool {
    let lies_in = |folders: &[&str]| folders.iter().any(|folder| path.contains(folder));
    lies_in(OWN) && !lies_in(ANYBODY)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn texts(texts: &[&str]) -> Vec<String> {
        texts.iter().map(|text| (*text).to_owned()).collect()
    }

    #[test]
    fn only_new_entries_of_windows_or_of_the_agent_count() {
        let removal = texts(&[r"\??\C:\Windows\System32\kernel32.dll", ""]);
        assert!(counts(&removal, &[]));
        assert!(!counts(&removal, &removal));
        let shouting = texts(&[r"\??\C:\WINDOWS\SYSTEM32\KERNEL32.DLL", ""]);
        assert!(!counts(&shouting, &removal), "names do not care for case");
        let into = texts(&[r"\??\C:\x\new.dll", r"!\??\C:\Windows\System32\new.dll"]);
        assert!(counts(&into, &removal));
        let agent = texts(&[r"\??\C:\Program Files\Wardring\wardring-agent.exe", ""]);
        assert!(counts(&agent, &[]));
        assert!(counts(&texts(&[r"\??\D:\WinSxS\Temp\x"]), &[]), "an odd end is a removal");
    }

    #[test]
    fn what_browsers_printers_and_scanners_leave_does_not_count() {
        for noise in [
            r"\??\C:\Program Files (x86)\Microsoft\Edge\Application\old_msedge.exe",
            r"\??\C:\Windows\Temp\av-definitions.tmp",
            r"\??\C:\Windows\system32\spool\V4Dirs\x.gpd",
            r"\??\C:\Users\a\AppData\Local\Temp\x",
        ] {
            assert!(!counts(&texts(&[noise, ""]), &[]), "{noise}");
        }
        assert!(!counts(&[], &[]));
    }
}
