//! What this computer calls itself.

use super::registry::{LocalMachine, text};

const TCPIP: &str = r"SYSTEM\CurrentControlSet\Services\Tcpip\Parameters";

/// The name of this computer, as people gave it: whole, where NetBIOS would cut it.
pub fn computer_name() -> String {
    text(&LocalMachine, TCPIP, "Hostname")
        .or_else(|| std::env::var("COMPUTERNAME").ok())
        .unwrap_or_default()
}
