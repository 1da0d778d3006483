//! A forecast for people, and for scripts.

use std::collections::BTreeMap;

use jiff::{SignedDuration, Timestamp};
use serde_json::{Value, json};
use wardring_api::{Span, reasons::Reason};
use wardring_planner::{Assumptions, DeviceForecast, Forecast, ForecastEnd, StageForecast};

use crate::{
    paint::{Palette, Tone},
    table::{Cell, Table},
};

/// Devices that do not come to a good end, shown one by one.
const SHOWN: usize = 20;
/// Reasons shown for a stage.
const REASONS: usize = 3;
const NONE: &str = "-";
const UNKNOWN: &str = "unknown";

/// A forecast and what it rests on.
pub struct Told {
    /// `resource/name`.
    pub name: String,
    /// Namespace.
    pub namespace: String,
    /// What is assumed.
    pub assumptions: Assumptions,
    /// What else a reader has to know.
    pub remarks: Vec<String>,
    /// The forecast.
    pub forecast: Forecast,
}

impl Told {
    /// For people; with `whole`, a line for every device.
    pub fn text(&self, whole: bool, palette: Palette) -> String {
        let forecast = &self.forecast;
        let mut out = Table::default();
        out.note(
            Tone::Plain,
            format!(
                "{} in namespace {}, as things are at {}. Nothing was written.",
                self.name,
                self.namespace,
                minute(forecast.made_at)
            ),
        );
        self.remarks.iter().for_each(|remark| out.note(Tone::Warn, remark));
        out.note(Tone::Dim, self.assumed());
        out.note(Tone::Plain, "");
        let mut text = out.render(palette);
        text.push_str(&stages(&forecast.stages).render(palette));
        let devices = self.devices(whole);
        text.push_str(&devices.render(palette));
        let mut last = Table::default();
        if !forecast.notes.is_empty() {
            last.note(Tone::Plain, "");
            last.note(Tone::Warn, "To know before:");
            forecast.notes.iter().for_each(|note| last.note(Tone::Plain, format!("  {note}")));
        }
        last.note(Tone::Plain, "");
        let (tone, sentence, more) = self.end();
        last.note(tone, sentence);
        more.iter().for_each(|line| last.note(Tone::Plain, format!("  {line}")));
        text + &last.render(palette)
    }

    fn assumed(&self) -> String {
        let away = if self.assumptions.all_online {
            "every device is in contact"
        } else {
            "who is offline stays so (--all-online assumes otherwise)"
        };
        format!(
            "Assumed: {} to install, {} to restart, no update fails, gates that are measured outside pass, {away}, the controller runs.",
            Span(self.assumptions.install),
            Span(self.assumptions.restart)
        )
    }

    /// The last sentence, and what belongs to it.
    fn end(&self) -> (Tone, String, &[String]) {
        let all = self.forecast.devices.len();
        let good = self.forecast.devices.iter().filter(|device| device.held.is_none()).count();
        let tone = if good == all { Tone::Good } else { Tone::Warn };
        match &self.forecast.end {
            ForecastEnd::Completed(at) => {
                let verb = if *at < self.forecast.made_at { "completed" } else { "completes" };
                let sentence =
                    format!("It {verb} at {}, with {good} of {all} devices.", minute(*at));
                (tone, sentence, &[])
            }
            ForecastEnd::GoesOn { looked_until, sentences } => {
                let until = minute(*looked_until);
                let sentence =
                    format!("It still goes on at {until}, which is as far as this looks.");
                (Tone::Warn, sentence, sentences)
            }
            ForecastEnd::Waits { since, sentences } => {
                let since = minute(*since);
                let sentence =
                    format!("It does not complete by itself: nothing moves after {since}.");
                (Tone::Bad, sentence, sentences)
            }
        }
    }

    /// Every device, or those that do not come to a good end.
    fn devices(&self, whole: bool) -> Table {
        let all = &self.forecast.devices;
        let mut table = Table::default();
        let shown: Vec<&DeviceForecast> =
            all.iter().filter(|device| whole || device.held.is_some()).collect();
        if shown.is_empty() {
            return table;
        }
        table.note(Tone::Plain, "");
        if !whole {
            self.few(&shown, &mut table);
            return table;
        }
        table.row(
            ["DEVICE", "STAGE", "STARTS", "DONE", "REVERSIBLE", "WAITS FOR"]
                .map(Cell::from)
                .to_vec(),
        );
        for device in shown {
            let waits = match (&device.held, device.waited_for) {
                (Some(held), _) => Cell::new(held.reason.as_str(), Tone::Warn),
                (None, Some(reason)) => Cell::from(reason.as_str()),
                (None, None) => Cell::from(NONE),
            };
            let done = device.done.map_or(NONE.to_owned(), |(at, state)| {
                format!("{} {}", minute(at), state.as_str())
            });
            table.row(vec![
                Cell::from(&device.device),
                Cell::from(&device.stage),
                Cell::from(match self.start_unknown(device) {
                    Some(_) => UNKNOWN.to_owned(),
                    None => instant(device.starts),
                }),
                Cell::from(done),
                Cell::from(format!("{:?}", device.reversible)),
                waits,
            ]);
        }
        table
    }

