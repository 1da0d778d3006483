//! What a device's source says about the updates that it offers.

use wardring_api::{MsrcSeverity, OfferedUpdate, RebootBehavior, conditions::clip};
use wardring_protocol::{Offered, RebootBehavior as Reported};

use super::facts::parse;

/// Most that a status shows.
const MOST: usize = 8;
const MEGABYTE: u64 = 1 << 20;

/// The gravest updates of a report, gravest first: whoever reads a cut list must not miss them.
pub(super) fn offered(reported: &[Offered]) -> Vec<OfferedUpdate> {
    let named = reported.iter().filter(|update| update.kb.len() <= 10);
    let mut updates: Vec<OfferedUpdate> = named.map(update).collect();
    // The report's own order stands among equals.
    updates.sort_by_key(|update| update.msrc_severity.unwrap_or(MsrcSeverity::Unspecified));
    updates.truncate(MOST);
    updates
}

fn update(reported: &Offered) -> OfferedUpdate {
    OfferedUpdate {
        kb: reported.kb.clone(),
        classification: reported.classification.as_deref().map(|text| clip(text, 64)),
        // A word we do not know is none.
        msrc_severity: reported.msrc_severity.as_deref().and_then(parse),
        size_mb: u32::try_from(reported.size_bytes.div_ceil(MEGABYTE)).unwrap_or(u32::MAX),
        released: reported.released.map(|at| at.strftime("%Y-%m-%d").to_string()),
        uninstallable: reported.uninstallable,
        reboot: match reported.reboot {
            Reported::Never => RebootBehavior::Never,
            Reported::Always => RebootBehavior::Always,
            Reported::CanRequest => RebootBehavior::CanRequest,
        },
    }
}
