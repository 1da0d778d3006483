//! The table of an exercise: what Windows says to each belief, with what was seen.

use wardring_seal::{Action, OutcomeResult};

use super::{Ran, Record};
use crate::selftest::{Answer, Finding, Row, Weight};
use crate::state::BootKind;

/// The rows, in the order in which an exercise goes. What it did not come to is unknown.
pub fn rows(record: &Record) -> Vec<Row> {
    let (install, removal) = (record.install.as_ref(), record.removal.as_ref());
    vec![
        row("exercise-offer", "an update can be chosen from what is offered", offer(record)),
        row("exercise-install", "Windows Update installs it", after(record, install, installed)),
        row(
            "exercise-restart",
            "the restart comes when it is ordered, and is known as ours",
            after(record, install, restarted),
        ),
        row(
            "exercise-proof",
            "it is proven after the restart, and Windows is healthy",
            after(record, install, proven),
        ),
        row(
            "exercise-packages",
            "its packages are what the installation added to Windows' own",
            after(record, install, packages),
        ),
        row("exercise-removal", "DISM removes those packages", after(record, removal, removed)),
        row(
            "exercise-removal-restart",
            "the restart after the removal comes when it is ordered, and is known as ours",
            after(record, removal, restarted),
        ),
        row(
            "exercise-absence",
            "the update is gone then, and the build is the one from before",
            after(record, removal, |ran| absent(ran, record)),
        ),
        row("exercise-hidden", "the removed update is hidden from then on", hidden(record)),
    ]
}

fn row(check: &'static str, says: &'static str, finding: Finding) -> Row {
    let Finding { answer, evidence } = finding;
    Row { check, weight: Weight::Needed, says, answer, evidence }
}

/// What a job says, where the exercise came to it.
fn after(record: &Record, ran: Option<&Ran>, judge: impl Fn(&Ran) -> Finding) -> Finding {
    match ran {
        Some(ran) => judge(ran),
        None => Finding::unknown(record.over.as_deref().unwrap_or("it did not come to that yet")),
    }
}

fn offer(record: &Record) -> Finding {
    match (&record.chosen, &record.over) {
        (Some(chosen), _) => {
            let (kb, title) = (&chosen.target.kb, &chosen.title);
            Finding::ok(format!("{kb}, {} MiB: {title}", chosen.size_bytes >> 20))
        }
        (None, Some(why)) => Finding::unknown(why),
        (None, None) => Finding::unknown("it is being searched for"),
    }
}

/// The code of Windows' own answer; what becomes of it is another question.
fn installed(ran: &Ran) -> Finding {
    let Some(result) = ran.results.first() else {
        return Finding::unknown("the answer of Windows is not known, or nothing was installed");
    };
    let code = result.hresult.as_deref().unwrap_or("no code");
    let restart = if result.reboot_required { ", wants a restart" } else { "" };
    let evidence = format!("OperationResultCode {}, {code}{restart}", result.operation_result_code);
    match result.operation_result_code {
        2 => Finding::ok(evidence),
        // A job that was interrupted does not know it any more; the proof does.
        0 | 1 => Finding::unknown(evidence),
        _ => Finding::differs(format!("{evidence}, {}", result.name.as_deref().unwrap_or("?"))),
    }
}

fn proven(ran: &Ran) -> Finding {
    let finding = ended(ran, |result| result == OutcomeResult::Succeeded);
    if finding.answer == Answer::Ok && ran.boots.is_empty() {
        return Finding::unknown(format!("{}; no restart was needed", finding.evidence));
    }
    finding
}

fn removed(ran: &Ran) -> Finding {
    let finding = ended(ran, |result| result == OutcomeResult::RolledBack);
    // Nothing to remove ends as well, and shows nothing.
    let is_done = ran.results.first().is_some_and(|result| result.operation_result_code == 2);
    if finding.answer == Answer::Ok && !is_done {
        return Finding::unknown(format!("{}; nothing was removed", finding.evidence));
    }
    finding
}

