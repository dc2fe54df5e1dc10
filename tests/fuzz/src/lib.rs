//! What the targets share: an upstream that answers what it is told to, and a sidecar in front of it.

#![forbid(unsafe_code)]

use std::sync::Arc;

use kinto_sidecar::app::{App, Core};
use kinto_sidecar::history::keeper::JournalAtStart;
use kinto_sidecar::phase::Phase;
use kinto_sidecar::settings::{Arguments, Environment, InForce, Settings};
use kinto_sidecar::upstream::Upstream;
use tokio::runtime::Runtime;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;
use tokio::time::Instant;

pub mod conversation;
mod kinto;

pub use kinto::{Answer, Heard, Kinto};

/// A sidecar without sockets of its own.
pub struct Sidecar {
    /// Where its background tasks run.
    pub runtime: Runtime,
    /// What a thread of it answers with.
    pub core: Arc<Core>,
    _stop: watch::Sender<Phase>,
}

impl Sidecar {
    /// A sidecar in front of `kinto`. It asks nothing unless it has to, so that what it says depends on the input alone.
    pub fn before(kinto: &Kinto, assignments: &[&str]) -> Self {
        let upstream = format!("sidecar.upstream={}", kinto.url());
        let quiet = ["sidecar.history=off", "sidecar.exclusive=true", "sidecar.log=off"];
        let settings =
            settings([upstream.as_str()].into_iter().chain(quiet).chain(assignments.iter().copied()));
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build();
        let runtime = runtime.expect("a thread can be started");
        {
            let _inside = runtime.enter();
            // Without Rust's own main function, writing to who has hung up would end the process.
            drop(signal(SignalKind::pipe()).expect("it can be listened for"));
        }
        let (stop, stopping) = watch::channel(Phase::Serving);
        let settings = InForce::from(settings);
        let upstream = Upstream::new(&settings).expect("the address is well formed");
        let background = runtime.handle().clone();
        let (_, relieved) = watch::channel(Some(Instant::now()));
        let app =
            App::start(settings, JournalAtStart::Not, background, upstream.sibling(), stopping, relieved);
        Self { runtime, core: Arc::new(Core::new(app, upstream)), _stop: stop }
    }
}

/// Settings that these assignments make.
pub fn settings<'a>(assignments: impl IntoIterator<Item = &'a str>) -> Settings {
    let assignments = assignments.into_iter().map(str::to_owned).collect();
    let arguments = Arguments { assignments, ..Arguments::default() };
    Settings::load(&arguments, &Environment::new()).expect("the assignments are well formed").0
}

/// The lines of an input; empty ones past its end.
pub fn lines(input: &[u8]) -> Option<impl Iterator<Item = &str>> {
    Some(std::str::from_utf8(input).ok()?.split('\n').chain(std::iter::repeat("")))
}
