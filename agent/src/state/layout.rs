//! The fields that the journal keeps. An agent that does not know one would leave it out of its next
//! write, so a field more is another layout: whoever adds one adds it here and raises the journal's
//! `SCHEMA`.

use serde_json::Value;
use wardring_seal::Action;

use super::bench::{Bench, Script};
use super::{Event, Phase};
use crate::journal::SCHEMA;

const STATE: &str = "boot boots build finished highestSequence job lost me mode records refuses roles run \
    runBeganMonoMs turn watches";
const JOB: &str = "acceptedAt acceptedIn already awaits baseline boots changes contact crashes ending \
    forbiddingRole hooks installedInBoot message orderedMonoMs ownRollback payload \
    permitUntilMonoMs phase pids rebootRequired reboots remediations shaken strikes touched \
    tries trouble unanswered unhealthy updates waiting warnedMonoMs";

fn fields(value: &Value) -> String {
    let fields = value.as_object().unwrap().keys().map(String::as_str);
    fields.collect::<Vec<_>>().join(" ")
}

#[test]
fn a_field_more_or_less_is_another_layout_of_the_journal() {
    let mut bench = Bench::new().with("KB1", Script::default());
    let job = bench.job(1, Action::Install);
    bench.take(Event::Offered(Box::new(job)));
    let is_verifying = |bench: &Bench| {
        let job = bench.state.job.as_ref();
        job.is_some_and(|job| matches!(job.phase, Phase::Verifying { .. }))
    };
    bench.go_until(is_verifying);
    let document = serde_json::to_value(&bench.state).unwrap();
    let found = (SCHEMA, fields(&document), fields(&document["job"]));
    assert_eq!(found, (4, STATE.to_owned(), JOB.to_owned()));
}
