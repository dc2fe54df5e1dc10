//! The command line, exactly as it was typed; what it means is for [`crate::settings`] to say.
//!
//! Flags come from the table of settings, so that each setting is described in one place.

use std::ffi::OsString;
use std::path::PathBuf;

use clap::{Arg, ArgAction, ArgMatches, Command, value_parser};
use clap_complete::Shell;

use crate::settings::{Arguments, Flag, KEYS, Key};

/// What the process was started to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Task {
    /// Serve, until it is told to stop.
    Serve,
    /// Say what the settings and the upstream come to.
    Check(Check),
    /// Write the journal as lines, or read lines into it.
    Transfer(Transfer),
    /// Ask a running sidecar how it is.
    Health(Health),
    /// Print what a package installs beside the program.
    Manual(Manual),
}

/// What is printed for packages. It depends on no setting.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Manual {
    /// The page of the manual.
    Page,
    /// What lets a shell complete a command line.
    Completions(Shell),
}

/// What is said of the settings and the upstream, and how.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Check {
    /// As JSON.
    pub json: bool,
    /// The settings in force, and nothing is contacted.
    pub print_settings: bool,
}

/// What a running sidecar is asked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Health {
    /// Whether requests can be answered, and not only whether it lives.
    pub ready: bool,
    /// Its second listener, where that is not the one that the settings name.
    pub url: Option<String>,
}

/// What is to be done with the journal.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Transfer {
    /// It is written.
    Export {
        /// Only this bucket's history.
        bucket: Option<String>,
        /// Where to; to standard output where there is none.
        file: Option<PathBuf>,
    },
    /// It is copied while it may be in use.
    Backup {
        /// Where to.
        file: PathBuf,
    },
    /// It is read from end to end.
    Verify,
    /// Its file is made as small as it can be.
    Compact,
    /// Lines are added to it.
    Import {
        /// Where from; from standard input where there is none.
        file: Option<PathBuf>,
        /// The journal is made where there is none.
        is_new: bool,
        /// Not lines, but what the upstream's own plugin recorded.
        is_upstream: bool,
    },
}

/// A parsed command line.
#[derive(Debug, Clone)]
pub struct Cli {
    /// What to do.
    pub task: Task,
    /// What it says of settings.
    pub arguments: Arguments,
}

impl Cli {
    /// Reads the arguments after the program's name.
    ///
    /// # Errors
    ///
    /// What clap says of a command line that cannot be read, or of one that asks for help; [`clap::Error::exit`] prints
    /// it and ends with status 2 or 0.
    pub fn parse(arguments: impl IntoIterator<Item = OsString>) -> Result<Self, clap::Error> {
        let program = OsString::from("kinto-sidecar");
        let matches = command().try_get_matches_from(std::iter::once(program).chain(arguments))?;
        let (task, matches) = match matches.subcommand() {
            Some(("man", matches)) => (Task::Manual(Manual::Page), matches),
            Some(("completions", matches)) => match matches.get_one::<Shell>("shell") {
                Some(shell) => (Task::Manual(Manual::Completions(*shell)), matches),
                None => (Task::Serve, matches),
            },
            Some(("check", matches)) => {
                let [json, print_settings] = ["json", "print-settings"].map(|name| matches.get_flag(name));
                (Task::Check(Check { json, print_settings }), matches)
            }
            Some(("history", matches)) => match transfer(matches) {
                Some((transfer, matches)) => (Task::Transfer(transfer), matches),
                None => (Task::Serve, matches),
            },
            Some(("health", matches)) => {
                let url = matches.get_one::<String>("url").cloned();
                (Task::Health(Health { ready: matches.get_flag("ready"), url }), matches)
            }
            _ => (Task::Serve, &matches),
        };
        let mut arguments = Arguments {
            settings_file: matches.get_one::<PathBuf>("settings").cloned(),
            assignments: matches.get_many::<String>("set").unwrap_or_default().cloned().collect(),
            flags: KEYS.iter().filter_map(|key| Some((key.name, flag(matches, key)?))).collect(),
        };
        if let Ok(Some(from)) = matches.try_get_one::<String>("from") {
            // It is the upstream of this command, in all respects.
            arguments.flags.insert("sidecar.upstream", from.clone());
        }
        Ok(Self { task, arguments })
    }
}

