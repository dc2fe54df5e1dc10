//! Lines for people, in the form of the rest of the log.

use std::borrow::Cow;
use std::io::{self, Write};
use std::time::Duration;

use http::HeaderValue;

use super::{Answered, TARGET, Told, milliseconds};
use crate::kinto::iso_date;

/// Writes the line of a request. Parts of a batch have none.
pub(super) fn write(
    out: &mut Vec<u8>,
    answered: &Answered,
    told: &Told<'_>,
    now: Duration,
    took: Duration,
) -> io::Result<()> {
    let line = &answered.line;
    let date = iso_date(u64::try_from(now.as_micros()).unwrap_or(u64::MAX));
    write!(out, "{date}Z  INFO {TARGET}: answered client={}", shown(&line.client))?;
    if let Some(user) = &answered.user {
        write!(out, " user={user:?}")?;
    }
    // What a client wrote is quoted: it must not look like another line.
    write!(
        out,
        " method={} path={:?} status={}",
        line.method,
        told.uri.to_string(),
        answered.status.as_u16()
    )?;
    write!(out, " bytes={} time_ms={}", answered.bytes, milliseconds(took))?;
    if let Some(waited) = told.waited {
        write!(out, " upstream_ms={}", milliseconds(waited))?;
    }
    if let Some(cache) = answered.cache() {
        write!(out, " cache={cache}")?;
    }
    if let Some(parts) = told.parts {
        write!(out, " batch_size={}", parts.len())?;
    }
    write!(out, " request_id={}", shown(told.id))?;
    if let Some(traceparent) = line.traceparent.as_ref().map(shown) {
        write!(out, " traceparent={traceparent:?}")?;
    }
    out.push(b'\n');
    Ok(())
}

fn shown(value: &HeaderValue) -> Cow<'_, str> {
    String::from_utf8_lossy(value.as_bytes())
}
