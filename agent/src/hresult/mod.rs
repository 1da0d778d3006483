//! What the codes of Windows mean: name, meaning, and what is to be done about each. Plain values,
//! so that it can be tested anywhere; it calls nothing and decides nothing.
//!
//! The classes are our judgement, and they never make a success: that is for the proof after the
//! restart. They tell people, and whoever plans the next attempt, whether another one is worthwhile.

mod table;

use std::fmt;
use std::str::FromStr;

/// A code of Windows: an HRESULT, or an exit code of one of its tools.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Hresult(pub u32);

/// What is known about one code.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Code {
    /// The number.
    pub code: u32,
    /// Microsoft's name for it.
    pub name: &'static str,
    /// What it means, in a few words.
    pub meaning: &'static str,
    /// What is to be done.
    pub class: Class,
    /// Where number and name come from.
    pub source: Source,
}

/// What is to be done about a code.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Class {
    /// Nothing: it is done.
    Done,
    /// Restart: it is done then.
    DoneAfterReboot,
    /// Nothing: the device has no use for it, or its source does not offer it. Never a success.
    NotForThisDevice,
    /// Try again: it may pass by itself.
    Retry,
    /// Restart first, then try again.
    AfterReboot,
    /// Repair Windows first.
    Repair,
    /// Change the device first: room, power, somebody signed in.
    DeviceState,
    /// Somebody must look at a setting, a right or the network.
    Operator,
    /// No attempt of the same kind will end otherwise.
    Permanent,
}

/// Where number and name of a code come from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Source {
    /// Microsoft, "WUA Success and Error Codes" (win32, `Wua_Sdk/wua-success-and-error-codes-.md`).
    Wua,
    /// Microsoft, "Windows Update error codes by component" (windows-itpro-docs,
    /// `deployment/update/windows-update-error-reference.md`).
    Reference,
    /// Microsoft, "Windows Update common errors and mitigation" (SupportArticles-docs,
    /// `common-windows-update-errors.md`).
    Support,
    /// Microsoft, "Delivery Optimization Return Values" (win32, `delivery_optimization`).
    Delivery,
    /// Microsoft, "System Error Codes", in the HRESULT facility of Win32.
    System,
    /// The constants of Windows Update's API, as the `windows` crate publishes them.
    Constants,
    /// Names that the servicing stack writes into `CBS.log`; no page of Microsoft lists them.
    Servicing,
}

impl Class {
    /// Every class.
    pub const ALL: [Class; 9] = [
        Class::Done,
        Class::DoneAfterReboot,
        Class::NotForThisDevice,
        Class::Retry,
        Class::AfterReboot,
        Class::Repair,
        Class::DeviceState,
        Class::Operator,
        Class::Permanent,
    ];

    /// Its name, for people.
    pub fn word(self) -> &'static str {
        match self {
            Class::Done => "done",
            Class::DoneAfterReboot => "done, up to a restart",
            Class::NotForThisDevice => "not for this device",
            Class::Retry => "retry",
            Class::AfterReboot => "after a restart",
            Class::Repair => "repair",
            Class::DeviceState => "device state",
            Class::Operator => "operator",
            Class::Permanent => "permanent",
        }
    }

    /// The next step, for people.
    pub fn advice(self) -> &'static str {
        match self {
            Class::Done | Class::NotForThisDevice => "nothing is to be done",
            Class::DoneAfterReboot => "restart the device",
            Class::Retry => "it may pass: try again later",
            Class::AfterReboot => "restart the device, then try again",
            Class::Repair => {
                "mend that (DISM /Online /Cleanup-Image /RestoreHealth), then try again"
            }
            Class::DeviceState => "change that on the device, then try again",
            Class::Operator => "somebody must look into that, then try again",
            Class::Permanent => "another attempt will end the same way",
        }
    }
}

impl Source {
    /// Every source.
    pub const ALL: [Source; 7] = [
        Source::Wua,
        Source::Reference,
        Source::Support,
        Source::Delivery,
        Source::System,
        Source::Constants,
        Source::Servicing,
    ];

