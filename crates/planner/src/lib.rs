//! The decisions of a patch rollout: `plan(&Snapshot) -> Plan`, `check(&Snapshot, &Plan)` and
//! `permit(&PermitFacts)`, all pure.
//!
//! This crate must know no async runtime, clock, environment, file, network or random source, and
//! no map whose order is random: time and every measurement are fields of the snapshot, so one
//! input always has one answer. `clippy.toml` beside this crate enforces it.

mod activity;
mod agenda;
mod alerts;
mod apart;
mod approvals;
mod autonomy;
mod barring;
mod bars;
mod calendar;
mod canary;
mod caps;
mod check;
mod checks;
pub mod condition;
mod correlated;
mod damage;
mod devices;
mod downloads;
mod eligibility;
mod emergency;
mod expedite;
mod explain;
mod forecast;
mod freeze;
mod gates;
mod grants;
mod halt;
mod jobs;
mod ledger;
mod line;
mod measure;
mod names;
mod order;
mod outcomes;
mod packages;
mod permit;
mod plan;
mod plan_types;
mod resolve;
mod rollback;
mod selector;
mod sequence;
mod snapshot;
mod stage;
mod status;
mod supersede;
mod tail;
mod validate;
mod wake;
mod windows;

pub use activity::{Activity, Doings, activities};
pub use alerts::{
    Alert, Alerts, Ended, Evidence, Message, MessageState, ONE_BY_ONE, OVER, Sight, TOLD, Telling,
    Told, ToldState, alerts, is_in_trouble, to_tell,
};
pub use approvals::{
    ApprovalPolicy, ApprovalUse, answers_to, approval_hash, approval_parts, order_hash,
    order_is_approved, order_is_rejected, order_parts, rollback_hash, rollback_is_approved,
    rollback_parts, same_form,
};
pub use autonomy::{JobAutonomy, NoAutonomy, network_lost};
pub use bars::bars_successors;
pub use calendar::{Opening, WindowView};
pub use canary::canary_gaps;
pub use caps::DEFAULT_CONCURRENCY;
pub use check::{Violation, check};
pub use checks::resolve_preset;
pub use devices::*;
pub use emergency::StopView;
pub use explain::{DeviceStory, Explanation, explain_device, explain_rollout, is_unseen};
pub use forecast::{Assumptions, DeviceForecast, Forecast, ForecastEnd, StageForecast, forecast};
pub use freeze::freeze_id;
pub use gates::gate_definition;
pub use measure::{MeasureOrder, Measurement, Population};
pub use names::{NamesDigest, names_digest};
pub use order::{RollbackPreview, preview_rollback};
pub use permit::*;
pub use plan::plan;
pub use plan_types::*;
pub use resolve::{plan_hash, resolve};
pub use selector::Selector;
pub use sequence::{
    SEQUENCE_STRIDE, TAKE_OVERS_KEPT, foreign_sequence, mark, next_batch, take_over,
};
pub use snapshot::*;
pub use tail::tail_sentence;
