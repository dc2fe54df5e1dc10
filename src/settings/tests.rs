//! How settings are found and refused.

use std::collections::HashSet;
use std::ffi::OsString;
use std::io::Write as _;
use std::path::Path;

use super::*;
use crate::cli::Cli;
use crate::settings::{Compat, ListenAddr};

fn load(arguments: &[&str], environment: &[(&str, &str)]) -> Result<(Settings, Vec<Warning>), String> {
    let cli = Cli::parse(arguments.iter().map(OsString::from)).map_err(|error| error.to_string())?;
    let environment = environment.iter().map(|(name, value)| ((*name).into(), (*value).into())).collect();
    Settings::load(&cli.arguments, &environment).map_err(|error| error.to_string())
}

fn file(text: &str) -> tempfile::NamedTempFile {
    let mut file = tempfile::NamedTempFile::new().unwrap();
    write!(file, "[app:main]\n{text}").unwrap();
    file
}

fn in_file(text: &str) -> Result<(Settings, Vec<Warning>), String> {
    let file = file(text);
    load(&["--settings", file.path().to_str().unwrap()], &[])
}

#[test]
fn no_name_and_no_flag_is_there_twice() {
    let (mut names, mut flags) = (HashSet::new(), HashSet::new());
    for key in KEYS {
        assert!(names.insert(key.name), "{}", key.name);
        assert!(key.former.is_none_or(|former| names.insert(former)), "{}", key.name);
        assert!(key.flag.is_none_or(|flag| flags.insert(flag.long)), "{}", key.name);
    }
}

#[test]
fn each_setting_in_force_says_where_it_was_written() {
    let file = file("# first\nkinto.sidecar.overlap = 20s\na.b.record_cache_expires_seconds = 60\n");
    let path = file.path().to_str().unwrap();
    let purge = "sidecar.purge_url=http://varnish.test/?key=hush";
    let arguments = ["--settings", path, "--auth", "me:hush", "--set", "changes.bucket=m", "--set", purge];
    let environment = [("SIDECAR_COMPAT", "remote-settings"), ("SIDECAR_JOURNAL", "postgres://me:hush@db/x")];
    let (settings, _) = load(&arguments, &environment).unwrap();
    let shown = |name: &str| {
        let setting = settings.in_force.iter().find(|setting| setting.name == name).unwrap();
        format!("{} ({})", setting.shown(), setting.origin)
    };
    assert_eq!(shown("sidecar.overlap"), format!("20s (in {path}:3)"));
    assert_eq!(shown("a.b.record_cache_expires_seconds"), format!("60 (in {path}:4)"));
    assert_eq!(shown("sidecar.auth"), "… (from --auth)");
    assert_eq!(shown("changes.bucket"), "m (from --set)");
    assert_eq!(shown("sidecar.purge_url"), "http://varnish.test/?… (from --set)");
    assert_eq!(shown("sidecar.compat"), "remote-settings (from SIDECAR_COMPAT)");
    assert_eq!(shown("sidecar.journal"), "… (from SIDECAR_JOURNAL)");
    assert_eq!(shown("sidecar.listen"), "127.0.0.1:8889 (default)");
    assert_eq!(settings.in_force.len(), KEYS.len() + 1);
}

#[test]
fn settings_that_are_read_again_name_what_differs() {
    let (old, _) = in_file("sidecar.overlap = 20s\na.b.record_cache_expires_seconds = 60\n").unwrap();
    let (new, _) = load(&["--overlap", "20s", "--set", "sidecar.log=debug"], &[]).unwrap();
    let names = |old: &Settings, new: &Settings| {
        old.differences(new).iter().map(|setting| setting.name.to_string()).collect::<Vec<_>>()
    };
    assert_eq!(names(&old, &new), ["sidecar.log", "a.b.record_cache_expires_seconds"]);
    assert_eq!(names(&new, &old), ["sidecar.log", "a.b.record_cache_expires_seconds"]);
    assert!(names(&new, &new.clone()).is_empty());
}

#[test]
fn what_cannot_change_while_the_process_runs_stays_as_it_is() {
    let file = file(
        "sidecar.threads = 2\nsidecar.overlap = 20s\na.record_cache_expires_seconds = 60\nb.record_cache_expires_seconds = 60\n",
    );
    let path = file.path().to_str().unwrap();
    let cli = Cli::parse(["--settings", path].map(OsString::from)).unwrap();
    let settings = Settings::load(&cli.arguments, &Environment::new()).unwrap().0;
    let again = |text: &str| {
        std::fs::write(path, format!("[app:main]\n{text}")).unwrap();
        settings.read_again(&cli.arguments, &Environment::new())
    };
    let names = |settings: &[Setting]| settings.iter().map(|one| one.name.to_string()).collect::<Vec<_>>();
    let text = "\nsidecar.overlap = 5s\nsidecar.threads = 3\na.record_cache_expires_seconds = 60\nsidecar.exclusive = true\n";
    let (new, reread) = again(text).unwrap();
    assert_eq!((new.overlap.as_secs(), new.threads, new.exclusive), (5, Some(2), false));
    assert_eq!(names(&reread.changed), ["sidecar.overlap"]);
    assert_eq!(names(&reread.gone), ["b.record_cache_expires_seconds"]);
    assert_eq!(names(&reread.left), ["sidecar.threads", "sidecar.exclusive"]);
    let shown = |name: &str| new.in_force.iter().find(|one| one.name == name).map(|one| format!("{one:?}"));
    assert_eq!(shown("sidecar.threads"), Some(format!("sidecar.threads = \"2\" (in {path}:2)")));
    assert_eq!(shown("sidecar.overlap"), Some(format!("sidecar.overlap = \"5s\" (in {path}:3)")));
    assert!(again("sidecar.overlap = soon\n").is_err());
}