    /// Where to read it up.
    pub fn page(self) -> &'static str {
        match self {
            Source::Wua => "learn.microsoft.com: WUA Success and Error Codes",
            Source::Reference => "learn.microsoft.com: Windows Update error codes by component",
            Source::Support => "learn.microsoft.com: Windows Update common errors and mitigation",
            Source::Delivery => "learn.microsoft.com: Delivery Optimization Return Values",
            Source::System => "learn.microsoft.com: System Error Codes",
            Source::Constants => "constants of Windows Update's API (Wuerror.h)",
            Source::Servicing => "names in CBS.log",
        }
    }
}

/// The facilities whose codes have a class of their own, when the code itself is not known.
const FACILITY_WIN32: u32 = 0x8007;
const FACILITY_WINDOWS_UPDATE: u32 = 0x8024;
const FACILITY_SETUP: u32 = 0x800F;
const FACILITY_BITS: u32 = 0x8020;
const FACILITY_DELIVERY: u32 = 0x80D0;

impl Hresult {
    /// What is known about it. A plain Win32 error, which is how tools end, is known by its HRESULT.
    pub fn known(self) -> Option<&'static Code> {
        let code = match self.0 {
            plain @ 1..=0xFFFF => plain | FACILITY_WIN32 << 16,
            code => code,
        };
        let index = table::CODES.binary_search_by_key(&code, |known| known.code).ok()?;
        table::CODES.get(index)
    }

    /// What is to be done about it. An unknown code has the class that most codes of its facility
    /// have; one that says nothing is for a person to look at.
    pub fn class(self) -> Class {
        self.known().map_or_else(|| self.class_by_facility(), |known| known.class)
    }

    fn class_by_facility(self) -> Class {
        match (self.0 >> 16, self.0 & 0xFFFF) {
            // The protocol (4), the download manager (6) and automatic updates (A); the data store (8).
            (FACILITY_WINDOWS_UPDATE, 0x4000..=0x4FFF | 0x6000..=0x6FFF | 0xA000..=0xAFFF) => {
                Class::Retry
            }
            (FACILITY_WINDOWS_UPDATE, 0x8000..=0x8FFF) => Class::Repair,
            // What installs.
            (FACILITY_WINDOWS_UPDATE, 0x2000..=0x2FFF) => Class::Permanent,
            (FACILITY_BITS | FACILITY_DELIVERY, _) => Class::Retry,
            // HTTP as the client sees it: 12000 to 12199.
            (FACILITY_WIN32, 0x2EE0..=0x2FA7) => Class::Retry,
            // Side by side: 14000 to 14999.
            (FACILITY_WIN32, 0x36B0..=0x3A97) => Class::Repair,
            // Servicing; the lower numbers are of drivers.
            (FACILITY_SETUP, 0x0800..=0x09FF) => Class::Repair,
            _ => Class::Operator,
        }
    }

    /// Microsoft's name for it.
    pub fn name(self) -> Option<&'static str> {
        self.known().map(|known| known.name)
    }

    /// Number, name, meaning and next step.
    pub fn explanation(self) -> String {
        let advice = self.class().advice();
        match self.known() {
            Some(known) => format!("{self} {}: {}; {advice}", known.name, known.meaning),
            None => format!("{self}; {advice}"),
        }
    }
}

/// Why a text is no code.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{text}` is no code of Windows; write it like 0x80070643, 3010 or -2145124329")]
pub struct NoCode {
    /// The text.
    pub text: String,
}

impl FromStr for Hresult {
    type Err = NoCode;

    /// Reads a code as Windows and its tools write it: hexadecimal, or decimal of either sign.
    fn from_str(text: &str) -> Result<Hresult, NoCode> {
        let hexadecimal = text.strip_prefix("0x").or_else(|| text.strip_prefix("0X"));
        let code = match hexadecimal {
            Some(digits) => u32::from_str_radix(digits, 16).ok(),
            None => text.parse().ok().or_else(|| text.parse::<i32>().ok().map(i32::cast_unsigned)),
        };
        code.map(Hresult).ok_or_else(|| NoCode { text: text.to_owned() })
    }
}

impl fmt::Display for Hresult {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "0x{:08X}", self.0)
    }
}

