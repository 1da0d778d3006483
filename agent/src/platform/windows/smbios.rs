//! The computer's serial number and what tells it from a copy of its disk, from the tables of its firmware (DMTF DSP0134, "System Management
//! BIOS Reference Specification"; Windows documentation, `GetSystemFirmwareTable`, `RawSMBIOSData`).

/// Before the tables: version and length.
const HEADER: usize = 8;
/// "System Information", and where in it the number of the serial number's text stands.
const SYSTEM: u8 = 1;
const SERIAL: usize = 7;
/// The UUID; all zeros and all ones say that there is none (DSP0134, 7.2.1).
const UUID: std::ops::Range<usize> = 8..24;
const NO_UUID: [u8; 2] = [0, 0xFF];
const END: u8 = 127;
/// What boards say that nobody gave a number.
const NOTHING: &[&str] = &[
    "",
    "0",
    "default string",
    "none",
    "not applicable",
    "not specified",
    "system serial number",
    "to be filled by o.e.m.",
];

/// The serial number, if there is one that says something.
pub(super) fn serial(raw: &[u8]) -> Option<String> {
    let (system, strings) = system(raw)?;
    text(strings, *system.get(SERIAL)?)
}

/// What is the hardware's own, or the virtual machine's, and not the disk's: UUID and serial number; `None`
/// where neither is told.
pub(super) fn hardware(raw: &[u8]) -> Option<String> {
    let (system, _) = system(raw)?;
    let uuid = system.get(UUID).filter(|uuid| NO_UUID.iter().all(|none| uuid != &[*none; 16]));
    let uuid = uuid.map(|uuid| uuid.iter().map(|byte| format!("{byte:02x}")).collect::<String>());
    if uuid.is_none() && serial(raw).is_none() {
        return None;
    }
    Some(format!("{}/{}", uuid.unwrap_or_default(), serial(raw).unwrap_or_default()))
}

/// The table "System Information", and the texts behind it.
fn system(raw: &[u8]) -> Option<(&[u8], &[u8])> {
    let mut tables = raw.get(HEADER..)?;
    loop {
        let &[kind, length, ..] = tables else { return None };
        let length = usize::from(length);
        let strings = tables.get(length.max(4)..)?;
        // The texts end with an empty one; where there are none, two zeros stand.
        let end = strings.windows(2).position(|pair| pair == [0, 0])?;
        if kind == SYSTEM {
            return Some((&tables[..length.max(4)], &strings[..end]));
        }
        if kind == END {
            return None;
        }
        tables = &strings[end + 2..];
    }
}

/// A text by its number, from 1.
fn text(strings: &[u8], number: u8) -> Option<String> {
    let index = usize::from(number).checked_sub(1)?;
    let bytes = strings.split(|byte| *byte == 0).nth(index)?;
    let text = String::from_utf8_lossy(bytes);
    let text = text.trim();
    let is_something = !NOTHING.contains(&text.to_ascii_lowercase().as_str());
    // A report takes 255 bytes of it.
    is_something.then(|| text.chars().filter(char::is_ascii_graphic).take(64).collect())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn firmware(serial: &str) -> Vec<u8> {
        let bios = [0, 4, 0, 0, b'v', b'1', 0, 0];
        let mut system = vec![SYSTEM, 9, 1, 0, 1, 2, 0, 3, 0];
        system.extend(format!("Maker\0Model\0{serial}\0\0").bytes());
        let end = [END, 4, 2, 0, 0, 0];
        [&[0; HEADER][..], &bios, &system, &end].concat()
    }

    #[test]
    fn the_serial_number_is_the_systems_own() {
        assert_eq!(serial(&firmware(" ABC-123 ")).as_deref(), Some("ABC-123"));
        assert_eq!(serial(&firmware("To Be Filled By O.E.M.")), None);
        assert_eq!(serial(&[]), None);
        let no_system = [&[0; HEADER][..], &[END, 4, 2, 0, 0, 0]].concat();
        assert_eq!(serial(&no_system), None);
    }

    #[test]
    fn another_machine_has_other_hardware_and_silence_tells_none() {
        let of = |uuid: u8, serial: &str| {
            let mut raw = firmware(serial);
            let system = HEADER + 8;
            raw[system + 1] = 24 + 1;
            let rest = raw.split_off(system + 9);
            let uuid = [uuid; 16];
            raw.truncate(system + 8);
            hardware(&[&raw[..], &uuid, &[6], &rest].concat())
        };
        assert!(of(7, "A").is_some());
        assert_ne!(of(7, "A"), of(8, "A"));
        assert_ne!(of(7, "A"), of(7, "B"));
        assert_eq!(of(0xFF, "A"), of(0, "A"));
        assert_eq!(of(0, "None"), None);
        assert_eq!(hardware(&[]), None);
    }

    proptest! {
        #[test]
        fn broken_tables_have_no_serial_number_and_break_nothing(
            cut in 0_usize..64, at in 0_usize..64, byte: u8,
        ) {
            let mut raw = firmware("ABC-123");
            if let Some(place) = raw.get_mut(at) {
                *place = byte;
            }
            raw.truncate(cut);
            let _ = (serial(&raw), hardware(&raw));
        }
    }
}
