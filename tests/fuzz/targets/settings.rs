//! Settings from every place that they can be written in. A line that begins with `>` is a `--set`, one with `$` stands in the
//! environment, one with `--` is an argument, and all others are Kinto's INI file.
//!
//! There are settings or there is an error; what cannot work is not among them; and secrets are
//! shown by neither.

#![no_main]

use std::ffi::OsString;
use std::path::PathBuf;
use std::sync::OnceLock;

use kinto_sidecar::cli::{Cli, Task};
use kinto_sidecar::settings::{Arguments, Environment, Settings};
use libfuzzer_sys::fuzz_target;

const SECRET: &str = "5ecr3t";

fuzz_target!(|text: &str| {
    // A device may have no end.
    if text.contains(SECRET) || text.contains("/dev") || text.contains("/proc") || text.contains('\0') {
        return;
    }
    let (mut arguments, mut assignments, mut environment) = (Vec::new(), Vec::new(), Environment::new());
    let mut ini = String::new();
    for line in text.split('\n') {
        if let Some(assignment) = line.strip_prefix('>') {
            assignments.push(assignment.to_owned());
        } else if let Some((name, value)) = line.strip_prefix('$').and_then(|line| line.split_once('=')) {
            environment.insert(name.to_owned(), value.to_owned());
        } else if line.starts_with("--") {
            arguments.push(OsString::from(line));
        } else {
            ini.push_str(line);
            ini.push('\n');
        }
    }
    // With a byte before it, the secret is no longer what can be read.
    let spoilt = if text.len().is_multiple_of(2) { "" } else { "\u{1}" };
    environment.entry("SIDECAR_AUTH".to_owned()).or_insert_with(|| format!("{spoilt}admin:{SECRET}"));
    let journal = || format!("{spoilt}postgres://me:{SECRET}@h/db");
    environment.entry("SIDECAR_JOURNAL".to_owned()).or_insert_with(journal);

    let mut cli =
        Cli { task: Task::Serve, arguments: Arguments::default() };
    if !arguments.is_empty() {
        let Ok(given) = Cli::parse(arguments) else { return };
        cli = given;
    }
    cli.arguments.assignments.extend(assignments);
    if !ini.trim().is_empty() {
        std::fs::write(file(), ini).expect("there is room for it");
        cli.arguments.settings_file = Some(file().clone());
    }
    let load = |cli: &Cli| Settings::load(&cli.arguments, &environment);
    let loaded = load(&cli);
    let shown = format!("{loaded:?}");
    assert!(!shown.contains(SECRET), "a secret is shown: {shown}");
    assert_eq!(loaded.is_ok(), load(&cli).is_ok());
    let (settings, warnings) = match loaded {
        Ok(loaded) => loaded,
        Err(error) => return assert!(!error.to_string().contains(SECRET), "{error}"),
    };
    assert!(warnings.iter().all(|warning| !warning.to_string().contains(SECRET)));
    can_work(&settings);

    // The strongest place, and the address as it is shown.
    cli.arguments.flags.insert("sidecar.upstream", settings.upstream.to_string());
    let (again, _) = load(&cli).unwrap_or_else(|error| panic!("{}: {error}", settings.upstream));
    assert_eq!(again.upstream, settings.upstream);
});

fn can_work(settings: &Settings) {
    assert!(settings.poll_budget > 0.0 && settings.poll_budget <= 1.0);
    assert!(settings.limits.connections > 0 && settings.feeds.max_readers > 0);
    assert!(settings.kinto.paginate_by != Some(0) && settings.kinto.storage_max_fetch_size > 0);
    assert!(settings.threads != Some(0));
    assert!(!settings.upstream.host.is_empty());
    if let Some(auth) = settings.auth.as_ref().and_then(|auth| auth.current()) {
        assert!(auth.is_sensitive());
    }
    settings.kinto.record_cache("a", "b");
}

/// A file of this process.
fn file() -> &'static PathBuf {
    static FILE: OnceLock<PathBuf> = OnceLock::new();
    FILE.get_or_init(|| std::env::temp_dir().join(format!("kinto-sidecar-fuzz-{}.ini", std::process::id())))
}
