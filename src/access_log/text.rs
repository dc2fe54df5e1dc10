//! Lines for people, in the form of the rest of the log.

use std::io::{self, Write};
use std::time::Duration;

use super::{Answered, TARGET, milliseconds, shown};
use crate::kinto::iso_date;

/// Writes the line of a request. Parts of a batch have none.
pub(super) fn write(out: &mut Vec<u8>, answered: &Answered, now: Duration) -> io::Result<()> {
    let (line, current) = (&answered.line, &answered.current);
    let date = iso_date(u64::try_from(now.as_micros()).unwrap_or(u64::MAX));
    write!(out, "{date}Z  INFO {TARGET}: answered client={}", line.client.to_str().unwrap_or_default())?;
    if let Some(user) = &answered.user {
        write!(out, " user={user:?}")?;
    }
    // What a client wrote is quoted: it must not look like another line.
    write!(
        out,
        " method={} path={:?} status={}",
        line.method,
        current.uri.to_string(),
        answered.status.as_u16()
    )?;
    write!(out, " bytes={} time_ms={}", answered.bytes, milliseconds(answered.elapsed()))?;
    if let Some(waited) = current.waited() {
        write!(out, " upstream_ms={}", milliseconds(waited))?;
    }
    if let Some(cache) = answered.cache() {
        write!(out, " cache={cache}")?;
    }
    if let Some(parts) = current.parts() {
        write!(out, " batch_size={}", parts.len())?;
    }
    write!(out, " request_id={}", current.id())?;
    if let Some(traceparent) = shown(line.traceparent.as_ref()) {
        write!(out, " traceparent={traceparent:?}")?;
    }
    out.push(b'\n');
    Ok(())
}
