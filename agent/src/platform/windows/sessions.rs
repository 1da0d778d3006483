//! Who is logged on, from the list of sessions that Windows gives (Windows documentation,
//! `WTSEnumerateSessions`, `WTS_CONNECTSTATE_CLASS`).

use crate::state::People;

/// A session: its number, and Windows' number for its state.
pub(super) type Session = (u32, i32);

/// The session of the services; nobody is logged on to it.
const SERVICES: u32 = 0;
const ACTIVE: i32 = 0;
/// Somebody controls another session from this one.
const SHADOW: i32 = 3;
const DISCONNECTED: i32 = 4;

/// Sessions in which somebody works at this moment, on the spot or remotely. One that shows the
/// picture of the logon is connected and not active, and a locked one stays active: what is open in it
/// may not be saved.
pub(super) fn active(sessions: &[Session]) -> Vec<u32> {
    let is_active = |(id, state): &&Session| *id != SERVICES && [ACTIVE, SHADOW].contains(state);
    sessions.iter().filter(is_active).map(|(id, _)| *id).collect()
}

/// How many people are logged on. Every Windows has the session of its services, so a list without
/// any says nothing.
pub(super) fn people(sessions: &[Session]) -> Option<People> {
    if sessions.is_empty() {
        return None;
    }
    let left = sessions.iter().filter(|(id, state)| *id != SERVICES && *state == DISCONNECTED);
    let count = |number: usize| u32::try_from(number).unwrap_or(u32::MAX);
    Some(People { active: count(active(sessions).len()), disconnected: count(left.count()) })
}

#[cfg(test)]
mod tests {
    use super::*;

    const SERVICES_ALONE: [Session; 1] = [(0, DISCONNECTED)];
    const LISTEN: i32 = 6;
    const CONNECTED: i32 = 1;

    #[test]
    fn the_session_of_the_services_is_nobody() {
        assert_eq!(people(&SERVICES_ALONE), Some(People::NOBODY));
        assert_eq!(people(&[(0, ACTIVE)]), Some(People::NOBODY));
        let at_the_logon = [(0, DISCONNECTED), (1, CONNECTED), (65_536, LISTEN)];
        assert_eq!(people(&at_the_logon), Some(People::NOBODY));
    }

    #[test]
    fn whoever_works_is_counted_and_whoever_left_a_session_open_is_counted_apart() {
        let sessions = [(0, DISCONNECTED), (1, ACTIVE), (2, DISCONNECTED), (3, SHADOW)];
        assert_eq!(people(&sessions), Some(People { active: 2, disconnected: 1 }));
        assert_eq!(active(&sessions), [1, 3]);
    }

    #[test]
    fn a_list_without_any_session_says_nothing() {
        assert_eq!(people(&[]), None);
    }
}
