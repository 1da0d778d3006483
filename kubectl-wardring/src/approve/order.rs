//! What a PatchRollback asks a second person for, and from which devices the updates would be taken back.

use anyhow::Result;
use kube::{ResourceExt, api::ListParams};
use wardring_api::{GateState, OrderApproval, PatchRollback, PatchRollout};
use wardring_planner::RollbackPreview;

use super::SHOWN;
use crate::{
    args::Approve,
    cluster::{Cluster, pages},
    rollback,
};

/// The orders about the rollout. Who may not list them is asked about none, unless one is named.
pub(super) async fn waiting(cluster: &Cluster, args: &Approve) -> Result<Vec<PatchRollback>> {
    let all = pages(&cluster.here(), ListParams::default(), |all: PatchRollback| all).await;
    let all = match all {
        Err(kube::Error::Api(status)) if status.is_forbidden() && args.order.is_none() => {
            return Ok(Vec::new());
        }
        all => all?,
    };
    Ok(all.into_iter().filter(|order| order.spec.rollout == args.name).collect())
}

/// The asking of the order that can be decided on.
pub(super) fn pending(order: &PatchRollback) -> Option<&OrderApproval> {
    let status = order.status.as_ref().filter(|status| status.completed_at.is_none())?;
    let known = status.approval.as_ref()?;
    let is_open = matches!(known.state, GateState::Waiting | GateState::Error);
    (is_open && !known.asked.hash.is_empty() && order.metadata.deletion_timestamp.is_none())
        .then_some(known)
}

pub(super) fn told(
    rollout: &PatchRollout,
    order: &PatchRollback,
    known: &OrderApproval,
    preview: &RollbackPreview,
    is_wide: bool,
) -> Vec<String> {
    let mut lines = vec![format!(
        "PatchRollback {} on rollout {}: the updates are taken back from up to {} devices in all of the rollout.",
        order.name_any(),
        rollout.name_any(),
        known.up_to
    )];
    lines.extend(
        known.asked.because.as_ref().map(|why| format!("It is asked anew, because {why}.")),
    );
    lines.push(format!("Why: {}", order.spec.reason));
    lines.push("Taken back, and barred with an UpdateHold:".to_owned());
    let updates = rollout.status.iter().flat_map(|status| &status.resolved_updates);
    lines.extend(updates.map(|update| {
        let title = update.title.as_deref().map_or(String::new(), |title| format!(", {title}"));
        format!("  {} for {}{title}", update.kb, update.product)
    }));
    let share = order.spec.approval_above;
    lines.extend(share.map(|share| format!("Without asking anybody: {share} (approvalAbove).")));
    lines.push("The order as it is written, all of which is approved:".to_owned());
    let written = serde_yaml::to_string(&order.spec).unwrap_or_default();
    lines.extend(written.lines().map(|line| format!("  {line}")));
    lines.push("What the rollout says of rollbacks, and is approved with it:".to_owned());
    let written = serde_yaml::to_string(&rollout.spec.on_failure).unwrap_or_default();
    lines.extend(written.lines().map(|line| format!("  {line}")));
    lines.push(format!("Written by {}.", order.spec.authors.join(", ")));
    lines.push(format!(
        "{} of {} devices of the rollout are without the updates again already, or are about to be.",
        preview.taken, preview.size
    ));
    lines.extend(rollback::told(preview, if is_wide { usize::MAX } else { SHOWN }));
    lines
}

#[cfg(test)]
mod tests {
    use jiff::Timestamp;
    use wardring_planner::{order_hash, order_parts};

    use super::{
        super::{Question, only_one, refusal},
        *,
    };

    fn rollout() -> PatchRollout {
        serde_yaml::from_str(
            "{metadata: {name: november, uid: u-1}, \
             spec: {updates: {kbs: [KB5068787]}, stages: [{name: ward, group: ward}]}, \
             status: {planHash: 'v1:0', \
             resolvedUpdates: [{product: Windows Server 2022, kb: KB5068787, kind: Quality}], \
             stages: [{name: ward, state: Completed, freezeId: 'v1:0', counts: {total: 20}}]}}",
        )
        .unwrap()
    }

