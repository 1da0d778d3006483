//! What is assumed and what no look can tell: it shows only when Windows is changed.

use super::{Listed, SOON};
use crate::selftest::Finding;
use crate::selftest::Weight::Assumed;

pub(super) const CHECKS: &[Listed] = &[
    Listed(
        Assumed,
        "hidden-revisions",
        "a new revision of a hidden update may be offered again",
        SOON,
        || untried("it takes a hidden update whose publisher revises it"),
    ),
    Listed(
        Assumed,
        "msu-by-dism",
        "DISM installs .msu files on new builds, with the earlier ones in the same folder",
        SOON,
        || untried("it would install; the agent does not rely on it"),
    ),
    Listed(
        Assumed,
        "combined-by-wusa",
        "wusa cannot remove a servicing stack and cumulative update in one",
        SOON,
        || untried("it would remove; the agent removes by DISM alone"),
    ),
    Listed(Assumed, "drivers", "a driver is taken back by pnputil or Device Manager", SOON, || {
        untried("it would remove; the agent takes no drivers back")
    }),
    Listed(
        Assumed,
        "machine-recovery",
        "quick machine recovery fetches fixes in the recovery environment",
        SOON,
        || untried("it takes a Windows that does not start"),
    ),
    Listed(Assumed, "metered-network", "a metered network is known by its cost", SOON, || {
        untried("the agent does not rely on it; Windows Update itself waits where policy says so")
    }),
    Listed(
        Assumed,
        "failure-codes",
        "the codes whose class is our own judgement mean what the table says",
        SOON,
        || {
            untried(
                "each takes its own failure: 0x80072EE7, 0x80240438, 0x80244010, 0x80248007, \
                 0x800F082F, 0x80070002, 0x800F0988, 0x800F0922, 0x80070643",
            )
        },
    ),
];

fn untried(why: &str) -> Finding {
    Finding::unknown(format!("not tried: {why}"))
}
