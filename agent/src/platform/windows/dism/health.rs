//! What DISM says of the component store that every update is installed from and removed with.

use crate::state::StoreState;

/// Reads the answer to `/Cleanup-Image /CheckHealth /English`, which looks for a mark that a failed
/// installation or an earlier scan left, and scans nothing itself. Sentences that nobody here knows
/// are no answer: neither sound nor damaged.
pub(super) fn read(output: &str) -> StoreState {
    let says = |words: &str| output.lines().any(|line| line.to_ascii_lowercase().contains(words));
    if says("cannot be repaired") || says("not repairable") {
        StoreState::Damaged
    } else if says("is repairable") || says("store has been corrupted") {
        StoreState::Repairable
    } else if says("no component store corruption detected") {
        StoreState::Healthy
    } else {
        StoreState::Unknown("DISM says nothing of the component store".to_owned())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn said(sentence: &str) -> StoreState {
        read(&format!(
            "\r\nDeployment Image Servicing and Management tool\r\nVersion: 10.0.20348.681\r\n\r\n\
             {sentence}\r\nThe operation completed successfully.\r\n"
        ))
    }

    #[test]
    fn only_the_sentence_that_says_so_makes_a_store_sound() {
        assert_eq!(said("No component store corruption detected."), StoreState::Healthy);
        assert_eq!(said("The component store is repairable."), StoreState::Repairable);
        assert_eq!(said("The component store is not repairable."), StoreState::Damaged);
        assert_eq!(said("The component store cannot be repaired."), StoreState::Damaged);
        for other in ["", "Es wurde keine Beschädigung des Komponentenspeichers erkannt."] {
            assert!(matches!(said(other), StoreState::Unknown(_)), "{other}");
        }
    }
}
