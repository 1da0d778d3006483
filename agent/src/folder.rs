//! The data folder: who may use it. Whoever can write there can take the device's key and make the
//! agent believe that it did what it did not.

use std::io;
use std::path::{Path, PathBuf};

/// Why a data folder is not to be trusted.
#[derive(Debug, thiserror::Error)]
pub enum FolderError {
    /// It cannot be made or looked at.
    #[error(
        "failed to use the data folder {folder}; run the agent as an administrator or as a service, or, \
         if you do, delete the folder, which somebody else made"
    )]
    Access {
        /// Which.
        folder: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// It belongs to somebody else.
    #[error(
        "the data folder {folder} belongs to {owner}, who could have put anything into it; delete the \
         folder and install the agent again, or name another folder with --data-dir"
    )]
    Owner {
        /// Which.
        folder: PathBuf,
        /// Whose.
        owner: String,
    },
    /// Others may use it.
    #[error(
        "the data folder {folder} is open to {} beside SYSTEM and the administrators; if nothing in it \
         was changed, close it with: {}", .accounts.join(", "), closing(.folder, .accounts)
    )]
    Open {
        /// Which.
        folder: PathBuf,
        /// To whom.
        accounts: Vec<String>,
    },
    /// It has no access list that could be read.
    #[error(
        "the data folder {folder} has no access list ({found}), so everybody may use it; delete the \
         folder and install the agent again"
    )]
    Unlisted {
        /// Which.
        folder: PathBuf,
        /// What was found.
        found: String,
    },
    /// It is somewhere else.
    #[error("the data folder {folder} is a link to another place; name that place with --data-dir")]
    Link {
        /// Which.
        folder: PathBuf,
    },
}

/// What an administrator types to close a folder to everybody else. Inherited entries go with
/// `/inheritance:r`, the others one by one.
fn closing(folder: &Path, accounts: &[String]) -> String {
    let folder = folder.display();
    let others = accounts.iter().map(|account| format!(" *{account}")).collect::<String>();
    format!(
        "icacls \"{folder}\" /inheritance:r /grant:r *S-1-5-18:(OI)(CI)F *S-1-5-32-544:(OI)(CI)F \
         /remove:g{others}"
    )
}

/// Short forms of security identifiers in Windows' notation of descriptors (Microsoft Learn, "SID
/// Strings"): those that are trusted, and those that folders of Windows grant access to.
const SHORT: [(&str, &str); 10] = [
    ("SY", SYSTEM),
    ("BA", ADMINISTRATORS),
    ("CO", CREATOR),
    ("OW", OWNER_RIGHTS),
    ("WD", "S-1-1-0"),
    ("AU", "S-1-5-11"),
    ("IU", "S-1-5-4"),
    ("BU", "S-1-5-32-545"),
    ("BG", "S-1-5-32-546"),
    ("PU", "S-1-5-32-547"),
];
const SYSTEM: &str = "S-1-5-18";
const ADMINISTRATORS: &str = "S-1-5-32-544";
/// Stands for whoever makes a file in the folder; only those who may enter can.
const CREATOR: &str = "S-1-3-0";
/// Stands for the owner, who is looked at apart.
const OWNER_RIGHTS: &str = "S-1-3-4";

fn identifier(text: &str) -> &str {
    SHORT.iter().find(|(short, _)| *short == text).map_or(text, |(_, long)| long)
}

/// Judges owner and access list in Windows' own notation (Microsoft Learn, "Security Descriptor
/// String Format"). `own` is the account that the agent runs as: it is no stranger to itself.
///
/// # Errors
/// The folder is not to be trusted.
pub fn judge(folder: &Path, descriptor: &str, own: &str) -> Result<(), FolderError> {
    let folder = folder.to_owned();
    let unlisted = |folder| FolderError::Unlisted { folder, found: descriptor.to_owned() };
    // An identifier holds neither `D:` nor `G:`.
    let Some((head, list)) = descriptor.split_once("D:") else { return Err(unlisted(folder)) };
    let owner = head.split("G:").next().unwrap_or(head).strip_prefix("O:").unwrap_or_default();
    let owner = identifier(owner);
    if ![SYSTEM, ADMINISTRATORS, own].contains(&owner) {
        return Err(FolderError::Owner { folder, owner: owner.to_owned() });
    }
    let (flags, entries) = list.split_once('(').unwrap_or((list, ""));
    if flags.contains("NO_ACCESS_CONTROL") {
        return Err(unlisted(folder));
    }
    let trusted = [SYSTEM, ADMINISTRATORS, CREATOR, OWNER_RIGHTS, own];
    let mut accounts: Vec<String> = Vec::new();
    for entry in entries.trim_end_matches(')').split(")(").filter(|entry| !entry.is_empty()) {
        let mut fields = entry.split(';');
        let kind = fields.next().unwrap_or_default();
        let account = identifier(fields.nth(4).unwrap_or("?"));
        // Denials open nothing. A kind that is not known here may.
        if !["D", "OD", "XD"].contains(&kind) && !trusted.contains(&account) {
            accounts.push(account.to_owned());
        }
    }
    accounts.sort();
    accounts.dedup();
    if accounts.is_empty() { Ok(()) } else { Err(FolderError::Open { folder, accounts }) }
}

