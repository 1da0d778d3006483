//! One event of the log, read from the XML that Windows renders (Windows documentation, "Event
//! schema"). Only what the classification needs; anything odd is no event.

use jiff::Timestamp;

/// An event.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Event {
    /// Who wrote it.
    pub provider: String,
    /// What happened, a number of the provider's own.
    pub id: u32,
    /// Its place in the log: later events have higher numbers, whatever the clock says.
    pub record: u64,
    /// When.
    pub at: Timestamp,
    data: Vec<(String, String)>,
}

impl Event {
    /// Reads one event.
    pub fn parse(xml: &str) -> Option<Event> {
        let (system, rest) = element(xml, "System")?;
        let (provider, _) = tag(system, "Provider")?;
        let (time, _) = tag(system, "TimeCreated")?;
        let (id, _) = element(system, "EventID")?;
        let (record, _) = element(system, "EventRecordID")?;
        Some(Event {
            provider: attribute(provider, "Name")?,
            id: id.trim().parse().ok()?,
            record: record.trim().parse().ok()?,
            at: attribute(time, "SystemTime")?.parse().ok()?,
            data: element(rest, "EventData").map(|(data, _)| fields(data)).unwrap_or_default(),
        })
    }

    /// A field of the event's own data.
    pub fn field(&self, name: &str) -> Option<&str> {
        let field = self.data.iter().find(|(field, _)| field == name);
        field.map(|(_, text)| text.as_str())
    }
}

/// The fields; those without a name are numbered like those of old events, from `param1`.
fn fields(mut data: &str) -> Vec<(String, String)> {
    let mut fields = Vec::new();
    while let Some((head, after)) = tag(data, "Data") {
        let name = attribute(head, "Name").unwrap_or_else(|| format!("param{}", fields.len() + 1));
        if head.ends_with('/') {
            fields.push((name, String::new()));
            data = after;
            continue;
        }
        let Some(end) = after.find("</Data>") else { break };
        fields.push((name, unescape(&after[..end])));
        data = &after[end..];
    }
    fields
}

/// What stands between `<name …>` and `</name>`, and what comes after.
fn element<'a>(xml: &'a str, name: &str) -> Option<(&'a str, &'a str)> {
    let (head, after) = tag(xml, name)?;
    if head.ends_with('/') {
        return None;
    }
    let end = after.find(&format!("</{name}>"))?;
    Some((&after[..end], &after[end..]))
}

/// The inside of the first tag of that name, and what comes after it.
fn tag<'a>(xml: &'a str, name: &str) -> Option<(&'a str, &'a str)> {
    let mut rest = xml;
    loop {
        let begin = rest.find('<')?;
        let inside = &rest[begin + 1..];
        let end = inside.find('>')?;
        let (head, after) = (&inside[..end], &inside[end + 1..]);
        let is_it = head.strip_prefix(name).is_some_and(|more| {
            more.is_empty() || more.starts_with(|next: char| next == '/' || next.is_whitespace())
        });
        if is_it {
            return Some((head, after));
        }
        rest = after;
    }
}

fn attribute(head: &str, name: &str) -> Option<String> {
    let mut rest = head;
    loop {
        let at = rest.find(name)?;
        let is_begin = rest[..at].ends_with(char::is_whitespace);
        let after = rest[at + name.len()..].trim_start();
        rest = &rest[at + name.len()..];
        let Some(value) = after.strip_prefix('=').filter(|_| is_begin) else { continue };
        let value = value.trim_start();
        let quote = value.chars().next().filter(|quote| ['\'', '"'].contains(quote))?;
        let value = &value[1..];
        return Some(unescape(&value[..value.find(quote)?]));
    }
}

fn unescape(text: &str) -> String {
    // The ampersand last, or what it escapes would be unescaped twice.
    text.replace("&lt;", "<")
        .replace("&gt;", ">")
        .replace("&quot;", "\"")
        .replace("&apos;", "'")
        .replace("&amp;", "&")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_event_is_read_with_its_named_fields() {
        let xml = "<Event xmlns='http://schemas.microsoft.com/win/2004/08/events/event'><System>\
            <Provider Name='Microsoft-Windows-Kernel-Power' Guid='{331c}'/><EventID>41</EventID>\
            <Version>8</Version><TimeCreated SystemTime='2026-03-10T02:11:09.1234567Z'/>\
            <EventRecordID>8123</EventRecordID><Security UserID='S-1-5-18'/></System><EventData>\
            <Data Name='BugcheckCode'>159</Data><Data Name='BugcheckParameter1'>0x3</Data>\
            <Data Name='Empty'/></EventData></Event>";
        let event = Event::parse(xml).unwrap();
        assert_eq!((event.provider.as_str(), event.id), ("Microsoft-Windows-Kernel-Power", 41));
        assert_eq!((event.record, event.at.as_second()), (8123, 1_773_108_669));
        assert_eq!(event.field("BugcheckCode"), Some("159"));
        assert_eq!(event.field("Empty"), Some(""));
        assert_eq!(event.field("Bugcheck"), None);
    }

    #[test]
    fn old_events_have_numbered_fields_and_qualified_ids() {
        let xml = r#"<Event><System><Provider Name="EventLog"/><EventID Qualifiers="32768">6008
            </EventID><TimeCreated SystemTime="2026-03-10T02:11:09Z"/><EventRecordID>7</EventRecordID>
            </System><EventData><Data>a &lt;b&gt; &amp;lt;</Data><Data>c</Data><Binary>00</Binary>
            </EventData></Event>"#;
        let event = Event::parse(xml).unwrap();
        assert_eq!((event.id, event.field("param1")), (6008, Some("a <b> &lt;")));
        assert_eq!(event.field("param2"), Some("c"));
    }

    #[test]
    fn garbage_is_no_event() {
        for xml in ["", "<", "<Event>", "<System></System>", "<System><Provider Name='x", "ä<ö>"]
        {
            assert_eq!(Event::parse(xml), None, "{xml}");
        }
        let no_record = "<System><Provider Name='x'/><EventID>1</EventID>\
            <TimeCreated SystemTime='2026-03-10T02:11:09Z'/></System>";
        assert_eq!(Event::parse(no_record), None);
    }
}