/// The end of the job: as believed, something else, or nothing that was begun.
fn ended(ran: &Ran, is_good: impl Fn(OutcomeResult) -> bool) -> Finding {
    let Some(outcome) = &ran.outcome else {
        return Finding::unknown("it waits for a restart, which is left out");
    };
    let reason = outcome.reason.as_deref().map(|reason| format!(" ({reason})")).unwrap_or_default();
    let evidence =
        format!("{:?}{reason}, build {}: {}", outcome.result, outcome.build, outcome.message);
    let has_begun = outcome.started || outcome.key.action == Action::Rollback;
    match is_good(outcome.result) {
        true => Finding::ok(evidence),
        false if has_begun => Finding::differs(evidence),
        false => Finding::unknown(evidence),
    }
}

fn restarted(ran: &Ran) -> Finding {
    let Some(outcome) = &ran.outcome else {
        return Finding::unknown("restarts are left out");
    };
    let (ordered, boots) = (outcome.reboots, &ran.boots);
    let kinds: Vec<&str> = boots.iter().map(|boot| boot.kind.as_str()).collect();
    let evidence = format!("{ordered} ordered, boots: {}", kinds.join(", "));
    if ordered == 0 && boots.is_empty() {
        return Finding::unknown("no restart was needed");
    }
    let is_ours = |kind| boots.iter().all(|boot| boot.kind == kind);
    if usize::try_from(ordered) != Ok(boots.len()) {
        Finding::differs(evidence)
    } else if is_ours(BootKind::Expected) {
        Finding::ok(evidence)
    } else if boots.iter().all(|boot| matches!(boot.kind, BootKind::Expected | BootKind::Unknown)) {
        Finding::unknown(format!("{evidence}; the event log does not tell why"))
    } else {
        Finding::differs(evidence)
    }
}

fn packages(ran: &Ran) -> Finding {
    match &ran.packages[..] {
        [] if ran.outcome.as_ref().is_some_and(|outcome| outcome.started) => Finding::differs(
            "no package was added; a removal finds those of the update by other means, or not at all",
        ),
        [] => Finding::unknown("nothing was installed, or it waits for its restart"),
        packages => Finding::ok(packages.join(", ")),
    }
}

fn absent(ran: &Ran, record: &Record) -> Finding {
    let removed = removed(ran);
    let Some(outcome) = ran.outcome.as_ref().filter(|_| removed.answer == Answer::Ok) else {
        return removed;
    };
    let (before, now) = (&record.build_before, &outcome.build);
    if before == now {
        Finding::ok(format!("nothing of it is left; the build is {now} again"))
    } else {
        Finding::differs(format!("nothing of it is left; the build is {now}, and was {before}"))
    }
}

fn hidden(record: &Record) -> Finding {
    match record.is_hidden {
        Some(true) => Finding::ok("a search finds it hidden"),
        Some(false) => Finding::differs("a search finds it offered again"),
        None => Finding::unknown("a search does not find it, or was not made"),
    }
}

#[cfg(test)]
mod tests {
    use jiff::Timestamp;
    use wardring_protocol::UpdateProgress;
    use wardring_seal::{OutcomePayload, PAYLOAD_VERSION};

    use super::*;
    use crate::exercise::{Restarts, Wish};
    use crate::selftest::exit_code;
    use crate::state::BootRecord;

    fn record() -> Record {
        let wish = Wish { kb: None, restarts: Restarts::Allowed, settle_ms: 0, countdown_ms: 0 };
        let mut record = Record::begin("e1".to_owned(), wish, Timestamp::UNIX_EPOCH);
        record.build_before = "20348.2700".to_owned();
        record
    }

    fn ran(record: &Record, action: Action, result: OutcomeResult, kinds: &[BootKind]) -> Ran {
        let boot = |kind: &BootKind| BootRecord {
            boot_id: "b".to_owned(),
            at: Timestamp::UNIX_EPOCH,
            kind: *kind,
            off: None,
        };
        let outcome = OutcomePayload {
            version: PAYLOAD_VERSION,
            key: record.key(action),
            sequence: 1,
            namespace: "exercise".to_owned(),
            device: "exercise".to_owned(),
            result,
            reason: None,
            message: "so it ended".to_owned(),
            boot_id: "b".to_owned(),
            installed_in_boot: None,
            reboot_required: true,
            started: true,
            build: "20348.2700".to_owned(),
            reboots: 1,
            at: Timestamp::UNIX_EPOCH,
        };
        let result = UpdateProgress {
            kb: "KB1".to_owned(),
            operation_result_code: 2,
            hresult: Some("0x00000000".to_owned()),
            name: None,
            reboot_required: true,
        };
        Ran {
            outcome: Some(outcome),
            results: vec![result],
            packages: vec!["Package_1".to_owned()],
            boots: kinds.iter().map(boot).collect(),
        }
    }