    /// Why the stage does not open.
    fn shut(&self, stage: &str) -> Option<&str> {
        let mut stages = self.forecast.stages.iter();
        stages.find(|all| all.name == stage)?.does_not_open.as_deref()
    }

    /// Why nobody can tell when the device starts: its stage does not open.
    fn start_unknown(&self, device: &DeviceForecast) -> Option<&str> {
        let never = device.held.as_ref().is_some_and(|all| all.reason == Reason::NotApplicable);
        let is_open = device.starts.is_some() || device.done.is_some() || never;
        self.shut(&device.stage).filter(|_| !is_open)
    }

    /// The first of them with what is said of each, but for those that wait for their stage alone.
    fn few(&self, devices: &[&DeviceForecast], table: &mut Table) {
        let count = match devices.len() {
            1 => "1 device is".to_owned(),
            count => format!("{count} devices are"),
        };
        table.note(
            Tone::Warn,
            format!("{count} not patched in the end (-o wide shows every device):"),
        );
        let waits = |device: &&DeviceForecast| {
            let held = device.held.as_ref().map(|held| held.reason);
            held == Some(Reason::StageNotOpen) && self.shut(&device.stage).is_some()
        };
        let (ready, held): (Vec<_>, Vec<_>) = devices.iter().copied().partition(waits);
        for device in held.iter().take(SHOWN) {
            let why = device.held.as_ref().map(|held| held.message.as_str()).unwrap_or_default();
            table.note(Tone::Plain, format!("  {why}"));
        }
        if let Some(more) = held.get(SHOWN..).filter(|more| !more.is_empty()) {
            let told = format!("  and {} more: {}", more.len(), reasons(more));
            table.note(Tone::Dim, told);
        }
        for stage in &self.forecast.stages {
            let devices = match ready.iter().filter(|device| device.stage == stage.name).count() {
                0 => continue,
                1 => "1 device".to_owned(),
                count => format!("{count} devices"),
            };
            let told = format!("  {devices} could start once stage {} opens.", stage.name);
            table.note(Tone::Plain, told);
        }
    }

    /// For scripts.
    pub fn document(&self) -> Value {
        let forecast = &self.forecast;
        let stages = forecast.stages.iter().map(|stage| {
            let held = stage.held.iter().map(
                |(reason, held)| json!({ "reason": reason.as_str(), "seconds": held.as_secs() }),
            );
            json!({
                "name": stage.name,
                "devices": stage.devices,
                "opens": stage.opens,
                "doesNotOpen": stage.does_not_open,
                "goesOn": stage.goes_on,
                "completes": stage.completes,
                "longestWaits": held.collect::<Vec<_>>(),
            })
        });
        let devices = forecast.devices.iter().map(|device| {
            json!({
                "name": device.device,
                "stage": device.stage,
                "starts": device.starts,
                "startUnknown": self.start_unknown(device),
                "waitedFor": device.waited_for.map(|reason| reason.as_str()),
                "done": device.done.map(|(at, _)| at),
                "state": device.done.map(|(_, state)| state.as_str()),
                "reason": device.held.as_ref().map(|held| held.reason.as_str()),
                "message": device.held.as_ref().map(|held| held.message.as_str()),
                "reversible": format!("{:?}", device.reversible),
            })
        });
        let (kind, at, waits_for) = match &forecast.end {
            ForecastEnd::Completed(at) => ("Completes", at, &[][..]),
            ForecastEnd::GoesOn { looked_until, sentences } => {
                ("GoesOn", looked_until, &sentences[..])
            }
            ForecastEnd::Waits { since, sentences } => ("Waits", since, &sentences[..]),
        };
        json!({
            "object": self.name,
            "namespace": self.namespace,
            "madeAt": forecast.made_at,
            "assumed": {
                "installSeconds": self.assumptions.install.as_secs(),
                "restartSeconds": self.assumptions.restart.as_secs(),
                "allOnline": self.assumptions.all_online,
            },
            "remarks": self.remarks,
            "notes": forecast.notes,
            "stages": stages.collect::<Vec<_>>(),
            "devices": devices.collect::<Vec<_>>(),
            "end": { "kind": kind, "at": at, "waitsFor": waits_for },
        })
    }
}