/// `history …`.
fn transfer(matches: &ArgMatches) -> Option<(Transfer, &ArgMatches)> {
    let (name, matches) = matches.subcommand()?;
    let file = matches.try_get_one::<PathBuf>("file").ok().flatten().cloned();
    let file = match (name, file) {
        ("backup", Some(file)) => return Some((Transfer::Backup { file }, matches)),
        // A hyphen stands for the standard streams, as in other programs.
        (_, file) => file.filter(|file| file.as_os_str() != "-"),
    };
    let transfer = match name {
        "verify" => Transfer::Verify,
        "compact" => Transfer::Compact,
        "export" => Transfer::Export { bucket: matches.get_one::<String>("bucket").cloned(), file },
        _ => Transfer::Import {
            file,
            is_new: matches.get_flag("new"),
            is_upstream: matches.contains_id("from"),
        },
    };
    Some((transfer, matches))
}

fn flag(matches: &ArgMatches, key: &Key) -> Option<String> {
    match key.flag? {
        Flag { value: Some(_), .. } => matches.get_one::<String>(key.name).cloned(),
        Flag { value: None, .. } => matches.get_flag(key.name).then(|| "true".to_owned()),
    }
}

pub(crate) fn command() -> Command {
    let file = Arg::new("settings")
        .long("settings")
        .value_name("FILE")
        .env("KINTO_INI")
        .value_parser(value_parser!(PathBuf))
        .global(true)
        .help("Kinto's own INI file, section [app:main]");
    let set = Arg::new("set")
        .long("set")
        .value_name("KEY=VALUE")
        .action(ArgAction::Append)
        .global(true)
        .help("any setting by its key; may be given several times");
    let flags = KEYS.iter().filter_map(|key| {
        let flag = key.flag?;
        let default = key.described_default();
        let default = if default == "none" { String::new() } else { format!(" [default: {default}]") };
        let help = plain(&format!("{}{default}", key.meaning));
        let argument = Arg::new(key.name).long(flag.long).help(help).help_heading(key.section).global(true);
        Some(match flag.value {
            Some(value) => argument.value_name(value).action(ArgAction::Set),
            None => argument.action(ArgAction::SetTrue),
        })
    });
    Command::new("kinto-sidecar")
        .version(env!("CARGO_PKG_VERSION"))
        .about("Stands in front of a Kinto and adds monitor/changes, changesets, history and change feeds")
        .arg(file)
        .arg(set)
        .args(flags)
        .after_long_help(more_help())
        .subcommand(check())
        .subcommand(history())
        .subcommand(health())
        .subcommand(Command::new("man").about("Prints the page of the manual: kinto-sidecar man | man -l -"))
        .subcommand(
            Command::new("completions")
                .about("Prints what lets a shell complete a command line: source <(kinto-sidecar completions bash)")
                .arg(
                    Arg::new("shell")
                        .value_name("SHELL")
                        .value_parser(value_parser!(Shell))
                        .required(true)
                        .help("which shell it is for"),
                ),
        )
}

/// What precedes the settings that have no flag.
pub(crate) const ABOUT_SETTINGS: &str = "Settings that have no flag are written in the settings file, in the environment \
    (SIDECAR_MAX_BODY for sidecar.max_body) or as --set KEY=VALUE:";

/// What the program's exit status says.
pub(crate) const EXIT_STATUSES: [(&str, &str); 3] = [
    ("0", "Done."),
    (
        "1",
        "What was asked for has a problem, or the same start may succeed later: an address or a journal is in use.",
    ),
    ("2", "Something is wrong with the command line or the settings, and has to be mended first."),
];

/// Markdown as plain text.
pub(crate) fn plain(markdown: &str) -> String {
    markdown.replace('`', "")
}