#[test]
fn a_flag_wins_over_set_over_the_environment_over_the_file() {
    let file = file("kinto.sidecar.listen = file:1\n");
    let path = file.path().to_str().unwrap();
    let environment = [("KINTO_SIDECAR_LISTEN", "environment:1")];
    let listen = |arguments: &[&str], environment: &[(&str, &str)]| {
        let arguments = [&["--settings", path], arguments].concat();
        load(&arguments, environment).unwrap().0.listen
    };
    let tcp = |text: &str| ListenAddr::Tcp(text.into());
    assert_eq!(listen(&[], &[]), tcp("file:1"));
    assert_eq!(listen(&[], &environment), tcp("environment:1"));
    assert_eq!(listen(&["--set", "sidecar.listen=set:1"], &environment), tcp("set:1"));
    assert_eq!(listen(&["--set", "sidecar.listen=set:1", "--listen", "flag:1"], &environment), tcp("flag:1"));
}

#[test]
fn the_journal_is_at_an_absolute_path_where_systemd_keeps_what_lasts() {
    let path = |arguments: &[&str], environment: &[(&str, &str)]| match load(arguments, environment)
        .unwrap()
        .0
        .journal
    {
        JournalUrl::Sqlite(path) => path,
        other => panic!("{other:?}"),
    };
    let here = std::env::current_dir().unwrap();
    let service = [("STATE_DIRECTORY", "/var/lib/a:/var/lib/b")];
    assert_eq!(path(&[], &[]), here.join("kinto-sidecar.db"));
    assert_eq!(path(&[], &[("STATE_DIRECTORY", "")]), here.join("kinto-sidecar.db"));
    assert_eq!(path(&[], &service), Path::new("/var/lib/a/kinto-sidecar.db"));
    assert_eq!(path(&["--journal", "sqlite:x.db"], &service), here.join("x.db"));
}

#[test]
fn kintos_own_file_is_read() {
    let (settings, warnings) = in_file(
        "use = egg:kinto\nkinto.includes = kinto.plugins.history\nkinto.changes.resources =\n  /buckets/a\n  \
         /buckets/b/collections/c\nhttp_host = www.example.com\nkinto.paginate_by = 100\n\
         kinto.a.b.record_cache_expires_seconds = 60\nsidecar.compat = remote-settings\n",
    )
    .unwrap();
    assert_eq!(warnings, []);
    assert_eq!(settings.changes.resources, ["/buckets/a", "/buckets/b/collections/c"]);
    assert_eq!(settings.kinto.http_host.as_deref(), Some("www.example.com"));
    assert_eq!(settings.kinto.paginate_by, Some(100));
    assert_eq!(settings.kinto.record_cache("a", "b").maximum, Some(60));
    assert_eq!(settings.compat, Compat::RemoteSettings);
}

#[test]
fn what_is_said_nearest_of_caching_counts() {
    let text = "kinto.record_cache_expires_seconds = 60\nkinto.record_cache_maximum_expires_seconds = 3600\n\
                kinto.b.record_cache_maximum_expires_seconds = 90\nkinto.b.c.record_cache_maximum_expires_seconds = 9\n\
                kinto.b.record_cache_minimum_expires_seconds = 1\n";
    let (settings, _) = in_file(text).unwrap();
    let of = |bucket, collection| {
        let expiry = settings.kinto.record_cache(bucket, collection);
        (expiry.default, expiry.maximum, expiry.minimum)
    };
    assert_eq!(of("a", "c"), (Some(60), Some(3600), Some(60)));
    assert_eq!(of("b", "d"), (Some(60), Some(90), Some(1)));
    assert_eq!(of("b", "c"), (Some(60), Some(9), Some(1)));
    for name in ["record_cache_maximum_expires_seconds", "a.record_cache_minimum_expires_seconds"] {
        assert!(load(&["--set", &format!("{name}=5")], &[]).is_ok(), "{name}");
    }
}

