//! Lines as Kinto's `JsonLogFormatter` writes them.

use std::cell::RefCell;
use std::io;
use std::time::Duration;

use http::{HeaderValue, Method, StatusCode};

use super::{Answered, Told, milliseconds, target};
use crate::current::Part;
use crate::kinto::iso_date;

/// Writes the line of a request, behind those of a batch's parts.
pub(super) fn write(
    out: &mut Vec<u8>,
    answered: &Answered,
    told: &Told<'_>,
    now: Duration,
    took: Duration,
    envelope: &str,
) -> io::Result<()> {
    let parts = told.parts;
    // What was refused as a whole has no parts.
    for part in parts.filter(|_| answered.status == StatusCode::OK).unwrap_or_default() {
        begin(out, "subrequest.summary", now, envelope)?;
        let path = part.target.split('?').next().unwrap_or_default();
        request(out, answered, told, path, &part.method, 0)?;
        batch_size(out, parts)?;
        out.extend_from_slice(b",\"msg\":\"subrequest.summary\"}}\n");
    }
    begin(out, "request.summary", now, envelope)?;
    request(out, answered, told, told.uri.path(), &answered.line.method, answered.errno())?;
    if let Some((id, policy)) = answered.user() {
        text(out, ",\"uid\":", id)?;
        text(out, ",\"authn_type\":", policy)?;
    }
    batch_size(out, parts)?;
    out.extend_from_slice(b",\"time\":\"");
    time(out, now);
    number(out, "\",\"code\":", answered.status.as_u16().into())?;
    number(out, ",\"t\":", milliseconds(took))?;
    plain(out, ",\"client\":", answered.line.client.as_bytes());
    number(out, ",\"bytes\":", answered.bytes)?;
    if let Some(waited) = told.waited {
        number(out, ",\"upstream_t\":", milliseconds(waited))?;
    }
    if let Some(cache) = answered.cache() {
        plain(out, ",\"cache\":", cache.as_bytes());
    }
    if let Some(traceparent) = &answered.line.traceparent {
        header(out, ",\"traceparent\":", traceparent)?;
    }
    out.extend_from_slice(b"}}\n");
    Ok(())
}

fn begin(out: &mut Vec<u8>, kind: &str, now: Duration, envelope: &str) -> io::Result<()> {
    number(out, "{\"Timestamp\":", u64::try_from(now.as_nanos()).unwrap_or(u64::MAX))?;
    out.extend_from_slice(b",\"Type\":\"");
    out.extend_from_slice(kind.as_bytes());
    out.extend_from_slice(b"\",");
    out.extend_from_slice(envelope.as_bytes());
    out.extend_from_slice(b",\"Fields\":{");
    Ok(())
}

/// What a part of a batch shares with the whole, but for its path and method.
fn request(
    out: &mut Vec<u8>,
    answered: &Answered,
    told: &Told<'_>,
    path: &str,
    method: &Method,
    errno: u16,
) -> io::Result<()> {
    if target::is_plain(path) {
        plain(out, "\"path\":", path.as_bytes());
    } else {
        text(out, "\"path\":", &target::path(path))?;
    }
    plain(out, ",\"method\":", method.as_str().as_bytes());
    for (name, value) in [(",\"agent\":", &answered.line.agent), (",\"lang\":", &answered.line.lang)] {
        if let Some(value) = value {
            header(out, name, value)?;
        }
    }
    header(out, ",\"rid\":", told.id)?;
    number(out, ",\"errno\":", errno.into())?;
    let query = told.uri.query().filter(|query| !query.is_empty());
    if let Some(query) = query {
        out.extend_from_slice(b",\"querystring\":");
        serde_json::to_writer(out, &target::parameters(query))?;
    }
    Ok(())
}

fn batch_size(out: &mut Vec<u8>, parts: Option<&[Part]>) -> io::Result<()> {
    parts.map_or(Ok(()), |parts| number(out, ",\"batch_size\":", parts.len() as u64))
}

fn text(out: &mut Vec<u8>, name: &str, value: &str) -> io::Result<()> {
    out.extend_from_slice(name.as_bytes());
    Ok(serde_json::to_writer(out, value)?)
}

fn header(out: &mut Vec<u8>, name: &str, value: &HeaderValue) -> io::Result<()> {
    let value = value.as_bytes();
    if target::are_all(value, |byte| matches!(byte, b' '..=b'~') && byte != b'"' && byte != b'\\') {
        plain(out, name, value);
        return Ok(());
    }
    text(out, name, &String::from_utf8_lossy(value))
}

/// A text of which nothing is escaped: a method, an address, a word of ours.
fn plain(out: &mut Vec<u8>, name: &str, value: &[u8]) {
    out.extend_from_slice(name.as_bytes());
    out.push(b'"');
    out.extend_from_slice(value);
    out.push(b'"');
}

fn number(out: &mut Vec<u8>, name: &str, value: u64) -> io::Result<()> {
    out.extend_from_slice(name.as_bytes());
    Ok(serde_json::to_writer(out, &value)?)
}

/// The time of the line as `datetime.isoformat()` has it, in milliseconds. Of lines in one second the most is known.
fn time(out: &mut Vec<u8>, now: Duration) {
    thread_local! {
        static SECOND: RefCell<(u64, String)> = const { RefCell::new((0, String::new())) };
    }
    let _ = SECOND.try_with(|second| {
        let mut second = second.borrow_mut();
        if second.0 != now.as_secs() || second.1.is_empty() {
            let mut date = iso_date(now.as_secs() * 1_000_000);
            date.truncate(date.find('.').unwrap_or_default());
            *second = (now.as_secs(), date);
        }
        out.extend_from_slice(second.1.as_bytes());
        // Python leaves out what is nothing.
        if now.subsec_millis() > 0 {
            let digits = [100, 10, 1].map(|unit| b'0' + (now.subsec_millis() / unit % 10) as u8);
            out.push(b'.');
            out.extend_from_slice(&digits);
            out.extend_from_slice(b"000");
        }
    });
}