/// The settings that have no flag, in the sections that those with flags stand in.
pub(crate) fn settings_without_flags() -> Vec<(&'static str, Vec<&'static Key>)> {
    let mut sections: Vec<(&str, Vec<&Key>)> = Vec::new();
    for key in KEYS.iter().filter(|key| key.flag.is_none()) {
        match sections.last_mut().filter(|(section, _)| *section == key.section) {
            Some((_, keys)) => keys.push(key),
            None => sections.push((key.section, vec![key])),
        }
    }
    sections
}

/// The same as text for the end of the long help.
fn more_help() -> String {
    let mut text = ABOUT_SETTINGS.to_owned();
    for (section, keys) in settings_without_flags() {
        text.extend(["\n\n", section, ":"]);
        for key in keys {
            let (default, meaning) = (plain(&key.described_default()), plain(key.meaning));
            text.extend(["\n  ", key.name, " = ", &default, "\n          ", &meaning]);
        }
    }
    text += "\n\nExit status:";
    for (status, meaning) in EXIT_STATUSES {
        text.extend(["\n  ", status, "  ", meaning]);
    }
    text
}

fn check() -> Command {
    let switch = |name, help| Arg::new(name).long(name).action(ArgAction::SetTrue).help(help);
    Command::new("check")
        .about(
            "Reads the settings, contacts the upstream, and says what was found, what is missing and how to mend \
             it; ends with 1 where there is a problem, and with 2 where the settings cannot be read",
        )
        .arg(switch("json", "says it as JSON"))
        .arg(switch("print-settings", "shows every setting in force and where it was written, and contacts nothing"))
}

fn health() -> Command {
    Command::new("health")
        .about("Asks a running sidecar whether it lives, and says so by its exit status: 0, or 1")
        .arg(
            Arg::new("ready")
                .long("ready")
                .action(ArgAction::SetTrue)
                .help("asks whether requests can be answered"),
        )
        .arg(Arg::new("url").value_name("URL").help(
            "the second listener, as http://HOST:PORT or unix:PATH; sidecar.admin_listen where it is not given",
        ))
}

