//! Reads Kinto's own INI file the way Kinto does: Python's `ConfigParser` with `PasteDeploy`'s rules.
//!
//! Section `[app:main]`; keys are case-sensitive; `=` or `:`; values go on over indented lines; whole lines
//! that begin with `#` or `;` are comments, also between the lines of a value, and nothing else is.
//! `%(name)s` stands for a value of the section, of `[DEFAULT]`, or for `here` and `__file__`.
//! As in `PasteDeploy`, `[DEFAULT]` gives values to these only (or to a `get key = name`), never settings.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
};

use super::error::SettingsError;

const SECTION: &str = "app:main";
const DEFAULTS: &str = "DEFAULT";
/// As deep as `ConfigParser` follows values within values.
const MAX_DEPTH: usize = 10;

/// The settings in one file.
#[derive(Debug)]
pub(super) struct IniFile {
    pub(super) path: PathBuf,
    settings: Section,
    defaults: Section,
    /// What stands in other sections.
    others: Sections,
}

/// A value as written, and the line where it begins.
#[derive(Clone, Debug)]
struct Raw {
    text: String,
    line: usize,
}

type Section = BTreeMap<String, Raw>;

impl IniFile {
    pub(super) fn read(path: &Path) -> Result<Self, SettingsError> {
        let unreadable = |source| SettingsError::Unreadable { path: path.to_owned(), source };
        let text = std::fs::read_to_string(path).map_err(unreadable)?;
        let absolute = std::path::absolute(path).map_err(unreadable)?;
        Self::parse(path, &absolute, &text)
    }

    fn parse(path: &Path, absolute: &Path, text: &str) -> Result<Self, SettingsError> {
        let syntax = |reason| SettingsError::Syntax { path: path.to_owned(), reason };
        let mut sections = parse_sections(text).map_err(syntax)?;
        let mut settings = sections
            .remove(SECTION)
            .ok_or_else(|| syntax(format!("no section [{SECTION}], where Kinto's settings are")))?;
        let mut defaults = sections.remove(DEFAULTS).unwrap_or_default();
        let here = absolute.parent().unwrap_or(absolute);
        for (name, place) in [("here", here), ("__file__", absolute)] {
            let place = || Raw { text: place.display().to_string(), line: 0 };
            defaults.entry(name.to_owned()).or_insert_with(place);
        }
        settings.retain(|name, _| !defaults.contains_key(name));
        let taken: Vec<_> = settings
            .iter()
            .filter_map(|(name, Raw { text: from, line })| {
                let text = defaults.get(from)?.text.clone();
                Some((name.strip_prefix("get ")?.trim().to_owned(), Raw { text, line: *line }))
            })
            .collect();
        settings.extend(taken);
        Ok(Self { path: path.to_owned(), settings, defaults, others: sections })
    }

    /// The names of all settings, as written.
    pub(super) fn names(&self) -> impl Iterator<Item = &str> {
        self.settings.keys().map(String::as_str)
    }

    /// The names that stand in other sections, as written, behind that of their section.
    pub(super) fn astray(&self) -> impl Iterator<Item = (&str, &str)> {
        let defaults = std::iter::once((DEFAULTS, &self.defaults));
        let others = self.others.iter().map(|(section, names)| (section.as_str(), names));
        defaults
            .chain(others)
            .flat_map(|(section, names)| names.keys().map(move |name| (section, name.as_str())))
            // A setting may take what it is from there.
            .filter(|(section, name)| *section != DEFAULTS || !self.settings.contains_key(*name))
    }

    /// The value of a setting as written.
    pub(super) fn raw(&self, name: &str) -> Option<&str> {
        self.settings.get(name).map(|raw| raw.text.as_str())
    }

    /// The value of a setting and its line. What the sidecar does not ask for is not interpolated, and cannot fail.
    pub(super) fn get(&self, name: &str) -> Result<Option<(String, usize)>, SettingsError> {
        let Some(Raw { text, line }) = self.settings.get(name) else { return Ok(None) };
        Ok(Some((self.interpolate(name, text, 0)?, *line)))
    }

    /// The line where a setting begins.
    pub(super) fn line(&self, name: &str) -> usize {
        self.settings.get(name).map_or(0, |raw| raw.line)
    }

    fn interpolate(&self, name: &str, raw: &str, depth: usize) -> Result<String, SettingsError> {
        let syntax = |reason: &str| SettingsError::Syntax {
            path: self.path.clone(),
            reason: format!("{name}: {reason} (a single % is written as %%)"),
        };
        if depth > MAX_DEPTH {
            return Err(syntax("values refer to each other without end"));
        }
        let mut value = String::with_capacity(raw.len());
        let mut rest = raw;
        while let Some((before, after)) = rest.split_once('%') {
            value.push_str(before);
            if let Some(after) = after.strip_prefix('%') {
                value.push('%');
                rest = after;
                continue;
            }
            let (reference, after) = after
                .strip_prefix('(')
                .and_then(|after| after.split_once(")s"))
                .ok_or_else(|| syntax("expected %(name)s after %"))?;
            let referred = self.settings.get(reference).or_else(|| self.defaults.get(reference));
            let referred = referred.ok_or_else(|| syntax(&format!("%({reference})s is not defined")))?;
            value.push_str(&self.interpolate(name, &referred.text, depth + 1)?);
            rest = after;
        }
        value.push_str(rest);
        Ok(value)
    }
}