    fn answer(record: &Record, check: &str) -> Answer {
        rows(record).into_iter().find(|row| row.check == check).unwrap().answer
    }

    #[test]
    fn what_an_exercise_did_not_come_to_is_unknown_and_never_as_believed() {
        let mut record = record();
        let all = rows(&record);
        assert!(all.iter().all(|row| row.answer == Answer::Unknown), "{all:#?}");
        assert_eq!(exit_code(&all), 2);
        record.over = Some("nothing is offered".to_owned());
        assert!(rows(&record).iter().all(|row| row.answer == Answer::Unknown));
    }

    #[test]
    fn what_was_done_and_seen_is_as_believed() {
        let mut record = record();
        let expected = [BootKind::Expected];
        record.install = Some(ran(&record, Action::Install, OutcomeResult::Succeeded, &expected));
        record.removal = Some(ran(&record, Action::Rollback, OutcomeResult::RolledBack, &expected));
        record.is_hidden = Some(true);
        let rows = rows(&record);
        let odd: Vec<_> = rows.iter().filter(|row| row.answer != Answer::Ok).collect();
        assert_eq!(odd.len(), 1, "nothing was chosen in this test: {odd:#?}");
    }

    #[test]
    fn whatever_went_otherwise_differs() {
        let mut record = record();
        let mut install = ran(&record, Action::Install, OutcomeResult::RevertedByWindows, &[]);
        install.packages.clear();
        install.results[0].operation_result_code = 4;
        record.install = Some(install);
        for check in ["install", "restart", "proof", "packages"] {
            assert_eq!(answer(&record, &format!("exercise-{check}")), Answer::Differs, "{check}");
        }
        for kinds in [&[BootKind::Crash][..], &[BootKind::Expected, BootKind::Expected]] {
            record.install = Some(ran(&record, Action::Install, OutcomeResult::Succeeded, kinds));
            assert_eq!(answer(&record, "exercise-restart"), Answer::Differs, "{kinds:?}");
        }
        record.install =
            Some(ran(&record, Action::Install, OutcomeResult::Succeeded, &[BootKind::Unknown]));
        assert_eq!(answer(&record, "exercise-restart"), Answer::Unknown);

        let kinds = [BootKind::Expected];
        record.removal =
            Some(ran(&record, Action::Rollback, OutcomeResult::RollbackFailed, &kinds));
        assert_eq!(answer(&record, "exercise-removal"), Answer::Differs);
        assert_eq!(answer(&record, "exercise-absence"), Answer::Differs);
        record.removal = Some(ran(&record, Action::Rollback, OutcomeResult::RolledBack, &kinds));
        record.build_before = "20348.2762".to_owned();
        assert_eq!(answer(&record, "exercise-absence"), Answer::Differs);
        record.is_hidden = Some(false);
        assert_eq!(answer(&record, "exercise-hidden"), Answer::Differs);
    }

    #[test]
    fn what_was_not_done_is_not_told_as_done() {
        let mut record = record();
        let kinds = [BootKind::Expected];
        record.install = Some(ran(&record, Action::Install, OutcomeResult::Succeeded, &[]));
        assert_eq!(answer(&record, "exercise-proof"), Answer::Unknown, "no restart");
        let mut removal = ran(&record, Action::Rollback, OutcomeResult::RolledBack, &kinds);
        removal.results[0].operation_result_code = 0;
        record.removal = Some(removal);
        for check in ["exercise-removal", "exercise-absence"] {
            assert_eq!(answer(&record, check), Answer::Unknown, "there was nothing to remove");
        }
        // Cut off between the end of a job and its record.
        if let Some(install) = &mut record.install {
            install.results.clear();
        }
        assert_eq!(answer(&record, "exercise-install"), Answer::Unknown);
    }

    #[test]
    fn a_job_that_did_not_begin_tells_nothing() {
        let mut record = record();
        let mut install = ran(&record, Action::Install, OutcomeResult::NotStarted, &[]);
        install.results.clear();
        install.packages.clear();
        if let Some(outcome) = &mut install.outcome {
            (outcome.started, outcome.reboots) = (false, 0);
        }
        record.install = Some(install);
        assert!(rows(&record).iter().all(|row| row.answer == Answer::Unknown));
    }
}