fn history() -> Command {
    let file = |help| {
        Arg::new("file").value_name("FILE").value_parser(value_parser!(PathBuf)).default_value("-").help(help)
    };
    let bucket = Arg::new("bucket").long("bucket").value_name("ID").help("only the history of this bucket");
    Command::new("history")
        .about("The journal of the history: copied, read from end to end, made smaller, and moved as lines of JSON")
        .subcommand_required(true)
        .subcommand(
            Command::new("backup")
                .about("Copies a journal in SQLite, also while a sidecar uses it")
                .arg(
                    Arg::new("file")
                        .value_name("FILE")
                        .value_parser(value_parser!(PathBuf))
                        .required(true)
                        .help("where to; a file that is there already is left alone"),
                ),
        )
        .subcommand(Command::new("verify").about("Reads all of the journal, and says whether it is whole"))
        .subcommand(
            Command::new("compact")
                .about("Makes the file of a journal in SQLite as small as it can be, while no sidecar uses it"),
        )
        .subcommand(
            Command::new("export")
                .about("Writes the journal as it is now, also while sidecars use it")
                .arg(bucket)
                .arg(file("where to; a file that is there already is left alone, and - is the standard output")),
        )
        .subcommand(
            Command::new("import")
                .about(
                    "Adds what an export wrote, or entries as Kinto's own plugin serves them, one a line; what is \
                     there already is left as it is",
                )
                .arg(
                    Arg::new("new")
                        .long("new")
                        .action(ArgAction::SetTrue)
                        .help("makes the journal where there is none"),
                )
                .arg(
                    Arg::new("from")
                        .long("from")
                        .value_name("URL")
                        .conflicts_with("file")
                        .conflicts_with("sidecar.upstream")
                        .help("reads the histories of all buckets from a Kinto with the history plugin, by its API root"),
                )
                .arg(file("where from; - is the standard input")),
        )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(arguments: &[&str]) -> Result<Cli, clap::Error> {
        Cli::parse(arguments.iter().map(OsString::from))
    }

    #[test]
    fn the_command_is_well_formed() {
        command().debug_assert();
    }

    #[test]
    fn the_long_help_has_every_setting_in_its_section() {
        let help = command().render_long_help().to_string();
        for key in KEYS {
            let name = key.flag.map_or(format!("  {} = ", key.name), |flag| format!("--{}", flag.long));
            assert!(help.contains(&name), "{name} is not in {help}");
            assert!(help.contains(&format!("\n{}:", key.section)), "{}", key.section);
            assert!(help.contains(&plain(&key.described_default())), "{}", key.name);
        }
    }

    #[test]
    fn options_may_stand_on_either_side_of_the_subcommand() {
        for arguments in
            [["--listen", "h:1", "check", "--exclusive"], ["check", "--exclusive", "--listen", "h:1"]]
        {
            let cli = parse(&arguments).unwrap();
            assert_eq!(cli.task, Task::Check(Check::default()));
            assert_eq!(cli.arguments.flags["sidecar.listen"], "h:1");
            assert_eq!(cli.arguments.flags["sidecar.exclusive"], "true");
        }
    }

    #[test]
    fn transfers_name_a_file_or_a_stream() {
        let task =
            |arguments: &[&str]| parse(arguments).map(|cli| cli.task).map_err(|error| error.exit_code());
        let file = |name: &str| Some(PathBuf::from(name));
        let export =
            |bucket: Option<&str>, file| Transfer::Export { bucket: bucket.map(str::to_owned), file };
        assert_eq!(task(&["history", "export"]), Ok(Task::Transfer(export(None, None))));
        assert_eq!(
            task(&["history", "export", "--bucket", "a", "x.ndjson"]),
            Ok(Task::Transfer(export(Some("a"), file("x.ndjson"))))
        );
        assert_eq!(
            task(&["history", "import", "-"]),
            Ok(Task::Transfer(Transfer::Import { file: None, is_new: false, is_upstream: false }))
        );
        let backup = Transfer::Backup { file: PathBuf::from("x.db") };
        assert_eq!(task(&["history", "backup", "x.db"]), Ok(Task::Transfer(backup)));
        assert_eq!(task(&["history", "backup"]), Err(2));
        assert_eq!(task(&["history", "verify"]), Ok(Task::Transfer(Transfer::Verify)));
        assert_eq!(task(&["history", "compact"]), Ok(Task::Transfer(Transfer::Compact)));
        assert_eq!(task(&["history"]), Err(2));
        let cli = parse(&["--journal", "sqlite:a.db", "history", "import", "--new", "x"]).unwrap();
        assert_eq!(cli.arguments.flags["sidecar.journal"], "sqlite:a.db");
        assert_eq!(
            cli.task,
            Task::Transfer(Transfer::Import { file: file("x"), is_new: true, is_upstream: false })
        );
    }

    #[test]
    fn an_import_from_a_kinto_has_it_for_its_upstream() {
        let cli = parse(&["history", "import", "--from", "http://k/v1"]).unwrap();
        assert_eq!(cli.arguments.flags["sidecar.upstream"], "http://k/v1");
        let transfer = Transfer::Import { file: None, is_new: false, is_upstream: true };
        assert_eq!(cli.task, Task::Transfer(transfer));
        assert!(parse(&["history", "import", "--from", "http://k/v1", "x"]).is_err());
        assert!(parse(&["history", "import", "--from", "http://k/v1", "--upstream", "http://k/v1"]).is_err());
    }

    #[test]
    fn health_asks_for_life_unless_told_otherwise() {
        let task = |arguments: &[&str]| parse(arguments).unwrap().task;
        assert_eq!(task(&["health"]), Task::Health(Health { ready: false, url: None }));
        let url = Some("http://h:1".to_owned());
        assert_eq!(task(&["health", "--ready", "http://h:1"]), Task::Health(Health { ready: true, url }));
    }

    #[test]
    fn unknown_flags_are_refused_with_status_2() {
        assert_eq!(parse(&["--lisen", "h:1"]).unwrap_err().exit_code(), 2);
    }
}
