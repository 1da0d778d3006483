//! The result as a table for people.

use std::fmt::Write as _;

use super::{Answer, Row, Weight};

/// The table: what differs first, then what is unknown, then what is as believed; and a summary.
pub fn text(rows: &[Row]) -> String {
    let mut order: Vec<&Row> = rows.iter().collect();
    let rank = |answer: Answer| match answer {
        Answer::Differs => 0,
        Answer::Unknown => 1,
        Answer::Ok => 2,
    };
    order.sort_by_key(|row| (rank(row.answer), row.weight == Weight::Assumed));
    table(&order)
}

/// The table with its rows as they are, which follow one from another; and a summary.
pub fn in_order(rows: &[Row]) -> String {
    table(&rows.iter().collect::<Vec<_>>())
}

fn table(order: &[&Row]) -> String {
    let width = order.iter().map(|row| row.check.len()).max().unwrap_or(0);
    let mut text = String::new();
    for row in order {
        let answer = match row.answer {
            Answer::Ok => "ok",
            Answer::Differs => "DIFFERS",
            Answer::Unknown => "unknown",
        };
        let weight = match row.weight {
            Weight::Needed => "needed",
            Weight::Assumed => "assumed",
        };
        // Writing to a String cannot fail, here and below.
        let _ = writeln!(text, "{answer:<8} {weight:<8} {:<width$}  {}", row.check, row.says);
        let _ = writeln!(text, "{:indent$}{}", "", one_line(&row.evidence), indent = 20 + width);
    }
    let count = |answer| order.iter().filter(|row| row.answer == answer).count();
    let _ = writeln!(
        text,
        "{} ok, {} differ, {} unknown",
        count(Answer::Ok),
        count(Answer::Differs),
        count(Answer::Unknown)
    );
    text
}

/// Evidence comes from Windows: whatever it holds, it is one line of the table.
fn one_line(evidence: &str) -> String {
    let line: String =
        evidence.chars().map(|char| if char.is_control() { ' ' } else { char }).take(300).collect();
    line.split_whitespace().collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_differs_stands_first_and_evidence_keeps_to_its_line() {
        let row = |check, answer, evidence: &str| Row {
            check,
            weight: Weight::Needed,
            says: "it is so",
            answer,
            evidence: evidence.to_owned(),
        };
        let text = text(&[
            row("fine", Answer::Ok, "seen"),
            row("dism", Answer::Differs, "0x80040154\r\n\r\n  not there"),
        ]);
        let lines: Vec<&str> = text.lines().collect();
        assert!(lines[0].starts_with("DIFFERS  needed   dism  it is so"), "{text}");
        assert_eq!(lines[1].trim(), "0x80040154 not there");
        assert_eq!(lines[4], "1 ok, 1 differ, 0 unknown");
    }
}