/// Makes the folder, for SYSTEM and the administrators only, or judges the one that is there. True
/// when it was made.
///
/// # Errors
/// It cannot be made, or is not to be trusted.
#[cfg(windows)]
pub fn secure(folder: &Path) -> Result<bool, FolderError> {
    // Owner, no inheritance from above, full access for two, also to what is inside.
    const DESCRIPTOR: &str = "O:BAD:P(A;OICI;FA;;;SY)(A;OICI;FA;;;BA)";
    let failed = |source| FolderError::Access { folder: folder.to_owned(), source };
    if let Some(parent) = folder.parent() {
        std::fs::create_dir_all(parent).map_err(failed)?;
    }
    let is_new = match crate::ffi::create_folder(folder, DESCRIPTOR) {
        Ok(()) => true,
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => false,
        Err(error) => return Err(failed(error)),
    };
    check(folder).map(|()| is_new)
}

/// Judges the folder that is there.
///
/// # Errors
/// It is not there, or not to be trusted.
#[cfg(windows)]
pub fn check(folder: &Path) -> Result<(), FolderError> {
    use crate::ffi;
    let failed = |source| FolderError::Access { folder: folder.to_owned(), source };
    if ffi::is_link(folder).map_err(failed)? {
        return Err(FolderError::Link { folder: folder.to_owned() });
    }
    let descriptor = ffi::security_of(folder).map_err(failed)?;
    judge(folder, &descriptor, &ffi::own_account().map_err(failed)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    const OWN: &str = "S-1-5-21-1-2-3-1001";

    fn judged(descriptor: &str) -> Result<(), String> {
        judge(Path::new(r"C:\ProgramData\Wardring"), descriptor, OWN)
            .map_err(|error| error.to_string())
    }

    #[test]
    fn a_folder_for_system_and_administrators_is_trusted_in_every_notation() {
        for descriptor in [
            "O:BAD:PAI(A;OICI;FA;;;SY)(A;OICI;FA;;;BA)",
            "O:S-1-5-18G:DUD:P(A;OICI;FA;;;S-1-5-18)(A;OICI;FA;;;S-1-5-32-544)",
            "O:SYD:AI(A;OICIID;FA;;;SY)(D;OICIID;FA;;;BU)(A;OICIIO;FA;;;CO)",
            "O:S-1-5-21-1-2-3-1001D:(A;OICI;FA;;;SY)(A;OICI;FA;;;S-1-5-21-1-2-3-1001)",
            // Nobody may do anything; SYSTEM owns it and can say otherwise.
            "O:SYD:P",
        ] {
            assert_eq!(judged(descriptor), Ok(()), "{descriptor}");
        }
    }

    #[test]
    fn a_folder_that_somebody_else_made_is_refused_with_its_owner() {
        for owner in ["BU", "S-1-5-21-1-2-3-1002", ""] {
            let refused = judged(&format!("O:{owner}D:P(A;OICI;FA;;;SY)")).unwrap_err();
            assert!(refused.contains(&format!("belongs to {}", identifier(owner))), "{refused}");
        }
    }

    #[test]
    fn a_folder_that_others_may_use_is_refused_with_the_command_that_closes_it() {
        let open = "O:BAD:AI(A;OICIID;FA;;;SY)(A;OICIID;0x1200a9;;;BU)(A;;FR;;;WD)(A;;FR;;;BU)";
        let refused = judged(open).unwrap_err();
        assert!(refused.contains("open to S-1-1-0, S-1-5-32-545 beside"), "{refused}");
        assert!(refused.ends_with("/remove:g *S-1-1-0 *S-1-5-32-545"), "{refused}");
        // A condition, a kind of another day, an entry that cannot be read.
        for entry in ["(XA;;FA;;;WD;(Member_of {SID(BA)}))", "(ZZ;;FA;;;BU)", "(A;;FA)"] {
            assert!(judged(&format!("O:BAD:P{entry}")).is_err(), "{entry}");
        }
    }

    #[test]
    fn a_folder_without_a_list_is_open_to_everybody() {
        for descriptor in ["O:BA", "O:BAD:NO_ACCESS_CONTROL", ""] {
            let refused = judged(descriptor).unwrap_err();
            assert!(refused.contains("everybody may use it"), "{descriptor}: {refused}");
        }
    }
}