    /// An order that asks a second person, as the controller does it.
    fn asking() -> PatchRollback {
        let mut order: PatchRollback = serde_yaml::from_str(
            "{metadata: {name: erp-down, uid: o-1}, \
             spec: {rollout: november, reason: the ERP is down, approvalAbove: 10%, authors: [alice]}, \
             status: {approval: {state: Waiting, since: '2026-11-21T02:00:00Z', upTo: 20, \
             asked: {round: 1, request: r, nonce: n, expiresAt: '2026-11-22T02:00:00Z'}}}}",
        )
        .unwrap();
        let parts = order_parts(&order, &rollout()).unwrap();
        let asked = |order: &mut PatchRollback| {
            order.status.as_mut().unwrap().approval.as_mut().unwrap().asked.clone()
        };
        let mut of = asked(&mut order);
        of.parts = parts;
        of.hash = order_hash(&order, &rollout(), &of);
        order.status.as_mut().unwrap().approval.as_mut().unwrap().asked = of;
        order
    }

    fn args(order: Option<&str>, rollback: bool) -> Approve {
        Approve {
            name: "november".to_owned(),
            stage: None,
            gate: None,
            rollback,
            order: order.map(ToOwned::to_owned),
            reason: "r".to_owned(),
            hash: None,
            dry_run: false,
            output: None,
        }
    }

    #[test]
    fn what_an_order_asks_is_shown_with_its_devices_its_reason_and_who_wrote_it() {
        let preview = RollbackPreview {
            devices: vec![("ward".to_owned(), "ws-1".to_owned())],
            taken: 3,
            size: 20,
            ..RollbackPreview::default()
        };
        let order = asking();
        let known = pending(&order).unwrap();
        let told = told(&rollout(), &order, known, &preview, false).join("\n");
        for part in [
            "PatchRollback erp-down on rollout november: the updates are taken back from up to 20 devices",
            "Why: the ERP is down",
            "  KB5068787 for Windows Server 2022",
            "Without asking anybody: 10% (approvalAbove).",
            "  approvalAbove: 10%",
            "Written by alice.",
            "3 of 20 devices of the rollout are without the updates again already",
            "  ws-1 (stage ward)",
        ] {
            assert!(told.contains(part), "no {part} in {told}");
        }
    }

    #[test]
    fn nothing_can_be_decided_on_but_what_the_order_asks_and_is_shown() {
        let why = |change: fn(&mut PatchRollback, &mut PatchRollout)| {
            let (mut rollout, mut orders) = (rollout(), [asking()]);
            change(&mut orders[0], &mut rollout);
            let asked = only_one(&rollout, &orders, &args(None, false)).unwrap();
            assert!(matches!(asked, Question::Order(..)));
            let now: Timestamp = "2026-11-22T01:00:00Z".parse().unwrap();
            refusal(&rollout, &asked, now).unwrap_or_default()
        };
        assert_eq!(why(|_, _| {}), "");
        let changes: [fn(&mut PatchRollback, &mut PatchRollout); 6] = [
            |order, _| order.spec.reason = "another".to_owned(),
            |order, _| order.spec.devices = vec!["ws-2".to_owned()],
            |order, _| order.metadata.uid = Some("o-2".to_owned()),
            |order, _| order.spec.authors.push("bob".to_owned()),
            |order, _| {
                order.status.as_mut().unwrap().approval.as_mut().unwrap().up_to = 500;
            },
            |_, rollout| rollout.status.as_mut().unwrap().stages[0].freeze_id = None,
        ];
        for (index, change) in changes.into_iter().enumerate() {
            let why = why(change);
            assert!(why.contains("not been asked about anew"), "{index}: {why}");
        }
    }

    #[test]
    fn orders_are_named_where_several_ask_and_those_that_are_over_ask_nothing() {
        let mut other = asking();
        other.metadata.name = Some("again".to_owned());
        let rollout = rollout();
        let orders = [asking(), other];
        let error = |orders, args| only_one(&rollout, orders, &args).err().unwrap().to_string();
        assert_eq!(
            error(&orders, args(None, false)),
            "more than one thing is asked; say which: --order erp-down or --order again"
        );
        assert!(only_one(&rollout, &orders, &args(Some("again"), false)).is_ok());
        let told = error(&orders[..1], args(None, true));
        assert_eq!(told, "that is not asked; what is: --order erp-down");
        let mut over = asking();
        over.status.as_mut().unwrap().completed_at = Some(Timestamp::UNIX_EPOCH);
        assert!(pending(&over).is_none());
    }
}
