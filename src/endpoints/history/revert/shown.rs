//! What the upstream says of an object, once it was written or is asked for again.

use serde::Deserialize;
use serde_json::value::RawValue;

use crate::history::difference::{Present, Side};
use crate::kinto::Timestamp;

/// An answer to a sub-request.
#[derive(Deserialize)]
pub(super) struct Answered<'a> {
    pub(super) status: u16,
    #[serde(borrow, default)]
    pub(super) body: Option<&'a RawValue>,
}

/// An object as it is shown.
#[derive(Deserialize)]
pub(super) struct Shown<'a> {
    #[serde(borrow)]
    pub(super) data: Option<&'a RawValue>,
    /// None where they are not for the requester's eyes.
    #[serde(borrow, default)]
    pub(super) permissions: Option<&'a RawValue>,
}

#[derive(Deserialize)]
struct Versioned {
    last_modified: Option<Timestamp>,
}

impl Shown<'_> {
    /// The version of it.
    pub(super) fn version(&self) -> Option<Timestamp> {
        serde_json::from_str::<Versioned>(self.data?.get()).ok()?.last_modified
    }

    /// An object that is shown, or is not there.
    pub(super) fn side(shown: Option<&Self>) -> Side {
        let Some(data) = shown.and_then(|shown| shown.data) else { return Side::Absent };
        let permissions = shown.and_then(|shown| serde_json::from_str(shown.permissions?.get()).ok());
        Side::Present(Present { data: data.to_owned(), permissions: permissions.unwrap_or_default() })
    }
}
