//! What can be typed, and the help that says so.
//!
//! Flags come from the table of settings, so that each setting is described in one place.

use std::path::PathBuf;

use clap::{Arg, ArgAction, ArgGroup, Command, value_parser};
use clap_complete::Shell;

use crate::settings::{KEYS, Key};

/// The whole command line.
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
        let help = plain(&format!("{}{default}", key.described_meaning()));
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
    (SIDECAR_MAX_BODY for sidecar.max_body) or as --set KEY=VALUE. The settings file is read again at SIGHUP; what is marked \
    [at start only] needs a restart:";

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
            let (default, meaning) = (plain(&key.described_default()), plain(&key.described_meaning()));
            text.extend(["\n  ", key.name, " = ", &default, "\n          ", &meaning]);
        }
    }
    text += "\n\nExit status:";
    for (status, meaning) in EXIT_STATUSES {
        text.extend(["\n  ", status, "  ", meaning]);
    }
    text
}

/// A flag of one command, which has no value.
fn switch(name: &'static str, help: &'static str) -> Arg {
    Arg::new(name).long(name).action(ArgAction::SetTrue).help(help)
}

fn check() -> Command {
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
        .arg(switch("ready", "asks whether requests can be answered"))
        .arg(Arg::new("url").value_name("URL").help(
            "the second listener, as http://HOST:PORT or unix:PATH; sidecar.admin_listen where it is not given",
        ))
}

fn history() -> Command {
    let named = |help| Arg::new("file").value_name("FILE").value_parser(value_parser!(PathBuf)).help(help);
    let file = |help| named(help).default_value("-");
    let bucket = Arg::new("bucket").long("bucket").value_name("ID").help("only the history of this bucket");
    Command::new("history")
        .about("The journal of the history: copied, read from end to end, made smaller, and moved as lines of JSON")
        .subcommand_required(true)
        .subcommand(
            Command::new("backup")
                .about("Copies a journal in SQLite, also while a sidecar uses it")
                .arg(named("where to; a file that is there already is left alone").required(true)),
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
                .arg(switch("new", "makes the journal where there is none"))
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
        .subcommand(with_selection(asking("diff", "Says what was done to a bucket, by a running sidecar")))
        .subcommand(writing(with_selection(asking(
            "revert",
            "Undoes what was done to a bucket, by a running sidecar; without --yes it says what would be done",
        )))
        .arg(option("entry", "ID", "undoes this entry; may be given several times").action(ArgAction::Append))
        .group(ArgGroup::new("what").args(["moment", "entry"]).required(true)))
        .subcommand(
            writing(asking(
                "restore",
                "Makes a collection what it was at a moment, by a running sidecar; without --yes it says what would \
                 be done",
            ))
            .arg(option("collection", "ID", "the collection").required(true))
            .arg(Arg::new("moment").long("to").value_name("MOMENT").required(true).help(MOMENT)),
        )
}

/// What a moment is.
const MOMENT: &str = "the moment: a timestamp in milliseconds, or a date of RFC 3339";

fn option(name: &'static str, value: &'static str, help: &'static str) -> Arg {
    Arg::new(name).long(name).value_name(value).help(help)
}

/// A command that asks a running sidecar, with the credentials of `sidecar.auth` or `sidecar.auth_file`.
fn asking(name: &'static str, about: &'static str) -> Command {
    let from = option("from", "URL", "the API root of the running sidecar").required(true);
    Command::new(name)
        .about(about)
        .arg(from.conflicts_with("sidecar.upstream"))
        .arg(option("bucket", "ID", "the bucket").required(true))
}

fn with_selection(command: Command) -> Command {
    let is_diff = command.get_name() == "diff";
    let filter = option(
        "where",
        "NAME=VALUE",
        "a filter of the history, such as user_id=…; may be given several times",
    );
    command
        .arg(Arg::new("moment").long("since").value_name("MOMENT").required(is_diff).help(MOMENT))
        .arg(option("to", "MOMENT", "the last moment; now where it is not given").requires("moment"))
        .arg(filter.action(ArgAction::Append).requires("moment"))
}

fn writing(command: Command) -> Command {
    command
        .arg(switch("yes", "does it"))
        .arg(switch("overwrite", "overwrites also what was changed since"))
        .arg(switch("permissions", "gives permissions back, too"))
        .arg(
            option("field", "PATH", "gives back this field alone; may be given several times")
                .action(ArgAction::Append),
        )
        .arg(option("reason", "TEXT", "stands in each entry that is made"))
}
