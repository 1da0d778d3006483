//! Ordering a restart where something may be scheduled already, by whomever.

/// Why Windows does not do as it is told, with its words.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Refusal {
    /// A shutdown or restart is scheduled.
    Scheduled(String),
    /// It goes down already.
    GoesDown,
    /// Anything else.
    Other(String),
}

/// How an order ended.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Ordered {
    /// Whether the device goes down; else why not.
    pub result: Result<(), String>,
    /// What somebody else had scheduled was taken back.
    pub took_back: bool,
}

/// Orders a restart. What is scheduled already gives way: ours has a permit, now. Windows does not say
/// whose that is; `is_ours` where an order of ours is open.
pub(super) fn order(
    is_ours: bool,
    mut restart: impl FnMut() -> Result<(), Refusal>,
    abort: impl FnOnce() -> Result<(), Refusal>,
) -> Ordered {
    let mut took_back = false;
    let mut ordered = restart();
    if let Err(Refusal::Scheduled(_)) = ordered {
        ordered = abort().and_then(|()| {
            took_back = !is_ours;
            restart()
        });
    }
    let result = match ordered {
        Ok(()) | Err(Refusal::GoesDown) => Ok(()),
        Err(Refusal::Scheduled(why) | Refusal::Other(why)) if took_back => Err(format!(
            "{why}; a shutdown or restart that somebody had scheduled was taken back before"
        )),
        Err(Refusal::Scheduled(why) | Refusal::Other(why)) => Err(why),
    };
    Ordered { result, took_back }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn scheduled() -> Result<(), Refusal> {
        Err(Refusal::Scheduled("a shutdown is scheduled".to_owned()))
    }

    fn refused() -> Result<(), Refusal> {
        Err(Refusal::Other("no".to_owned()))
    }

    /// How an order ends with these answers, and how many of them Windows gave.
    fn ends<const N: usize>(
        is_ours: bool,
        answers: [Result<(), Refusal>; N],
        abort: Result<(), Refusal>,
    ) -> (Ordered, usize) {
        let (mut left, mut asked) = (answers.into_iter(), 0);
        let restart = || {
            asked += 1;
            left.next().expect("no more orders are given")
        };
        let ordered = order(is_ours, restart, || abort);
        (ordered, asked)
    }

    fn well(took_back: bool) -> Ordered {
        Ordered { result: Ok(()), took_back }
    }

    #[test]
    fn what_somebody_scheduled_gives_way_and_is_told_and_what_is_ours_is_not() {
        assert_eq!(ends(false, [Ok(())], refused()), (well(false), 1));
        assert_eq!(ends(false, [scheduled(), Ok(())], Ok(())), (well(true), 2));
        assert_eq!(ends(true, [scheduled(), Ok(())], Ok(())), (well(false), 2));
    }

    #[test]
    fn a_device_that_goes_down_needs_no_order() {
        let goes = || Err(Refusal::GoesDown);
        assert_eq!(ends(false, [goes()], refused()), (well(false), 1));
        assert_eq!(ends(false, [scheduled()], goes()), (well(false), 1));
        assert_eq!(ends(false, [scheduled(), goes()], Ok(())), (well(true), 2));
    }

    #[test]
    fn a_refusal_says_what_was_taken_back_before_it() {
        let lost = "no; a shutdown or restart that somebody had scheduled was taken back before";
        let result = |is_ours, answers: [_; 2], abort| ends(is_ours, answers, abort).0.result;
        assert_eq!(result(false, [scheduled(), refused()], Ok(())), Err(lost.to_owned()));
        assert_eq!(result(true, [scheduled(), refused()], Ok(())), Err("no".to_owned()));
        assert_eq!(result(false, [scheduled(), Ok(())], refused()), Err("no".to_owned()));
        assert_eq!(ends(false, [refused()], Ok(())).0.result, Err("no".to_owned()));
    }
}
