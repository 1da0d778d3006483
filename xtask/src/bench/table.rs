//! The one table of all benchmarks, and whether a limit was missed.

use std::fmt::Write as _;

use anyhow::{Result, bail};

/// One line of the table: something measured several times.
pub struct Measure {
    pub name: String,
    pub unit: &'static str,
    pub min: f64,
    pub median: f64,
    pub max: f64,
    pub limit: Limit,
}

/// What the median of a measure is compared with.
#[derive(Clone, Copy)]
pub enum Limit {
    /// Shown for orientation only.
    None,
    AtMost(f64),
    AtLeast(f64),
}

impl Measure {
    /// Of the values of several rounds, in any order; there is at least one.
    pub fn of(name: &str, unit: &'static str, mut values: Vec<f64>, limit: Limit) -> Measure {
        values.sort_by(f64::total_cmp);
        let (min, median, max) = (values[0], middle(&values), values[values.len() - 1]);
        Measure { name: name.to_owned(), unit, min, median, max, limit }
    }

    fn holds(&self) -> bool {
        // Written so that a NaN misses every limit.
        match self.limit {
            Limit::None => true,
            Limit::AtMost(limit) => self.median <= limit,
            Limit::AtLeast(limit) => self.median >= limit,
        }
    }

    /// Why this is not good enough, as a sentence.
    fn complaint(&self) -> Option<String> {
        let (word, limit) = match self.limit {
            _ if self.holds() => return None,
            Limit::None => return None,
            Limit::AtMost(limit) => ("at most", limit),
            Limit::AtLeast(limit) => ("at least", limit),
        };
        let (name, median, unit) = (&self.name, number(self.median), self.unit);
        let limit = limit_number(limit);
        Some(format!("{name} has a median of {median} {unit} and must have {word} {limit}"))
    }
}

/// The median of at least one value; the values are in order. Of an even number of them, the greater.
pub fn middle(values: &[f64]) -> f64 {
    values[values.len() / 2]
}

/// The table as text.
pub fn print(measures: &[Measure]) -> String {
    let mut text = format!(
        "{:<46} {:>9} {:>9} {:>9}  {:<8} limit of the median",
        "measure", "min", "median", "max", "unit"
    );
    for measure in measures {
        let mark = if measure.holds() { "✓" } else { "✗ missed" };
        let limit = match measure.limit {
            Limit::None => "-".to_owned(),
            Limit::AtMost(limit) => format!("≤ {} {mark}", limit_number(limit)),
            Limit::AtLeast(limit) => format!("≥ {} {mark}", limit_number(limit)),
        };
        let Measure { name, unit, min, median, max, .. } = measure;
        let (min, median, max) = (number(*min), number(*median), number(*max));
        write!(text, "\n{name:<46} {min:>9} {median:>9} {max:>9}  {unit:<8} {limit}")
            .expect("a string takes everything");
    }
    text
}

/// Fails with a sentence for every limit that was missed.
pub fn judge(measures: &[Measure]) -> Result<()> {
    let complaints: Vec<_> = measures.iter().filter_map(Measure::complaint).collect();
    if !complaints.is_empty() {
        bail!("limits were missed: {}", complaints.join("; "));
    }
    Ok(())
}

/// Large figures need no fraction, small ones three digits of it.
fn number(value: f64) -> String {
    match value.abs() {
        size if size >= 1000.0 => format!("{value:.0}"),
        size if size >= 10.0 => format!("{value:.1}"),
        size if size >= 1.0 => format!("{value:.2}"),
        _ => format!("{value:.3}"),
    }
}

/// As [`number`], without zeros at its end.
fn limit_number(value: f64) -> String {
    let text = number(value);
    match text.contains('.') {
        true => text.trim_end_matches('0').trim_end_matches('.').to_owned(),
        false => text,
    }
}

#[cfg(test)]
mod tests {
    use super::{Limit, Measure, judge, limit_number, print};

    #[test]
    fn a_measure_shows_the_least_the_middle_and_the_most_of_its_rounds() {
        let measure = Measure::of("plan: cold", "ms", vec![15.5, 9.25, 12.0], Limit::AtMost(20.0));

        let table = print(&[measure]);

        let words: Vec<_> = table.lines().nth(1).unwrap().split_whitespace().collect();
        assert_eq!(words, ["plan:", "cold", "9.25", "12.0", "15.5", "ms", "≤", "20", "✓"]);
    }

    #[test]
    fn a_median_on_the_wrong_side_of_its_limit_fails_with_a_sentence() {
        let slow = Measure::of("plan: cold", "ms", vec![19.0, 21.0, 30.0], Limit::AtMost(20.0));
        let weak = Measure::of("check-ins", "ratio", vec![0.7], Limit::AtLeast(0.8));
        let fine = Measure::of("cache", "ratio", vec![0.2], Limit::AtMost(0.35));

        let error = judge(&[slow, weak, fine]).unwrap_err().to_string();

        assert_eq!(
            error,
            "limits were missed: plan: cold has a median of 21.0 ms and must have at most 20; \
             check-ins has a median of 0.700 ratio and must have at least 0.8"
        );
    }

    #[test]
    fn a_limit_has_as_few_digits_as_it_needs() {
        let limits = [1000.0, 20.0, 5_000_000.0 / 1024.0 / 1024.0, 2.0, 0.8];

        assert_eq!(limits.map(limit_number), ["1000", "20", "4.77", "2", "0.8"]);
    }

    #[test]
    fn what_could_not_be_measured_does_not_pass() {
        let broken = Measure::of("cache", "ratio", vec![f64::NAN], Limit::AtMost(0.35));

        assert!(judge(&[broken]).is_err());
    }
}
