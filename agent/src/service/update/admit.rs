//! Which program may be tried at all.

use super::marker::Failed;

/// Who signed a program, as Windows sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Signer {
    /// Nobody.
    Nobody,
    /// This publisher, by a certificate that Windows trusts.
    Publisher(String),
}

/// The program that runs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Known {
    /// Its version.
    pub version: String,
    /// Its sum.
    pub sha256: String,
    /// Who signed it.
    pub signer: Signer,
}

/// The program that is offered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Offered {
    /// Its version, by its own word.
    pub version: String,
    /// Its sum.
    pub sha256: String,
    /// Who signed it.
    pub signer: Signer,
}

/// What the caller said.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Terms {
    /// The sum that the program must have.
    pub sha256: Option<String>,
    /// It may be older.
    pub allow_downgrade: bool,
    /// It may be one that was taken back before.
    pub retry: bool,
}

/// Why a program is not tried.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// Nothing vouches for it.
    #[error(
        "the installed agent is not signed, so nothing but a sum can vouch for a new program: give the one \
         from SHA256SUMS with --sha256"
    )]
    NoSum,
    /// It is another file.
    #[error("the program has the sum {found}, not {wanted}; fetch it again")]
    OtherSum {
        /// What it has.
        found: String,
        /// What it should have.
        wanted: String,
    },
    /// It is not signed.
    #[error("the installed agent is signed by {publisher}, and the new program by nobody; sign it")]
    Unsigned {
        /// Who signed the installed one.
        publisher: String,
    },
    /// Somebody else signed it.
    #[error(
        "the installed agent is signed by {publisher}, and the new program by {found}; where that is \
         meant, put the new one in its place with its own `install`"
    )]
    OtherPublisher {
        /// Who signed the installed one.
        publisher: String,
        /// Who signed the new one.
        found: String,
    },
    /// It names no version.
    #[error("the new program calls its version {version:?}, which is none")]
    NoVersion {
        /// What it says.
        version: String,
    },
    /// It is older.
    #[error(
        "{version} is older than {running}, which runs; say --allow-downgrade where that is meant"
    )]
    Older {
        /// Its version.
        version: String,
        /// The one that runs.
        running: String,
    },
    /// It was taken back.
    #[error(
        "this very program was tried at {at:.0} and taken back: {why}; say --retry where that is mended"
    )]
    Tried {
        /// When.
        at: jiff::Timestamp,
        /// Why.
        why: String,
    },
}

/// Judges a program by its sum and signature alone, before it is run even once.
///
/// # Errors
/// It may not be tried.
pub fn vouched(
    known: &Known,
    sha256: &str,
    signer: &Signer,
    wanted: Option<&str>,
) -> Result<(), Refusal> {
    match wanted {
        Some(wanted) if !wanted.eq_ignore_ascii_case(sha256) => {
            let (found, wanted) = (sha256.to_owned(), wanted.to_owned());
            return Err(Refusal::OtherSum { found, wanted });
        }
        None if known.signer == Signer::Nobody => return Err(Refusal::NoSum),
        _ => {}
    }
    match (&known.signer, signer) {
        (Signer::Nobody, _) => Ok(()),
        (Signer::Publisher(publisher), Signer::Nobody) => {
            Err(Refusal::Unsigned { publisher: publisher.clone() })
        }
        (Signer::Publisher(publisher), Signer::Publisher(found)) if publisher != found => {
            Err(Refusal::OtherPublisher { publisher: publisher.clone(), found: found.clone() })
        }
        _ => Ok(()),
    }
}

/// Judges a program whole; false when it is the one that runs.
///
/// # Errors
/// It may not be tried.
pub fn admit(
    known: &Known,
    offered: &Offered,
    terms: &Terms,
    failed: Option<&Failed>,
) -> Result<bool, Refusal> {
    vouched(known, &offered.sha256, &offered.signer, terms.sha256.as_deref())?;
    if offered.sha256 == known.sha256 {
        return Ok(false);
    }
    let no_version = || Refusal::NoVersion { version: offered.version.clone() };
    let version = numbers(&offered.version).ok_or_else(no_version)?;
    if !terms.allow_downgrade && numbers(&known.version).is_some_and(|running| version < running) {
        let (version, running) = (offered.version.clone(), known.version.clone());
        return Err(Refusal::Older { version, running });
    }
    match failed {
        Some(failed) if !terms.retry && failed.sha256 == offered.sha256 => {
            Err(Refusal::Tried { at: failed.at, why: failed.why.clone() })
        }
        _ => Ok(true),
    }
}

