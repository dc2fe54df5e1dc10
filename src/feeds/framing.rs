//! How a feed is written: CouchDB's layout, to the line, because clients read it by lines.
//!
//! | | before | a row | nothing to say | after |
//! | --- | --- | --- | --- | --- |
//! | list (normal, longpoll) | `{"results":[` | the row, with `,` and a line end before it but for the first | an empty line | `],` and `"last_seq":…,"pending":…}` |
//! | lines (continuous) | | the row | an empty line, or one with the seq | `{"last_seq":…,"pending":…}` |
//! | events (eventsource) | `retry: …` | `data:` and `id:` | an event `heartbeat`, with the seq as its `id:` | `id:` |

use std::fmt::Write;

use serde_json::value::RawValue;

use super::document;
use crate::feeds::snapshot::FeedRow;
use crate::kinto::seq::Seq;

/// After how many milliseconds a browser comes back.
const RETRY: &str = "retry: 3000";

/// All that an eventsource is told where there is no seat for it: to come back in half a minute.
pub const FULL: &str = "retry: 30000\n\n";

/// The outer form of a feed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Framing {
    /// One JSON document.
    List,
    /// A JSON document on each line.
    Lines,
    /// Server-sent events.
    Events,
}

/// A framing, and whether rows carry their documents.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Layout {
    /// The outer form.
    pub framing: Framing,
    /// `include_docs`.
    pub docs: bool,
}

impl Layout {
    /// How many layouts there are.
    pub const COUNT: usize = 6;

    /// A number below [`Self::COUNT`].
    pub fn number(self) -> usize {
        let framing = match self.framing {
            Framing::List => 0,
            Framing::Lines => 1,
            Framing::Events => 2,
        };
        framing * 2 + usize::from(self.docs)
    }

    /// Appends a row, with the version before a deletion where there is one to tell. In a list each begins with the comma after
    /// the one before it: see [`Self::separator`].
    pub fn write(self, text: &mut Vec<u8>, row: &FeedRow, previous: Option<&RawValue>) {
        match self.framing {
            Framing::List => {
                text.extend_from_slice(SEPARATOR);
                self.write_json(text, row, previous);
            }
            Framing::Lines => {
                self.write_json(text, row, previous);
                text.push(b'\n');
            }
            Framing::Events => {
                text.extend_from_slice(b"data: ");
                self.write_json(text, row, previous);
                text.extend_from_slice(format!("\nid: {}\n\n", row.seq).as_bytes());
            }
        }
    }

    /// How much of what [`Self::write`] appends the first row does not have.
    pub fn separator(self) -> usize {
        match self.framing {
            Framing::List => SEPARATOR.len(),
            Framing::Lines | Framing::Events => 0,
        }
    }

