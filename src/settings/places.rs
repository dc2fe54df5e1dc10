//! The places where a setting can be written: a flag wins over `--set`, that over the environment, that over the file, that
//! over the default. Nothing is opened or contacted here but the files that the settings name.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::Arc;

use super::error::{Origin, SettingsError};
use super::ini::IniFile;
use super::key::{Key, Setting};
use super::names::{Environment, environment_names, without_prefix};
use super::record_cache::{FAMILY, RecordCache};
use super::redacted::complained_of;
use super::values::{Field, Kind, native};

/// What the command line says of settings, as it was typed.
#[derive(Debug, Clone, Default)]
pub struct Arguments {
    /// `--settings`, or `KINTO_INI`.
    pub settings_file: Option<PathBuf>,
    /// Each `--set`.
    pub assignments: Vec<String>,
    /// The value of each named flag, by the key of its setting.
    pub flags: BTreeMap<&'static str, String>,
}

/// All places where a setting can be written.
pub(super) struct Places<'a> {
    keys: &'static [Key],
    arguments: &'a Arguments,
    pub(super) assigned: BTreeMap<String, String>,
    /// What has several values there, of which the last one counts.
    pub(super) assigned_twice: BTreeSet<String>,
    pub(super) environment: &'a Environment,
    pub(super) file: Option<IniFile>,
    /// What is in force whatever is written, by its name.
    kept: BTreeMap<String, (String, Origin)>,
}

impl<'a> Places<'a> {
    pub(super) fn open(
        keys: &'static [Key],
        arguments: &'a Arguments,
        environment: &'a Environment,
    ) -> Result<Self, SettingsError> {
        let (mut assigned, mut assigned_twice) = (BTreeMap::new(), BTreeSet::new());
        for assignment in &arguments.assignments {
            let (key, value) = assignment
                .split_once('=')
                .filter(|(key, _)| !key.trim().is_empty())
                .ok_or_else(|| SettingsError::Assignment(beginning(assignment)))?;
            let key = without_prefix(key.trim()).to_owned();
            if assigned.insert(key.clone(), value.to_owned()).is_some_and(|other| other != value) {
                assigned_twice.insert(key);
            }
        }
        let file = arguments.settings_file.as_deref().map(IniFile::read).transpose()?;
        Ok(Self { keys, arguments, assigned, assigned_twice, environment, file, kept: BTreeMap::new() })
    }