/// Whether a version is older than another; not where one of the two is none.
pub fn is_older(version: &str, than: &str) -> bool {
    matches!((numbers(version), numbers(than)), (Some(version), Some(than)) if version < than)
}

/// The three numbers of a version.
fn numbers(version: &str) -> Option<[u32; 3]> {
    let numbers: Vec<u32> =
        version.split('.').map(|number| number.parse().ok()).collect::<Option<_>>()?;
    numbers.try_into().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn publisher(name: &str) -> Signer {
        Signer::Publisher(name.to_owned())
    }

    fn judged(
        running: &Signer,
        offered: (&str, &str, Signer),
        terms: &Terms,
    ) -> Result<bool, Refusal> {
        let known =
            Known { version: "0.9.1".to_owned(), sha256: "aa".to_owned(), signer: running.clone() };
        let (version, sha256, signer) = offered;
        let offered = Offered { version: version.to_owned(), sha256: sha256.to_owned(), signer };
        let failed = Failed {
            version: "0.9.2".to_owned(),
            sha256: "ff".to_owned(),
            why: "it ended at its start".to_owned(),
            at: jiff::Timestamp::UNIX_EPOCH,
        };
        admit(&known, &offered, terms, Some(&failed))
    }

    fn sum(sha256: &str) -> Terms {
        Terms { sha256: Some(sha256.to_owned()), ..Terms::default() }
    }

    #[test]
    fn a_signed_agent_takes_a_program_of_the_same_publisher_alone() {
        let ours = publisher("CN=Example");
        let none = Terms::default();
        assert_eq!(judged(&ours, ("0.10.0", "bb", ours.clone()), &none), Ok(true));
        let unsigned = judged(&ours, ("0.10.0", "bb", Signer::Nobody), &sum("bb"));
        assert!(matches!(unsigned, Err(Refusal::Unsigned { .. })), "a sum makes up for nothing");
        let other = judged(&ours, ("0.10.0", "bb", publisher("CN=Other")), &sum("bb"));
        assert!(matches!(other, Err(Refusal::OtherPublisher { .. })));
    }

    #[test]
    fn an_agent_that_nobody_signed_takes_a_program_by_its_sum_alone() {
        let none = Signer::Nobody;
        assert_eq!(judged(&none, ("0.9.2", "bb", none.clone()), &sum("BB")), Ok(true));
        let unsummed = judged(&none, ("0.9.2", "bb", publisher("CN=Any")), &Terms::default());
        assert_eq!(unsummed, Err(Refusal::NoSum));
        let other = judged(&none, ("0.9.2", "bb", none.clone()), &sum("cc"));
        assert!(matches!(other, Err(Refusal::OtherSum { .. })));
    }

    #[test]
    fn one_version_is_older_than_another_by_its_numbers_and_only_where_both_have_some() {
        assert!(is_older("0.9.1", "0.10.0") && is_older("0.9.9", "1.0.0"));
        assert!(!is_older("0.10.0", "0.9.1") && !is_older("0.9.1", "0.9.1"));
        assert!(!is_older("0.9.1", "noise") && !is_older("", "0.9.1"));
    }

    #[test]
    fn what_is_older_or_was_taken_back_needs_a_word_and_what_runs_already_needs_nothing() {
        let none = Signer::Nobody;
        let judged = |version, sha256, terms: &Terms| {
            judged(&none, (version, sha256, Signer::Nobody), terms)
        };
        assert!(matches!(judged("0.9.0", "bb", &sum("bb")), Err(Refusal::Older { .. })));
        assert!(matches!(judged("0.10.0-rc1", "bb", &sum("bb")), Err(Refusal::NoVersion { .. })));
        let downgrade = Terms { allow_downgrade: true, ..sum("bb") };
        assert_eq!(judged("0.9.0", "bb", &downgrade), Ok(true));
        assert!(matches!(judged("0.9.2", "ff", &sum("ff")), Err(Refusal::Tried { .. })));
        assert_eq!(judged("0.9.2", "ff", &Terms { retry: true, ..sum("ff") }), Ok(true));
        assert_eq!(judged("0.9.1", "aa", &sum("aa")), Ok(false));
    }
}