    fn write_json(self, text: &mut Vec<u8>, row: &FeedRow, previous: Option<&RawValue>) {
        let id = serde_json::Value::from(&*row.id);
        let (seq, rev) = (row.seq, row.rev());
        let mut head = String::with_capacity(128);
        // Writing to a String cannot fail.
        let _ = write!(head, r#"{{"seq":{seq},"id":{id},"changes":[{{"rev":"{rev}"}}]"#);
        if row.deleted {
            head.push_str(r#","deleted":true"#);
        }
        text.extend_from_slice(head.as_bytes());
        if self.docs {
            text.extend_from_slice(br#","doc":"#);
            document::write(text, row);
        }
        if let Some(previous) = previous {
            text.extend_from_slice(br#","previous":"#);
            document::extend_in_line(text, previous.get().as_bytes());
        }
        text.push(b'}');
    }
}

/// Between two rows of a list.
const SEPARATOR: &[u8] = b",\r\n";

impl Framing {
    /// The media type.
    pub fn content_type(self) -> &'static str {
        match self {
            Self::List | Self::Lines => "application/json",
            Self::Events => "text/event-stream",
        }
    }

    /// What comes first; `seq` is where its reader begins, where that is known.
    pub fn opening(self, seq: Option<Seq>) -> String {
        match (self, seq) {
            (Self::List, _) => "{\"results\":[\n".to_owned(),
            (Self::Lines, _) => String::new(),
            // Whoever began with `now` and is cut off before the first event goes on from there.
            (Self::Events, Some(seq)) => format!("{RETRY}\nid: {seq}\n\n"),
            (Self::Events, None) => format!("{RETRY}\n\n"),
        }
    }

    /// What shows that the feed is alive. Everything up to `seq` was told, or was not wanted; in lines that is said only where it
    /// `is_asked_for`: readers take all that is no empty line for a change.
    pub fn heartbeat(self, seq: Option<Seq>, is_asked_for: bool) -> String {
        match (self, seq) {
            (Self::Events, Some(seq)) => format!("event: heartbeat\nid: {seq}\ndata: \n\n"),
            (Self::Events, None) => "event: heartbeat\ndata: \n\n".to_owned(),
            (Self::Lines, Some(seq)) if is_asked_for => {
                format!("{{\"seq\":{seq},\"id\":null,\"changes\":[]}}\n")
            }
            (Self::List | Self::Lines, _) => "\n".to_owned(),
        }
    }

    /// What comes last; `cursor` is what those who share a poll ask with next.
    pub fn closing(self, last_seq: Seq, pending: u64, cursor: Option<u64>) -> String {
        match self {
            Self::List => {
                let cursor = cursor.map_or_else(String::new, |cursor| format!(",\"cursor\":{cursor}"));
                format!("\n],\n\"last_seq\":{last_seq},\"pending\":{pending}{cursor}}}\n")
            }
            Self::Lines => format!("{{\"last_seq\":{last_seq},\"pending\":{pending}}}\n"),
            // Whoever comes back goes on from here, also where nothing was told.
            Self::Events => format!("id: {last_seq}\n\n"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kinto::Timestamp;

    fn row(json: &'static str, deleted: bool) -> FeedRow {
        FeedRow::new(Seq::of(Timestamp(20)), "a".into(), Timestamp(10), deleted, json.into())
    }

    fn written(framing: Framing, docs: bool, row: &FeedRow) -> String {
        let mut text = Vec::new();
        Layout { framing, docs }.write(&mut text, row, None);
        String::from_utf8(text).unwrap()
    }

    #[test]
    fn rows_are_written_as_couchdb_writes_them() {
        let row = row(r#"{"id":"a","x":1.0}"#, true);
        assert_eq!(
            written(Framing::Lines, false, &row),
            "{\"seq\":20,\"id\":\"a\",\"changes\":[{\"rev\":\"1-10\"}],\"deleted\":true}\n"
        );
        assert_eq!(
            written(Framing::Events, true, &row),
            "data: {\"seq\":20,\"id\":\"a\",\"changes\":[{\"rev\":\"1-10\"}],\"deleted\":true,\
             \"doc\":{\"id\":\"a\",\"x\":1.0,\"_id\":\"a\",\"_rev\":\"1-10\",\"_deleted\":true}}\nid: 20\n\n"
        );
        let list = written(Framing::List, false, &row);
        assert!(list.starts_with(",\r\n{"), "{list}");
        let separator = Layout { framing: Framing::List, docs: false }.separator();
        assert_eq!(list.get(separator..=separator), Some("{"));
    }

    #[test]
    fn the_version_before_a_deletion_stands_beside_the_document() {
        let previous = RawValue::from_string("{\"id\":\n\"a\"}".to_owned()).unwrap();
        let mut text = Vec::new();
        let row = row("{}", true);
        Layout { framing: Framing::Lines, docs: false }.write(&mut text, &row, Some(&previous));
        let expected = "{\"seq\":20,\"id\":\"a\",\"changes\":[{\"rev\":\"1-10\"}],\"deleted\":true,\
                        \"previous\":{\"id\": \"a\"}}\n";
        assert_eq!(String::from_utf8(text).unwrap(), expected);
    }

    #[test]
    fn signs_of_life_say_how_far_the_feed_is() {
        let seq = Some(Seq::of(Timestamp(7)));
        let event = "event: heartbeat\nid: 7\ndata: \n\n";
        assert_eq!(Framing::Events.heartbeat(seq, false), event);
        assert_eq!(Framing::Events.heartbeat(None, true), "event: heartbeat\ndata: \n\n");
        assert_eq!(Framing::Lines.heartbeat(seq, false), "\n");
        assert_eq!(Framing::Lines.heartbeat(None, true), "\n");
        assert_eq!(Framing::Lines.heartbeat(seq, true), "{\"seq\":7,\"id\":null,\"changes\":[]}\n");
    }

    #[test]
    fn a_list_is_one_document() {
        let framing = Framing::List;
        let text = format!(
            "{}{}{}",
            framing.opening(None),
            framing.heartbeat(Some(Seq::of(Timestamp(6))), true),
            framing.closing(Seq::of(Timestamp(7)), 3, None)
        );
        assert_eq!(text, "{\"results\":[\n\n\n],\n\"last_seq\":7,\"pending\":3}\n");
        let document: serde_json::Value = serde_json::from_str(&text).unwrap();
        assert_eq!(document["last_seq"], 7);
    }
}
