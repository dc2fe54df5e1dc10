//! What of a bucket's history is looked at to say what changed, or to undo it: versions between two moments, and the
//! filters of the list language.

use crate::app::Core;
use crate::endpoints::history;
use crate::journal::Versions;
use crate::kinto::{Timestamp, moment};
use crate::query::{Fault, Given, Invalid, Parameters, Query};

const FROM: &str = "from";
const TO: &str = "to";

/// What is selected.
#[derive(Debug)]
pub(super) struct Selection {
    /// What the list language says.
    pub(super) query: Query,
    /// Which versions are meant.
    pub(super) versions: Versions,
    /// The most objects of a page.
    pub(super) limit: Option<usize>,
    /// Where the page before ended.
    pub(super) token: Option<String>,
}

impl Selection {
    /// Reads parameters; `faults` are those already found elsewhere in the same request.
    pub(super) fn read(
        core: &Core,
        parameters: &Parameters,
        mut faults: Vec<Fault>,
    ) -> Result<Self, Invalid> {
        let mut moment_of = |name: &'static str| match parameters.values(name) {
            Some([text]) if name == TO && text == "now" => Some(Timestamp::LAST),
            Some([text]) => moment(text).or_else(|| {
                let description = format!("\"{text}\" is neither a timestamp nor a date of RFC 3339");
                faults.push(Fault::query(name, description));
                None
            }),
            None if name == TO => Some(Timestamp::LAST),
            None => {
                faults.push(Fault::query(name, "Required: a timestamp or a date of RFC 3339"));
                None
            }
            Some(_) => {
                faults.push(Fault::query(name, "It is given several times"));
                None
            }
        };
        let (after, until) = (moment_of(FROM), moment_of(TO));
        let token = parameters.single("_token").map(str::to_owned);
        let filters = parameters.only(|name| !matches!(name, FROM | TO | "_token"));
        let query = Self::filters(core, &filters, faults)?;
        let versions = Versions { after: after.unwrap_or_default(), until: until.unwrap_or_default() };
        let limit = query.limit;
        Ok(Self { query, versions, limit, token })
    }

    /// Reads the filters alone; the order is always the same, and so are the members.
    pub(super) fn filters(
        core: &Core,
        parameters: &Parameters,
        mut faults: Vec<Fault>,
    ) -> Result<Query, Invalid> {
        for name in ["_sort", "_fields"] {
            if parameters.values(name).is_some() {
                faults.push(Fault::query(name, "It means nothing here"));
            }
        }
        Query::of(&Given::read(parameters, faults)?, &history::rules(core))
    }
}
