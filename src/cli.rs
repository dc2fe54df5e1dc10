//! The command line, exactly as it was typed; what it means is for [`crate::settings`] to say.

use std::ffi::OsString;
use std::path::PathBuf;

use clap::ArgMatches;
use clap_complete::Shell;

mod grammar;

pub(crate) use grammar::{ABOUT_SETTINGS, EXIT_STATUSES, command, plain, settings_without_flags};

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
    /// Ask a running sidecar what was done, or to undo it.
    Past(Past),
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

/// What a running sidecar is asked of the past.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Past {
    /// What is asked.
    pub kind: PastKind,
    /// The bucket.
    pub bucket: String,
    /// The collection that is restored.
    pub collection: Option<String>,
    /// The first moment; that to which something is restored.
    pub from: Option<String>,
    /// The last moment.
    pub to: Option<String>,
    /// The ids of entries that are undone.
    pub entries: Vec<String>,
    /// Filters of the history, as `NAME=VALUE`.
    pub filters: Vec<String>,
    /// The fields that are given back.
    pub fields: Vec<String>,
    /// Why.
    pub reason: Option<String>,
    /// What was changed since is overwritten.
    pub overwrites: bool,
    /// Permissions are given back.
    pub gives_permissions: bool,
    /// It is done, and not only previewed.
    pub is_meant: bool,
}

/// See [`Past`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PastKind {
    /// What was done.
    Diff,
    /// What was done is undone.
    Revert,
    /// A collection is to be as it was.
    Restore,
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
            Some(("history", matches)) => {
                let past = past(matches).map(|(past, matches)| (Task::Past(past), matches));
                let transfer =
                    || transfer(matches).map(|(transfer, matches)| (Task::Transfer(transfer), matches));
                past.or_else(transfer).unwrap_or((Task::Serve, matches))
            }
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

/// `history diff`, `history revert` and `history restore`.
fn past(matches: &ArgMatches) -> Option<(Past, &ArgMatches)> {
    let (name, matches) = matches.subcommand()?;
    let kind = match name {
        "diff" => PastKind::Diff,
        "revert" => PastKind::Revert,
        "restore" => PastKind::Restore,
        _ => return None,
    };
    let one = |name: &str| matches.try_get_one::<String>(name).ok().flatten().cloned();
    let all = |name: &str| -> Vec<String> {
        matches.try_get_many::<String>(name).ok().flatten().into_iter().flatten().cloned().collect()
    };
    let is_set = |name: &str| matches.try_get_one::<bool>(name).is_ok_and(|set| set == Some(&true));
    let past = Past {
        kind,
        bucket: one("bucket")?,
        collection: one("collection"),
        from: one("moment"),
        to: one("to"),
        entries: all("entry"),
        filters: all("where"),
        fields: all("field"),
        reason: one("reason"),
        overwrites: is_set("overwrite"),
        gives_permissions: is_set("permissions"),
        is_meant: is_set("yes"),
    };
    Some((past, matches))
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
    fn commands_that_say_too_little_or_too_much_are_refused_with_status_2() {
        for arguments in [
            "history",
            "history backup",
            "history import --from http://k/v1 x",
            "history import --from http://k/v1 --upstream http://k/v1",
            "history revert --from http://s/v1 --bucket b",
            "history diff --from http://s/v1 --since 5",
            "history restore --from http://s/v1 --bucket b --to 5",
            "history diff --bucket b --since 5",
        ] {
            let words: Vec<&str> = arguments.split(' ').collect();
            let refused = parse(&words).map(|cli| cli.task).map_err(|error| error.exit_code());
            assert_eq!(refused, Err(2), "{arguments}");
        }
    }
}