#[test]
fn a_file_that_another_one_names_is_said_not_to_be_read() {
    let (_, warnings) = in_file("use = config:base.ini\n").unwrap();
    assert!(warnings[0].to_string().starts_with("use = config:base.ini ("), "{warnings:?}");
    assert_eq!(in_file("use = egg:kinto\n").unwrap().1, []);
}

#[test]
fn former_names_are_read_with_a_warning() {
    let (settings, warnings) = in_file("kinto.event_listeners.changes.collections = /buckets/a\n").unwrap();
    assert_eq!(settings.changes.resources, ["/buckets/a"]);
    assert_eq!(
        warnings[0].to_string(),
        "setting kinto.event_listeners.changes.collections is now called changes.resources"
    );
}

#[test]
fn what_is_misspelt_is_named_with_what_was_meant() {
    assert_eq!(
        load(&["--set", "sidecar.overlab=1s"], &[]).unwrap_err(),
        "unknown setting sidecar.overlab (from --set): did you mean sidecar.overlap?"
    );
    assert!(
        in_file("kinto.changes.resource = /buckets/a\n")
            .unwrap_err()
            .contains("did you mean changes.resources?")
    );
    let (_, warnings) = load(&[], &[("SIDECAR_OVERLAB", "1s"), ("PATH", "/bin")]).unwrap();
    assert_eq!(
        warnings.iter().map(ToString::to_string).collect::<Vec<_>>(),
        ["environment variable SIDECAR_OVERLAB is no setting: did you mean sidecar.overlap?"]
    );
}

#[test]
fn malformed_values_say_key_value_and_what_was_expected() {
    assert_eq!(
        load(&["--overlap", "soon"], &[]).unwrap_err(),
        "sidecar.overlap = \"soon\" (from --overlap): expected a duration such as 500ms, 10s, 5m, 1h, 1d, or a \
         number of seconds, of at most 36500d"
    );
    assert!(load(&["--set", "nonsense"], &[]).unwrap_err().contains("expected KEY=VALUE"));
    assert!(load(&["--settings", "/nowhere/kinto.ini"], &[]).unwrap_err().contains("/nowhere/kinto.ini"));
}

#[test]
fn two_spellings_with_two_values_are_a_conflict() {
    assert!(in_file("kinto.http_host = a\nhttp_host = b\n").unwrap_err().contains("are in conflict"));
    assert!(in_file("kinto.http_host = a\nhttp_host = a\n").is_ok());
}

#[test]
fn credentials_are_never_shown() {
    let error = load(&["--auth", "secret"], &[]).unwrap_err();
    assert!(!error.contains("secret"), "{error}");
    let (settings, _) = load(&["--auth", "user:secret"], &[]).unwrap();
    assert!(!format!("{settings:?}").contains("secret"));
}

#[test]
fn no_complaint_shows_a_secret() {
    for arguments in [
        &["--upstream", "http://me:hush@kinto.test/v1"][..],
        &["--upstream", "https://me:hush@kinto.test"],
        &["--set", "sidecar.upstream=http://me:hush@kinto.test/v1"],
        &["--set", "sidecar.purge_url=http://me:hush@varnish.test/"],
        &["--set", "sidecar.upstream=me:hu@sh@kinto.test/v1"],
        &["--set", "sidecar.upstream=http://kinto.test/v1?key=hush"],
        &["--set", "sidecar.auth hush"],
        &["--set", "sidecar.auth:me:hush"],
        &["--auth", "hush"],
        &["--journal", "mysql://me:hush@db/x"],
        &["--upsteam", "http://me:hush@kinto.test/v1"],
        &["--upsteam=http://me:hush@kinto.test/v1"],
        &["--auth=me:hush", "--auth=me:hush"],
    ] {
        let error = load(arguments, &[]).unwrap_err();
        assert!(!error.contains("hu"), "{arguments:?}: {error}");
    }
    let error = in_file("kinto.sidecar.upstream = http://me:hush@kinto.test/v1\n").unwrap_err();
    assert!(!error.contains("hush") && error.contains("http://…@kinto.test/v1"), "{error}");
}

#[test]
fn a_secret_on_the_command_line_is_warned_of() {
    let warned = |arguments: &[&str], environment: &[(&str, &str)]| {
        let (_, warnings) = load(arguments, environment).unwrap();
        warnings.iter().map(ToString::to_string).collect::<String>()
    };
    for arguments in [&["--auth", "me:hush"][..], &["--set", "sidecar.auth=me:hush"]] {
        let warning = warned(arguments, &[]);
        assert!(warning.contains("--auth-file") && !warning.contains("hush"), "{warning}");
    }
    let warning = warned(&["--journal", "postgres://me:hush@db/x"], &[]);
    assert!(warning.contains("sidecar.journal") && !warning.contains("hush"), "{warning}");
    assert_eq!(warned(&["--journal", "postgres://db/x"], &[]), "");
    assert_eq!(warned(&[], &[("SIDECAR_AUTH", "me:hush")]), "");
}
