//! `kinto-sidecar man` and `kinto-sidecar completions`: what a package installs beside the program.

use std::io::{self, Write};
use std::process::ExitCode;

use clap::{Arg, Command};
use clap_mangen::Man;
use clap_mangen::roff::{Inline, Roff, bold, italic, roman};

use crate::cli::{self, Manual};

/// Prints it.
pub fn run(manual: Manual) -> io::Result<ExitCode> {
    let mut command = cli::command();
    let mut text = Vec::new();
    match manual {
        Manual::Page => page(command, &mut text)?,
        Manual::Completions(shell) => {
            clap_complete::generate(shell, &mut command, "kinto-sidecar", &mut text);
        }
    }
    match io::stdout().write_all(&text) {
        // Whoever reads it may have seen enough.
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => Err(error),
        _ => Ok(ExitCode::SUCCESS),
    }
}

/// One page for the program and its commands, in the format of `man`.
fn page(command: Command, text: &mut dyn Write) -> io::Result<()> {
    let mut commands = Roff::new();
    commands.control("SH", ["COMMANDS"]);
    describe_commands(&mut commands, "", &command);
    let man = Man::new(command).manual("kinto-sidecar");
    man.render_title(text)?;
    man.render_name_section(text)?;
    man.render_synopsis_section(text)?;
    man.render_description_section(text)?;
    commands.to_writer(text)?;
    man.render_options_section(text)?;
    let mut settings = Roff::new();
    settings.control("SH", ["SETTINGS"]);
    settings.text([roman(cli::ABOUT_SETTINGS)]);
    for (section, keys) in cli::settings_without_flags() {
        settings.control("SS", [section]);
        for key in keys {
            settings.control("TP", []);
            settings.text([bold(key.name), roman(format!(" = {}", cli::plain(&key.described_default())))]);
            settings.text([roman(cli::plain(&key.described_meaning()))]);
        }
    }
    settings.control("SH", ["EXIT STATUS"]);
    for (status, meaning) in cli::EXIT_STATUSES {
        settings.control("TP", []);
        settings.text([bold(status)]);
        settings.text([roman(meaning)]);
    }
    settings.to_writer(text)
}

/// Each command that does something, with what it alone takes.
fn describe_commands(page: &mut Roff, parents: &str, command: &Command) {
    for command in command.get_subcommands() {
        let name = format!("{parents}{}", command.get_name());
        if command.has_subcommands() {
            describe_commands(page, &format!("{name} "), command);
            continue;
        }
        page.control("TP", []);
        let mut usage = vec![bold(name)];
        usage.extend(command.get_arguments().flat_map(usage_of));
        page.text(usage);
        page.text([roman(command.get_about().map(ToString::to_string).unwrap_or_default())]);
        for argument in command.get_arguments() {
            let Some(help) = argument.get_help() else { continue };
            page.control("IP", []);
            page.text([usage_of(argument), vec![roman(format!(": {help}"))]].concat());
        }
    }
}

/// ` [--long VALUE]` or ` [VALUE]`.
fn usage_of(argument: &Arg) -> Vec<Inline> {
    let value = argument.get_action().takes_values().then(|| argument.get_value_names()).flatten();
    let value = value.and_then(<[_]>::first).map(ToString::to_string);
    let is_needed = argument.is_required_set();
    let mut usage = vec![roman(if is_needed { " " } else { " [" })];
    usage.extend(argument.get_long().map(|long| bold(format!("--{long}"))));
    if let Some(value) = value {
        usage.extend(argument.get_long().map(|_| roman(" ")));
        usage.push(italic(value));
    }
    usage.extend((!is_needed).then(|| roman("]")));
    usage
}