type Sections = BTreeMap<String, Section>;

/// What the lines that follow belong to.
struct Open {
    section: String,
    /// The value that an indented line goes on with, and how far its key is indented.
    option: Option<(String, usize)>,
}

fn parse_sections(text: &str) -> Result<Sections, String> {
    let mut sections = Sections::new();
    let mut open: Option<Open> = None;
    for (number, line) in (1..).zip(text.trim_start_matches('\u{feff}').lines()) {
        let trimmed = line.trim();
        if trimmed.is_empty() || trimmed.starts_with(['#', ';']) {
            continue;
        }
        let indent = line.len() - line.trim_start().len();
        if let Some(Open { section, option: Some((name, level)) }) = &open
            && indent > *level
        {
            if let Some(value) = sections.get_mut(section).and_then(|section| section.get_mut(name)) {
                value.text.push('\n');
                value.text.push_str(trimmed);
            }
            continue;
        }
        if let Some(header) = trimmed.strip_prefix('[').and_then(|rest| Some(rest.rsplit_once(']')?.0)) {
            if sections.insert(header.to_owned(), Section::new()).is_some() {
                return Err(format!("line {number}: section [{header}] is there twice"));
            }
            open = Some(Open { section: header.to_owned(), option: None });
            continue;
        }
        let Some(Open { section, option }) = &mut open else {
            return Err(format!("line {number}: expected a [section] first"));
        };
        let (name, value) = trimmed
            .split_once(['=', ':'])
            .map(|(name, value)| (name.trim_end(), value.trim_start()))
            .filter(|(name, _)| !name.is_empty())
            .ok_or_else(|| format!("line {number}: expected KEY = VALUE"))?;
        let values = sections.entry(section.clone()).or_default();
        if values.insert(name.to_owned(), Raw { text: value.to_owned(), line: number }).is_some() {
            return Err(format!("line {number}: {name} is there twice in [{section}]"));
        }
        *option = Some((name.to_owned(), indent));
    }
    Ok(sections)
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::IniFile;

    fn parse(text: &str) -> Result<IniFile, String> {
        IniFile::parse(Path::new("k.ini"), Path::new("/etc/kinto/k.ini"), text)
            .map_err(|error| error.to_string())
    }

    fn value(text: &str, name: &str) -> Result<Option<String>, String> {
        parse(&format!("[app:main]\n{text}"))?
            .get(name)
            .map(|found| found.map(|(text, _)| text))
            .map_err(|error| error.to_string())
    }

    #[test]
    fn values_go_on_over_indented_lines_and_comments_between_them() {
        let text =
            "kinto.includes = a\n  b\n#  c\n\n  ; d\n  [e]\n  f = g\nnext: 1 ; not a comment # nor this";
        assert_eq!(value(text, "kinto.includes"), Ok(Some("a\nb\n[e]\nf = g".to_owned())));
        assert_eq!(value(text, "next"), Ok(Some("1 ; not a comment # nor this".to_owned())));
    }

    #[test]
    fn only_the_main_section_counts() {
        let ini = parse("[server:main]\nport = 1\n[DEFAULT]\nhost = h\n[app:main]\nuse = egg:kinto").unwrap();
        assert_eq!(ini.names().collect::<Vec<_>>(), ["use"]);
    }

    #[test]
    fn percent_names_stand_for_values() {
        let text = "a = %(b)s/%(here)s\nb = 100%%\nc = %(__file__)s\n";
        assert_eq!(value(text, "a"), Ok(Some("100%//etc/kinto".to_owned())));
        assert_eq!(value(text, "c"), Ok(Some("/etc/kinto/k.ini".to_owned())));
    }

    #[test]
    fn defaults_are_taken_by_name() {
        let text = "[DEFAULT]\nbase = x\n[app:main]\nget key = base\nbase = hidden\nother = %(base)s";
        let ini = parse(text).unwrap();
        assert_eq!(ini.get("key").unwrap().unwrap().0, "x");
        assert_eq!(ini.get("other").unwrap().unwrap().0, "x");
        assert_eq!(ini.get("base").unwrap(), None);
    }

    #[test]
    fn what_python_refuses_is_refused_with_its_line() {
        for (text, expected) in [
            ("a = 1", "line 1: expected a [section] first"),
            ("[app:main]\nword", "line 2: expected KEY = VALUE"),
            ("[app:main]\n= 1", "line 2: expected KEY = VALUE"),
            ("[app:main]\na = 1\na = 2", "line 3: a is there twice in [app:main]"),
            ("[app:main]\n[app:main]", "line 2: section [app:main] is there twice"),
            ("[app:other]", "no section [app:main], where Kinto's settings are"),
        ] {
            assert_eq!(parse(text).unwrap_err(), format!("settings file k.ini: {expected}"));
        }
        assert!(value("a = %(nothing)s", "a").unwrap_err().contains("%(nothing)s is not defined"));
        assert!(value("a = 5%", "a").unwrap_err().contains("a single % is written as %%"));
        assert!(value("a = %(b)s\nb = %(a)s", "a").unwrap_err().contains("without end"));
        assert_eq!(value("a = 5%", "b"), Ok(None));
    }
}