/// Everything that is known, by number.
pub fn all() -> &'static [Code] {
    table::CODES
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn the_table_is_in_order_and_names_each_number_once() {
        assert!(all().len() >= 60, "{}", all().len());
        for pair in all().windows(2) {
            assert!(pair[0].code < pair[1].code, "{} and {}", pair[0].name, pair[1].name);
        }
        let names: BTreeSet<&str> = all().iter().map(|known| known.name).collect();
        assert_eq!(names.len(), all().len(), "a name stands twice");
    }

    #[test]
    fn every_class_and_every_source_is_used() {
        for class in Class::ALL {
            assert!(all().iter().any(|known| known.class == class), "{class:?}");
        }
        for source in Source::ALL {
            assert!(all().iter().any(|known| known.source == source), "{source:?}");
        }
    }

    #[test]
    fn names_are_microsofts_and_meanings_are_words_for_people() {
        for known in all() {
            let is_name =
                |char: char| char.is_ascii_uppercase() || char.is_ascii_digit() || char == '_';
            assert!(known.name.chars().all(is_name), "{}", known.name);
            let length = known.meaning.chars().count();
            assert!((8..=100).contains(&length), "{}: {}", known.name, known.meaning);
            assert!(!known.meaning.ends_with('.'), "{}", known.name);
            // With a KB number and a verb before it, it must fit into an outcome's message.
            let text = Hresult(known.code).explanation();
            assert!(text.len() <= 220, "{} bytes: {text}", text.len());
        }
    }

    #[test]
    fn only_codes_without_the_error_bit_or_with_a_restart_are_done() {
        for known in all() {
            let is_error = known.code & 0x8000_0000 != 0;
            let is_done = matches!(known.class, Class::Done | Class::DoneAfterReboot);
            assert_eq!(is_done, !is_error || known.name.contains("SUCCESS_REBOOT"), "{known:?}");
        }
    }

    #[test]
    fn a_known_code_is_told_with_number_name_meaning_and_next_step() {
        assert_eq!(
            Hresult(0x800F_0825).explanation(),
            "0x800F0825 CBS_E_CANNOT_UNINSTALL: the package cannot be removed; another attempt \
             will end the same way"
        );
        assert_eq!(Hresult(0x8007_0070).class(), Class::DeviceState);
        assert_eq!(Hresult(0x8024_0017).class(), Class::NotForThisDevice);
    }

    #[test]
    fn the_exit_code_of_a_tool_is_known_by_its_hresult() {
        assert_eq!(Hresult(3010).class(), Class::DoneAfterReboot);
        assert_eq!(Hresult(3010).name(), Some("ERROR_SUCCESS_REBOOT_REQUIRED"));
        assert_eq!(Hresult(112).name(), Hresult(0x8007_0070).name());
        assert_eq!(Hresult(0).class(), Class::Done);
    }

    #[test]
    fn codes_are_read_as_windows_writes_them() {
        for text in ["0x80240017", "0X80240017", "-2145124329", "2149842967"] {
            assert_eq!(text.parse(), Ok(Hresult(0x8024_0017)), "{text}");
        }
        assert_eq!("3010".parse(), Ok(Hresult(3010)));
        for text in ["", "0x", "80240017h", "0x180240017", "WU_E_NO_UPDATE"] {
            let error = text.parse::<Hresult>().unwrap_err();
            assert!(error.to_string().contains("0x80070643"), "{error}");
        }
    }

    #[test]
    fn an_unknown_code_is_told_as_it_is_and_has_the_class_of_its_facility() {
        for (code, class) in [
            (0x8024_4FFE, Class::Retry),
            (0x8024_6FFE, Class::Retry),
            (0x8024_8001, Class::Repair),
            (0x8024_2003, Class::Permanent),
            (0x8007_2F78, Class::Retry),
            (0x8007_36B1, Class::Repair),
            (0x800F_080D, Class::Repair),
            (0x800F_0248, Class::Operator),
            (0x80D0_2003, Class::Retry),
            (0x8020_0013, Class::Retry),
            (0xC190_0101, Class::Operator),
            (0x8000_4005, Class::Operator),
            (995, Class::Operator),
        ] {
            let hresult = Hresult(code);
            assert_eq!((hresult.known(), hresult.class()), (None, class), "{hresult}");
        }
        assert_eq!(
            Hresult(0xC190_0101).explanation(),
            "0xC1900101; somebody must look into that, then try again"
        );
    }
}