fn stages(stages: &[StageForecast]) -> Table {
    let mut table = Table::new(&["STAGE", "DEVICES", "OPENS", "COMPLETES", "WAITS (LONGEST)"]);
    for stage in stages {
        let held: Vec<String> = stage
            .held
            .iter()
            .take(REASONS)
            .map(|(reason, held)| format!("{} {}", reason.as_str(), time(*held)))
            .collect();
        let completes = match stage.completes {
            Some(at) => Cell::from(minute(at)),
            None => Cell::new(NONE, Tone::Warn),
        };
        let opens = match &stage.does_not_open {
            Some(_) => Cell::new(UNKNOWN, Tone::Warn),
            None => Cell::from(instant(stage.opens)),
        };
        table.row(vec![
            Cell::from(&stage.name),
            Cell::from(stage.devices.map_or(NONE.to_owned(), |devices| devices.to_string())),
            opens,
            completes,
            Cell::from(if held.is_empty() { NONE.to_owned() } else { held.join(", ") }),
        ]);
        if let Some(why) = &stage.does_not_open {
            table.note(Tone::Warn, format!("  {why}"));
        }
        if let Some(at) = stage.goes_on {
            let at = minute(at);
            let told = format!("  lets later stages go on at {at} and stays open for latecomers");
            table.note(Tone::Dim, told);
        }
    }
    table
}

/// How many of each reason.
fn reasons(devices: &[&DeviceForecast]) -> String {
    let mut counts: BTreeMap<&str, usize> = BTreeMap::new();
    for held in devices.iter().filter_map(|device| device.held.as_ref()) {
        *counts.entry(held.reason.as_str()).or_default() += 1;
    }
    let counts = counts.into_iter().map(|(reason, count)| format!("{count} {reason}"));
    counts.collect::<Vec<_>>().join(", ")
}

fn instant(at: Option<Timestamp>) -> String {
    at.map_or(NONE.to_owned(), minute)
}

fn minute(at: Timestamp) -> String {
    at.strftime("%Y-%m-%d %H:%M UTC").to_string()
}

/// To the minute, and to the hour where days count.
fn time(time: SignedDuration) -> String {
    let minutes = match time.as_mins() {
        minutes if minutes > 48 * 60 => minutes / 60 * 60,
        minutes => minutes.max(1),
    };
    Span(SignedDuration::from_mins(minutes)).to_string()
}

#[cfg(test)]
mod tests {
    use wardring_api::{LineState, Reversible};
    use wardring_planner::Explanation;

    use super::*;

    fn at(text: &str) -> Timestamp {
        text.parse().unwrap()
    }

    fn told() -> Told {
        let done = Some((at("2026-11-21T22:50:00Z"), LineState::Succeeded));
        let message = "ws-2 is in mode Observe.".to_owned();
        let held = Explanation { reason: Reason::ObserveMode, message, until: None };
        let device = |device: &str| DeviceForecast {
            device: device.to_owned(),
            stage: "test".to_owned(),
            starts: Some(at("2026-11-21T22:00:00Z")),
            waited_for: Some(Reason::OutsideWindow),
            done,
            held: None,
            reversible: Reversible::Expected,
        };
        let observed = DeviceForecast {
            starts: None,
            waited_for: Some(Reason::ObserveMode),
            done: None,
            held: Some(held),
            ..device("ws-2")
        };
        Told {
            name: "patchrollout.wardring.dev/2026-11".to_owned(),
            namespace: "patching".to_owned(),
            assumptions: Assumptions::default(),
            remarks: vec!["It is suspended.".to_owned()],
            forecast: Forecast {
                made_at: at("2026-11-20T10:00:00Z"),
                stages: vec![StageForecast {
                    name: "test".to_owned(),
                    devices: Some(2),
                    opens: Some(at("2026-11-20T10:00:00Z")),
                    does_not_open: None,
                    goes_on: Some(at("2026-11-21T23:00:00Z")),
                    completes: None,
                    held: vec![
                        (Reason::OutsideWindow, SignedDuration::from_hours(36)),
                        (Reason::SlotsTaken, SignedDuration::from_mins(50)),
                    ],
                }],
                devices: vec![device("ws-1"), observed],
                notes: vec!["No update of this rollout is for Windows 7.".to_owned()],
                end: ForecastEnd::Waits {
                    since: at("2026-11-21T22:50:00Z"),
                    sentences: vec!["Stage test waits for 1 device.".to_owned()],
                },
            },
        }
    }