    /// Has these settings be in force whatever is written.
    pub(super) fn keep<'s>(&mut self, settings: impl Iterator<Item = &'s Setting>) {
        self.kept.extend(
            settings
                .map(|setting| (setting.name.to_string(), (setting.text.clone(), setting.origin.clone()))),
        );
    }

    /// What is written for a key, in the strongest place.
    pub(super) fn written(&self, key: &Key) -> Result<Option<(String, Origin)>, SettingsError> {
        if let (Some(flag), Some(value)) = (key.flag, self.arguments.flags.get(key.name)) {
            if value.trim().is_empty() {
                // What it was to say was lost on the way here: a variable that is not set, for one.
                return Err(SettingsError::Blank { key: key.name, flag: flag.long });
            }
            return Ok(Some((value.clone(), Origin::Flag(flag.long))));
        }
        if let Some(value) = self.assigned.get(key.name) {
            return Ok(Some((value.clone(), Origin::Assignment)));
        }
        for name in environment_names(key.name) {
            if let Some(value) = self.environment.get(&name) {
                return Ok(Some((native(value), Origin::Environment(name))));
            }
        }
        let Some(file) = &self.file else { return Ok(None) };
        for name in std::iter::once(key.name).chain(key.former) {
            let prefixed = format!("kinto.{name}");
            if let (Some(one), Some(other)) = (file.raw(&prefixed), file.raw(name))
                && one != other
            {
                return Err(SettingsError::Conflict {
                    path: file.path.clone(),
                    names: [prefixed, name.to_owned()],
                });
            }
            let value = match file.get(&prefixed)? {
                Some(value) => Some(value),
                None => file.get(name)?,
            };
            if let Some((value, line)) = value {
                return Ok(Some((native(&value), Origin::File(file.path.clone(), line))));
            }
        }
        Ok(None)
    }

    /// The text of a setting that is in force, and where it was written.
    fn effective(&self, key: &Key) -> Result<(String, Origin), SettingsError> {
        if let Some(kept) = self.kept.get(key.name) {
            return Ok(kept.clone());
        }
        Ok(match self.written(key)? {
            Some((text, origin)) if key.takes_blank || !text.trim().is_empty() => {
                (text.trim().to_owned(), origin)
            }
            _ => (key.default(self.environment), Origin::Default),
        })
    }

    fn key(&self, name: &'static str) -> Result<&'static Key, SettingsError> {
        let unknown =
            || SettingsError::Unknown { key: name.to_owned(), origin: Origin::Default, suggestion: None };
        self.keys.iter().find(|key| key.name == name).ok_or_else(unknown)
    }

    /// The value of a setting.
    pub(super) fn value<F: Field<T>, T>(
        &self,
        name: &'static str,
        kind: &Kind<T>,
    ) -> Result<F, SettingsError> {
        let key = self.key(name)?;
        let (text, origin) = self.effective(key)?;
        F::read(kind, &text).map_err(|text| malformed(key, text, origin, kind.expected))
    }

    /// The text of a setting, and where it was written; `None` where it is blank.
    pub(super) fn text(&self, name: &'static str) -> Result<Option<(String, Origin)>, SettingsError> {
        Ok(Some(self.effective(self.key(name)?)?).filter(|(text, _)| !text.is_empty()))
    }

    /// Every setting, and those of the open family.
    pub(super) fn in_force(&self) -> Result<Arc<[Setting]>, SettingsError> {
        let mut settings = Vec::with_capacity(self.keys.len());
        for key in self.keys {
            let (text, origin) = self.effective(key)?;
            settings.push(Setting::new(key, key.name.into(), text, origin));
        }
        settings.extend(self.record_cache_settings()?);
        Ok(settings.into())
    }

    /// What all places say about record caching.
    pub(super) fn record_cache(&self) -> Result<RecordCache, SettingsError> {
        let mut cache = RecordCache::default();
        for Setting { name, text, origin, .. } in self.record_cache_settings()? {
            let Some(seconds) = text.parse().ok() else {
                return Err(SettingsError::Malformed {
                    key: FAMILY.name,
                    value: format!("{text:?} (as {name})"),
                    origin,
                    expected: "a whole number of seconds",
                });
            };
            cache.insert(&name, &origin, seconds);
        }
        Ok(cache)
    }

    fn record_cache_settings(&self) -> Result<Vec<Setting>, SettingsError> {
        let mut settings = Vec::new();
        let mut add = |name: &str, text: &str, origin| {
            if !text.trim().is_empty() {
                let name = name.to_owned().into();
                settings.push(Setting::new(&FAMILY, name, text.trim().to_owned(), origin));
            }
        };
        for (key, text) in self.assigned.iter().filter(|(key, _)| RecordCache::owns(key)) {
            add(key, text, Origin::Assignment);
        }
        for (name, text) in self.environment.iter().filter(|(name, _)| RecordCache::owns_environment(name)) {
            add(name, text, Origin::Environment(name.clone()));
        }
        let Some(file) = &self.file else { return Ok(settings) };
        for name in file.names().filter(|name| RecordCache::owns(without_prefix(name))) {
            if let Some((text, line)) = file.get(name)? {
                add(without_prefix(name), &text, Origin::File(file.path.clone(), line));
            }
        }
        Ok(settings)
    }
}

fn malformed(key: &Key, text: &str, origin: Origin, expected: &'static str) -> SettingsError {
    let value = complained_of(text, (key.is_secret)(text));
    SettingsError::Malformed { key: key.name, value, origin, expected }
}

/// What of a malformed assignment can be shown: its key, as far as it looks like one.
fn beginning(assignment: &str) -> String {
    let is_of_key = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '-' | '.');
    let end = assignment.find(|c| !is_of_key(c)).unwrap_or(assignment.len());
    let key = assignment.get(..end).unwrap_or_default();
    if end == assignment.len() { key.to_owned() } else { format!("{key}…") }
}
