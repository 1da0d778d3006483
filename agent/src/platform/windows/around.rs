//! What a device runs on, what happens at its next start, and its active hours, from the numbers that
//! Windows gives.

use std::time::{Duration, Instant};

use super::registry::{Registry, number};
use crate::state::{Power, Startup};

/// Kinds of key protectors (Windows documentation, `Win32_EncryptableVolume`,
/// `GetKeyProtectorType`): which of them open the drive at a start, and by what name. Recovery
/// passwords, public keys and identities of accounts open it in other ways.
pub(super) const PROTECTORS: [(u32, &str); 7] = [
    (TPM, "Tpm"),
    (2, "ExternalKey"),
    (4, "TpmAndPin"),
    (5, "TpmAndStartupKey"),
    (6, "TpmAndPinAndStartupKey"),
    (8, "Passphrase"),
    // Network Unlock: it needs its server, and falls back to the PIN without it.
    (9, "TpmCertificate"),
];
/// The chip alone.
const TPM: u32 = 1;
/// How long an answer is reported while the next one does not come.
const STEADY_FOR: Duration = Duration::from_secs(3600);
/// WBEM_E_INVALID_NAMESPACE: a Windows without BitLocker, such as a server without that feature.
const NO_BITLOCKER: i32 = 0x8004_100E_u32.cast_signed();

/// What the numbers of `SYSTEM_POWER_STATUS` say (Windows documentation): line status, battery flag
/// and percent.
pub(super) fn power((line, battery, percent): (u8, u8, u8)) -> Power {
    const NO_BATTERY: u8 = 128;
    const UNKNOWN: u8 = 255;
    match line {
        0 => Power::Battery(Some(percent).filter(|percent| *percent <= 100)),
        1 => Power::PluggedIn,
        _ if battery != UNKNOWN && battery & NO_BATTERY != 0 => Power::PluggedIn,
        _ => Power::Unknown,
    }
}

/// What BitLocker's answer means for the next start. Suspended protection counts as none: the key
/// lies open until somebody resumes it.
pub(super) fn startup(answer: Result<(u32, Vec<u32>), (i32, String)>) -> Startup {
    let named = |kind: &u32| {
        let known = PROTECTORS.iter().find(|(number, _)| number == kind);
        known.map_or_else(|| format!("Kind{kind}"), |(_, name)| (*name).to_owned())
    };
    match answer {
        Err((NO_BITLOCKER, _)) | Ok((0, _)) => Startup::Unattended,
        Ok((1, kinds)) if kinds.contains(&TPM) => Startup::Unattended,
        Ok((1, kinds)) if kinds.is_empty() => {
            Startup::Unknown("BitLocker is on and names nothing that opens the drive".to_owned())
        }
        Ok((1, kinds)) => Startup::Attended(kinds.iter().map(named).collect()),
        Ok((status, _)) => Startup::Unknown(format!("BitLocker's status is {status}")),
        Err((_, why)) => Startup::Unknown(why),
    }
}

/// What is reported of the next start: what BitLocker says, or said within the last hour where a slow WMI
/// gives no answer now. Jobs ask for themselves.
pub(super) fn steady(now: Startup, told: &mut Option<(Instant, Startup)>, at: Instant) -> Startup {
    let is_unknown = matches!(now, Startup::Unknown(_));
    match told {
        Some((since, startup)) if is_unknown && at.duration_since(*since) < STEADY_FOR => {
            startup.clone()
        }
        _ if is_unknown => now,
        told => {
            *told = Some((at, now.clone()));
            now
        }
    }
}

/// Active hours as Windows Update has them: by policy, else as the user of the device set them, else
/// from 8 to 17 (Windows documentation, "Manage device restarts after updates").
pub(super) fn active_hours(registry: &impl Registry) -> (u8, u8) {
    const POLICY: &str = r"SOFTWARE\Policies\Microsoft\Windows\WindowsUpdate";
    const SETTINGS: &str = r"SOFTWARE\Microsoft\WindowsUpdate\UX\Settings";
    let hour = |path: &str, name: &str| {
        number(registry, path, name).and_then(|hour| u8::try_from(hour).ok()).filter(|h| *h < 24)
    };
    let hours = |path: &str| hour(path, "ActiveHoursStart").zip(hour(path, "ActiveHoursEnd"));
    let is_policy = number(registry, POLICY, "SetActiveHours") == Some(1);
    let by_policy = is_policy.then(|| hours(POLICY)).flatten();
    by_policy.or_else(|| hours(SETTINGS)).unwrap_or((8, 17))
}