    #[test]
    fn a_person_reads_stages_who_does_not_start_and_what_it_waits_for() {
        let expected = "\
patchrollout.wardring.dev/2026-11 in namespace patching, as things are at 2026-11-20 10:00 UTC. Nothing was written.
It is suspended.
Assumed: 30m to install, 10m to restart, no update fails, gates that are measured outside pass, who is offline stays so (--all-online assumes otherwise), the controller runs.

STAGE   DEVICES   OPENS                  COMPLETES   WAITS (LONGEST)
test    2         2026-11-20 10:00 UTC   -           OutsideWindow 1d12h, SlotsTaken 50m
  lets later stages go on at 2026-11-21 23:00 UTC and stays open for latecomers

1 device is not patched in the end (-o wide shows every device):
  ws-2 is in mode Observe.

To know before:
  No update of this rollout is for Windows 7.

It does not complete by itself: nothing moves after 2026-11-21 22:50 UTC.
  Stage test waits for 1 device.
";
        assert_eq!(told().text(false, Palette::Plain), expected);
    }

    #[test]
    fn the_wide_form_has_a_line_for_every_device() {
        let text = told().text(true, Palette::Plain);
        let line = |name: &str| {
            let line = text.lines().find(|line| line.starts_with(name)).unwrap();
            line.split("   ").map(str::trim).filter(|part| !part.is_empty()).collect::<Vec<_>>()
        };
        let [start, done] = ["2026-11-21 22:00 UTC", "2026-11-21 22:50 UTC Succeeded"];
        assert_eq!(line("ws-1"), ["ws-1", "test", start, done, "Expected", "OutsideWindow"]);
        assert_eq!(line("ws-2"), ["ws-2", "test", "-", "-", "Expected", "ObserveMode"]);
    }

    /// Behind it a stage that does not open, of three devices, one of them held.
    fn behind() -> Told {
        let mut told = told();
        let why =
            "Stage broad does not open: stage test comes first. Stage test waits for 1 device.";
        let forecast = &mut told.forecast;
        forecast.stages.push(StageForecast {
            name: "broad".to_owned(),
            devices: Some(3),
            opens: None,
            does_not_open: Some(why.to_owned()),
            goes_on: None,
            completes: None,
            held: Vec::new(),
        });
        for (device, reason, message) in [
            ("b-1", Reason::StageNotOpen, format!("b-1 could start, and when is unknown. {why}")),
            ("b-2", Reason::Offline, "b-2 does not start: no agent is in contact.".to_owned()),
            ("b-3", Reason::StageNotOpen, format!("b-3 could start, and when is unknown. {why}")),
        ] {
            forecast.devices.push(DeviceForecast {
                device: device.to_owned(),
                stage: "broad".to_owned(),
                starts: None,
                waited_for: None,
                done: None,
                held: Some(Explanation { reason, message, until: None }),
                reversible: Reversible::No,
            });
        }
        told
    }

    #[test]
    fn a_stage_that_does_not_open_says_why_once_and_who_of_it_is_held() {
        let text = behind().text(false, Palette::Plain);
        let expected = "
broad   3         unknown                -           -
  Stage broad does not open: stage test comes first. Stage test waits for 1 device.

4 devices are not patched in the end (-o wide shows every device):
  ws-2 is in mode Observe.
  b-2 does not start: no agent is in contact.
  2 devices could start once stage broad opens.
";
        assert!(text.contains(expected), "{text}");
    }

    #[test]
    fn devices_of_a_stage_that_does_not_open_start_at_an_unknown_time() {
        let text = behind().text(true, Palette::Plain);
        let line = |name: &str| {
            let line = text.lines().find(|line| line.starts_with(name)).unwrap();
            line.split_whitespace().collect::<Vec<_>>()
        };
        assert_eq!(line("b-1"), ["b-1", "broad", "unknown", "-", "No", "StageNotOpen"]);
        assert_eq!(line("b-2"), ["b-2", "broad", "unknown", "-", "No", "Offline"]);
        let document = behind().document();
        let why = document["stages"][1]["doesNotOpen"].as_str().unwrap();
        assert!(why.starts_with("Stage broad does not open"), "{why}");
        let [opened, held] = [1, 3].map(|position| document["devices"][position].clone());
        assert_eq!((&held["starts"], &held["startUnknown"]), (&Value::Null, &json!(why)));
        assert_eq!(held["reason"], "Offline");
        assert_eq!(opened["startUnknown"], Value::Null, "its stage opens");
    }

    #[test]
    fn scripts_read_instants_seconds_and_words() {
        let document = told().document();
        assert_eq!(document["end"]["kind"], "Waits");
        assert_eq!(document["devices"][0]["starts"], "2026-11-21T22:00:00Z");
        assert_eq!(document["devices"][1]["reason"], "ObserveMode");
        assert_eq!(document["stages"][0]["longestWaits"][0]["seconds"], 36 * 3600);
    }
}
