//! What BitLocker says about the drive of Windows, over WMI. No key is ever asked for.

use windows::Win32::System::Variant::VARIANT;
use windows::Win32::System::Wmi::IWbemClassObject;
use windows::core::{Error, HSTRING, PCWSTR, Result};

use super::wmi::{Privacy, Wmi, property, text};
use super::wua::Com;

/// Where BitLocker answers (Windows documentation, `Win32_EncryptableVolume`).
const NAMESPACE: &str = r"ROOT\CIMV2\Security\MicrosoftVolumeEncryption";
const VOLUMES: &str = "Win32_EncryptableVolume";
/// Whether there is a key protector of a kind (same page, `IsKeyProtectorAvailable`).
const ASKED: &str = "IsKeyProtectorAvailable";
/// FVE_E_NOT_ACTIVATED: BitLocker was never switched on here.
const NEVER_ON: i32 = 0x8031_0008_u32.cast_signed();

/// Whether the drive that Windows starts from is protected (Microsoft's ProtectionStatus: 0 off or
/// suspended, 1 on, 2 unknown), and which of these kinds of key protectors it has. Blocks for as long
/// as WMI does.
///
/// # Errors
/// WMI or BitLocker does not answer; also where there is no BitLocker at all.
pub fn system_drive_protection(kinds: &[u32]) -> Result<(u32, Vec<u32>)> {
    // An error may hold an object of COM, which must not outlive it on this thread.
    let _com = Com::begin()?;
    protection(kinds).map_err(|error| Error::from_hresult(error.code()))
}

fn protection(kinds: &[u32]) -> Result<(u32, Vec<u32>)> {
    let wmi = Wmi::connect(NAMESPACE, Privacy::Packet)?;
    let drive = super::system_folder()?;
    let letter = drive.to_string_lossy().chars().take(2).collect::<String>();
    let volume = wmi.volume(&letter)?;
    // Automation knows no unsigned numbers, and WMI gives these as signed ones.
    let status = i32::try_from(&property(&volume, "ProtectionStatus")?)?.cast_unsigned();
    if status == 0 {
        return Ok((status, Vec::new()));
    }
    let path = text(&property(&volume, "__PATH")?)?;
    let mut there = Vec::new();
    for kind in kinds {
        if wmi.has_protector(&path, *kind)? {
            there.push(*kind);
        }
    }
    Ok((status, there))
}

impl Wmi {
    /// The volume with this letter, such as `C:`.
    fn volume(&self, letter: &str) -> Result<IWbemClassObject> {
        let query = format!("SELECT * FROM {VOLUMES} WHERE DriveLetter='{letter}'");
        self.first(&query)
    }

    fn has_protector(&self, path: &str, kind: u32) -> Result<bool> {
        let class = self.object(VOLUMES)?;
        let (mut takes, mut gives) = (None, None);
        // SAFETY: name and places live through the call.
        unsafe { class.GetMethod(&HSTRING::from(ASKED), 0, &mut takes, &mut gives)? };
        let takes = takes.ok_or_else(Error::empty)?;
        // SAFETY: the class of the arguments is alive.
        let arguments = unsafe { takes.SpawnInstance(0)? };
        let value = VARIANT::from(kind.cast_signed());
        let name = HSTRING::from("KeyProtectorType");
        // SAFETY: name and value live through the call.
        unsafe { arguments.Put(PCWSTR(name.as_ptr()), 0, &value, 0)? };
        let answer = self.call(path, ASKED, Some(&arguments))?;
        match i32::try_from(&property(&answer, "ReturnValue")?)? {
            0 => bool::try_from(&property(&answer, ASKED)?),
            NEVER_ON => Ok(false),
            code => Err(windows::core::HRESULT(code).into()),
        }
    }
}
