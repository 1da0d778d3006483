//! Questions to the event log, in its own language (Microsoft Learn, "Consuming Events").

/// Selects the events of a source with these numbers from the last milliseconds.
///
/// # Errors
/// The source's name holds a quotation mark, which the language cannot express.
pub fn events_query(provider: &str, ids: &[u16], since_ms: u64) -> Result<String, String> {
    if provider.contains(['\'', '"', '<', '>', '&']) || ids.is_empty() {
        return Err(format!("{provider:?} is no name of a source of events"));
    }
    let ids: Vec<String> = ids.iter().map(|id| format!("EventID={id}")).collect();
    Ok(format!(
        "*[System[Provider[@Name='{provider}'] and ({}) and TimeCreated[timediff(@SystemTime) <= \
         {since_ms}]]]",
        ids.join(" or ")
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_query_names_source_numbers_and_time_and_takes_no_other_words() {
        assert_eq!(
            events_query("Application Error", &[1000, 1001], 600_000).unwrap(),
            "*[System[Provider[@Name='Application Error'] and (EventID=1000 or EventID=1001) and \
             TimeCreated[timediff(@SystemTime) <= 600000]]]"
        );
        assert!(events_query("x'] or *[y", &[1], 0).is_err());
        assert!(events_query("x", &[], 0).is_err());
    }
}