#[cfg(test)]
mod tests {
    use super::super::registry::tests::Hive;
    use super::*;

    #[test]
    fn a_question_that_took_too_long_is_reported_once_the_last_answer_is_old() {
        let (unknown, mut told) = (|| Startup::Unknown("slow".to_owned()), None);
        let began = Instant::now();
        assert_eq!(steady(unknown(), &mut told, began), unknown());
        assert_eq!(steady(Startup::Unattended, &mut told, began), Startup::Unattended);
        let soon = began + Duration::from_secs(3000);
        assert_eq!(steady(unknown(), &mut told, soon), Startup::Unattended);
        assert_eq!(steady(unknown(), &mut told, began + STEADY_FOR), unknown());
        let attended = Startup::Attended(vec!["TpmAndPin".to_owned()]);
        assert_eq!(steady(attended.clone(), &mut told, soon), attended, "news are told at once");
    }

    #[test]
    fn only_power_from_outside_or_no_battery_at_all_is_plugged_in() {
        assert_eq!(power((1, 8, 80)), Power::PluggedIn);
        assert_eq!(power((0, 0, 43)), Power::Battery(Some(43)));
        assert_eq!(power((0, 255, 255)), Power::Battery(None));
        assert_eq!(power((255, 128, 255)), Power::PluggedIn);
        assert_eq!(power((255, 255, 255)), Power::Unknown);
        assert_eq!(power((255, 1, 50)), Power::Unknown);
    }

    #[test]
    fn a_device_with_a_pin_a_password_or_a_key_waits_for_a_person() {
        let said = |status, kinds: &[u32]| startup(Ok((status, kinds.to_vec())));
        let attended = |kinds: &[&str]| {
            Startup::Attended(kinds.iter().map(|kind| (*kind).to_owned()).collect())
        };
        assert_eq!(said(1, &[1]), Startup::Unattended);
        assert_eq!(said(1, &[4]), attended(&["TpmAndPin"]));
        assert_eq!(said(1, &[4, 9]), attended(&["TpmAndPin", "TpmCertificate"]));
        assert_eq!(said(1, &[8]), attended(&["Passphrase"]));
    }

    #[test]
    fn protection_that_is_off_or_suspended_asks_for_nobody() {
        assert_eq!(startup(Ok((0, vec![4]))), Startup::Unattended);
        assert_eq!(startup(Err((NO_BITLOCKER, "no namespace".to_owned()))), Startup::Unattended);
    }

    #[test]
    fn what_bitlocker_does_not_tell_is_not_taken_for_a_yes() {
        let unknown = |startup| matches!(startup, Startup::Unknown(_));
        assert!(unknown(startup(Ok((2, vec![1])))));
        assert!(unknown(startup(Ok((1, Vec::new())))));
        let denied = (0x8004_1003_u32.cast_signed(), "access denied".to_owned());
        assert_eq!(startup(Err(denied)), Startup::Unknown("access denied".to_owned()));
    }

    #[test]
    fn active_hours_are_those_of_the_policy_then_those_of_the_user_then_the_day() {
        const POLICY: &str = r"SOFTWARE\Policies\Microsoft\Windows\WindowsUpdate";
        const SETTINGS: &str = r"SOFTWARE\Microsoft\WindowsUpdate\UX\Settings";
        let user = |hive: Hive| {
            hive.number(SETTINGS, "ActiveHoursStart", 6).number(SETTINGS, "ActiveHoursEnd", 23)
        };
        let policy = |hive: Hive, end| {
            hive.number(POLICY, "ActiveHoursStart", 9).number(POLICY, "ActiveHoursEnd", end)
        };
        let in_force = |hive: Hive| hive.number(POLICY, "SetActiveHours", 1);
        assert_eq!(active_hours(&Hive::default()), (8, 17));
        let half = Hive::default().number(SETTINGS, "ActiveHoursStart", 6);
        assert_eq!(active_hours(&half), (8, 17), "half of it is nothing");
        assert_eq!(active_hours(&user(Hive::default())), (6, 23));
        let unset = policy(user(Hive::default()), 18);
        assert_eq!(active_hours(&unset), (6, 23), "a policy that is not in force says nothing");
        assert_eq!(active_hours(&in_force(policy(user(Hive::default()), 18))), (9, 18));
        assert_eq!(active_hours(&in_force(policy(user(Hive::default()), 99))), (6, 23));
    }
}
