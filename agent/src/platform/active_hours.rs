//! Hours of the day in which a restart waits.

/// When active hours from `start` to `end` end, if `hour` lies in them; `end` below `start` is an hour
/// of the next day. Hours that no clock shows are none.
#[cfg_attr(all(not(windows), not(feature = "scripted")), allow(dead_code))]
pub(super) fn until(start: u8, end: u8, hour: u8) -> Option<u8> {
    let is_one = |hour: u8| hour < 24;
    let is_active =
        if start <= end { (start..end).contains(&hour) } else { hour >= start || hour < end };
    (is_one(start) && is_one(end) && is_active).then_some(end)
}

#[cfg(test)]
mod tests {
    use super::until;

    #[test]
    fn active_hours_end_where_they_end_also_after_midnight() {
        assert_eq!([7, 8, 16, 17].map(|hour| until(8, 17, hour)), [None, Some(17), Some(17), None]);
        let night = [21, 22, 23, 0, 5, 6].map(|hour| until(22, 6, hour));
        assert_eq!(night, [None, Some(6), Some(6), Some(6), Some(6), None]);
    }

    #[test]
    fn hours_that_no_clock_shows_are_none() {
        assert_eq!([until(8, 8, 8), until(8, 30, 9), until(24, 6, 3)], [None; 3]);
    }
}
