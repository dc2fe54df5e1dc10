//! Log lines: text for people, or JSON in the `MozLog` shape that Kinto's own `kinto.core.JsonLogFormatter` writes.
//!
//! What is logged in the life of a request names it: as in Kinto, each line has the request's id, and here its path and
//! collection too.

use std::fmt::{self, Write as _};
use std::io::{self, ErrorKind, IsTerminal};
use std::process::ExitCode;
use std::sync::{Arc, OnceLock};
use std::time::{SystemTime, UNIX_EPOCH};

use arc_swap::ArcSwap;
use serde_json::{Map, Value, json};
use tracing::field::{Field, Visit};
use tracing::{Event, Level, Subscriber};
use tracing_subscriber::EnvFilter;
use tracing_subscriber::fmt::format::{Format, Writer};
use tracing_subscriber::fmt::{FmtContext, FormatEvent, FormatFields};
use tracing_subscriber::registry::LookupSpan;

use crate::commands::complain;
use crate::settings::{LogFormat, Settings};
use crate::{access_log, current, log_stream, troubles};

/// The exit code for something about the settings, which has to be mended before anything can run.
pub const BAD_SETTINGS: u8 = 2;

/// What is told whatever the filter says.
const ANNOUNCED: &str = "kinto_sidecar::announced";

/// SECURITY: what is never told. It names parameters of a journal's URL that it does not know with their values, and
/// `sslpassword` is one.
const TELLS_SECRETS: &str = "sqlx_postgres::options::parse";

/// Tells whoever started the process: in plain words where people read, in the log's own format where machines do.
pub fn announce(format: LogFormat, words: &str) {
    match format {
        LogFormat::Text => log_stream::tell(format!("{words}\n").as_bytes()),
        LogFormat::Json => tracing::info!(target: ANNOUNCED, "{words}"),
    }
}

/// Tells the operator how the process ended; with which code it exits.
pub fn ended(done: io::Result<ExitCode>, format: LogFormat) -> ExitCode {
    let error = match done {
        Ok(code) => {
            log_stream::flush();
            return code;
        }
        Err(error) => error,
    };
    match format {
        LogFormat::Text => complain(&error),
        LogFormat::Json => tracing::error!(target: ANNOUNCED, "{error}"),
    }
    log_stream::flush();
    // The same start may succeed later where an address or a journal is still another process's, or not there yet.
    let mends_itself =
        matches!(error.kind(), ErrorKind::AddrInUse | ErrorKind::AddrNotAvailable | ErrorKind::ResourceBusy);
    if mends_itself { ExitCode::FAILURE } else { ExitCode::from(BAD_SETTINGS) }
}

/// Begins to log to the standard error stream, as the settings say.
pub fn start(settings: &Settings) {
    let form = Arc::new(ArcSwap::from_pointee(Form::of(settings)));
    let lines = tracing_subscriber::fmt()
        .with_writer(|| Stream)
        // What cannot be told is not told elsewhere.
        .log_internal_errors(false)
        .with_ansi(io::stderr().is_terminal())
        .event_format(Lines { text: Format::default(), form: Arc::clone(&form) })
        .with_env_filter(filter(settings))
        .with_filter_reloading();
    let handle = lines.reload_handle();
    access_log::change(settings, || form.load().envelope.text(Level::INFO));
    let stream = log_stream::start();
    // A second start keeps the first: tests do that.
    if lines.try_init().is_ok() {
        let obey = Box::new(move |filter| _ = handle.reload(filter));
        _ = LOG.set(Log { form, obey });
    }
    if let Err(error) = stream {
        tracing::error!(%error, "there is no thread for the log");
    }
}

/// Goes on to log as other settings say.
pub fn change(settings: &Settings) {
    let Some(log) = LOG.get() else { return };
    (log.obey)(filter(settings));
    let form = Form::of(settings);
    access_log::change(settings, || form.envelope.text(Level::INFO));
    log.form.store(Arc::new(form));
}

fn filter(settings: &Settings) -> EnvFilter {
    EnvFilter::builder().parse_lossy(format!("{},{ANNOUNCED}=info,{TELLS_SECRETS}=off", settings.log))
}

/// The log's stream, as `tracing` writes to it.
struct Stream;

impl io::Write for Stream {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        log_stream::tell(line);
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// What can change of the log, once it has begun.
static LOG: OnceLock<Log> = OnceLock::new();

struct Log {
    form: Arc<ArcSwap<Form>>,
    obey: Box<dyn Fn(EnvFilter) + Send + Sync>,
}

/// What lines look like.
struct Form {
    format: LogFormat,
    envelope: Envelope,
}

impl Form {
    fn of(settings: &Settings) -> Self {
        Self { format: settings.log_format, envelope: Envelope::new(&settings.kinto.project_name) }
    }
}

/// Lines in the form of the moment.
struct Lines {
    /// As `tracing` writes them.
    text: Format,
    form: Arc<ArcSwap<Form>>,
}

impl<S, N> FormatEvent<S, N> for Lines
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
{
    fn format_event(
        &self,
        context: &FmtContext<'_, S, N>,
        mut writer: Writer<'_>,
        event: &Event<'_>,
    ) -> fmt::Result {
        remember(event);
        let form = self.form.load();
        if form.format == LogFormat::Json {
            return write_json(&form.envelope, writer, event);
        }
        let Some(about) = about() else { return self.text.format_event(context, writer, event) };
        let mut line = String::new();
        self.text.format_event(context, Writer::new(&mut line), event)?;
        writeln!(writer, "{}{about}", line.trim_end())
    }
}

/// What a line of text is about: the end of it, where a request is under way.
fn about() -> Option<String> {
    current::with(|current| {
        let mut about = format!(" path={:?}", current.uri.path());
        if let Some((bucket, collection)) = current.collection() {
            // Writing to a string does not fail.
            let _ = write!(about, " collection={:?}", format!("{bucket}/{collection}"));
        }
        about + " request_id=" + current.id()
    })
}

/// What all lines of the process have in common.
struct Envelope {
    logger: String,
    hostname: String,
}

impl Envelope {
    fn new(project_name: &str) -> Self {
        // Asked of the kernel itself: a service may have no `/proc` to read it from.
        let hostname = rustix::system::uname().nodename().to_string_lossy().into_owned();
        let hostname = if hostname.is_empty() { "localhost".to_owned() } else { hostname };
        Self { logger: project_name.to_owned(), hostname }
    }

    /// The members between `Type` and `Fields`.
    fn text(&self, level: Level) -> String {
        format!(
            "\"Logger\":{},\"Hostname\":{},\"EnvVersion\":\"2.0\",\"Severity\":{},\"Pid\":{}",
            Value::from(&*self.logger),
            Value::from(&*self.hostname),
            severity(level),
            std::process::id()
        )
    }
}

#[derive(Default)]
struct Fields(Map<String, Value>);

/// Writes a line of `MozLog` 2.0.
fn write_json(envelope: &Envelope, mut writer: Writer<'_>, event: &Event<'_>) -> fmt::Result {
    let mut fields = Fields::default();
    event.record(&mut fields);
    let mut fields = fields.0;
    current::with(|current| {
        fields.entry("path").or_insert_with(|| current.uri.path().into());
        if let Some((bucket, collection)) = current.collection() {
            fields.entry("collection").or_insert_with(|| format!("{bucket}/{collection}").into());
        }
        fields.insert("rid".to_owned(), current.id().into());
    });
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    writeln!(
        writer,
        "{{\"Timestamp\":{},\"Type\":{},{},\"Fields\":{}}}",
        now.as_nanos(),
        Value::from(event.metadata().target()),
        envelope.text(*event.metadata().level()),
        json!(fields)
    )
}

/// Keeps a warning or an error for those who look at the process and not at its log.
fn remember(event: &Event<'_>) {
    let level = *event.metadata().level();
    if level > Level::WARN {
        return;
    }
    let mut fields = Fields::default();
    event.record(&mut fields);
    let mut words = match fields.0.remove("msg") {
        Some(Value::String(message)) => message,
        _ => String::new(),
    };
    for (name, value) in fields.0 {
        let value = value.as_str().map_or_else(|| value.to_string(), str::to_owned);
        // Writing to a string does not fail.
        let _ = write!(words, " {name}={value}");
    }
    troubles::note(level == Level::ERROR, words);
}

/// The level in syslog's numbers.
fn severity(level: Level) -> u8 {
    match level {
        Level::ERROR => 3,
        Level::WARN => 4,
        Level::INFO => 6,
        Level::DEBUG | Level::TRACE => 7,
    }
}

impl Fields {
    fn put(&mut self, field: &Field, value: Value) {
        // Kinto's name for it.
        let name = if field.name() == "message" { "msg" } else { field.name() };
        self.0.insert(name.to_owned(), value);
    }
}

impl Visit for Fields {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        self.put(field, format!("{value:?}").into());
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        self.put(field, value.into());
    }

    fn record_u64(&mut self, field: &Field, value: u64) {
        self.put(field, value.into());
    }

    fn record_i64(&mut self, field: &Field, value: i64) {
        self.put(field, value.into());
    }

    fn record_f64(&mut self, field: &Field, value: f64) {
        self.put(field, value.into());
    }

    fn record_bool(&mut self, field: &Field, value: bool) {
        self.put(field, value.into());
    }
}
