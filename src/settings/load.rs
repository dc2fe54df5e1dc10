//! Puts the settings together, and says what is odd about how they are written.

use std::collections::BTreeMap;
use std::ffi::OsString;

use super::error::{Origin, SettingsError, Warning};
use super::in_force::Reread;
use super::key::Setting;
use super::names::{Environment, environment_names, without_prefix};
use super::places::{Arguments, Places};
use super::record_cache::RecordCache;
use super::table::{KEYS, Settings};

/// The sidecar's own namespaces: a key in one of them that is not in the table is a mistake.
const NAMESPACES: [&str; 4] = ["sidecar.", "changes.", "history.", "feeds."];

/// What nobody but the sidecar has keys of, however they are written.
const OWN: &str = "sidecar";

/// The environment as the process was given it. What is no text is passed over, unless it is a setting.
pub fn environment(
    variables: impl Iterator<Item = (OsString, OsString)>,
) -> Result<Environment, SettingsError> {
    let mut environment = Environment::new();
    for (name, value) in variables {
        let Ok(name) = name.into_string() else { continue };
        match value.into_string() {
            Ok(value) => _ = environment.insert(name, value),
            Err(_) if KEYS.iter().any(|key| environment_names(key.name).contains(&name)) => {
                return Err(SettingsError::NotText(name));
            }
            Err(_) => {}
        }
    }
    Ok(environment)
}

impl Settings {
    /// Resolves the settings of this command line, in this environment.
    pub fn load(
        arguments: &Arguments,
        environment: &Environment,
    ) -> Result<(Self, Vec<Warning>), SettingsError> {
        let places = Places::open(KEYS, arguments, environment)?;
        Ok((Self::read(&places)?, places.warnings()?))
    }

    /// Resolves them again. What cannot change while the process runs stays as it is here.
    pub(super) fn read_again(
        &self,
        arguments: &Arguments,
        environment: &Environment,
    ) -> Result<(Self, Reread), SettingsError> {
        let mut places = Places::open(KEYS, arguments, environment)?;
        let wanted = Self::read(&places)?;
        let differences = self.differences(&wanted).into_iter().cloned();
        let (differences, left): (Vec<Setting>, Vec<Setting>) =
            differences.partition(|setting| setting.is_live);
        let (changed, gone) = differences.into_iter().partition(|setting| wanted.in_force.contains(setting));
        let reread = Reread { changed, gone, left, warnings: places.warnings()? };
        if reread.left.is_empty() {
            return Ok((wanted, reread));
        }
        places.keep(self.in_force.iter().filter(|setting| !setting.is_live));
        Ok((Self::read(&places)?, reread))
    }

    /// What `new` says in other words than these settings: each setting as it is there, or as it was where it is there no
    /// more.
    pub fn differences<'s>(&'s self, new: &'s Self) -> Vec<&'s Setting> {
        // Several places may speak of one name of an open family.
        let name =
            |setting: &'s Setting| (&*setting.name, setting.origin.rank() * u8::from(setting.is_of_family()));
        let mut gone: BTreeMap<(&str, u8), &Setting> =
            self.in_force.iter().map(|setting| (name(setting), setting)).collect();
        let mut differences: Vec<&Setting> = new
            .in_force
            .iter()
            .filter(|setting| gone.remove(&name(setting)).is_none_or(|former| former.text != setting.text))
            .collect();
        differences.extend(gone.into_values());
        differences
    }
}

impl Places<'_> {
    /// What the settings file would have from another one, as `PasteDeploy` reads it.
    fn not_followed(&self) -> Option<Warning> {
        let file = self.file.as_ref()?;
        let other = file.raw("use").filter(|used| used.starts_with("config:"))?.to_owned();
        Some(Warning::NotFollowed { origin: Origin::File(file.path.clone(), file.line("use")), other })
    }

    /// What deserves a word but no stop.
    fn warnings(&self) -> Result<Vec<Warning>, SettingsError> {
        let mut warnings = self.misspelt()?;
        warnings.extend(self.formerly());
        warnings.extend(self.not_followed());
        warnings.extend(self.assigned_twice.iter().cloned().map(Warning::Twice));
        warnings.extend(self.exposed()?);
        Ok(warnings)
    }

    /// Keys of the sidecar's own that nothing reads: an error where somebody wrote them for it, a warning where it may
    /// be chance.
    fn misspelt(&self) -> Result<Vec<Warning>, SettingsError> {
        let is_known = |key: &str| KEYS.iter().any(|known| known.name == key) || RecordCache::owns(key);
        let is_misspelt = |key: &str| {
            let lower = key.to_lowercase();
            let is_own =
                lower.starts_with(OWN) || NAMESPACES.iter().any(|namespace| lower.starts_with(namespace));
            is_own && !is_known(key)
        };
        let unknown = |key: &str, origin| SettingsError::Unknown {
            key: key.to_owned(),
            origin,
            suggestion: nearest(without_prefix(key)),
        };
        if let Some(key) = self.assigned.keys().find(|key| !is_known(key)) {
            return Err(unknown(key, Origin::Assignment));
        }
        if let Some(file) = &self.file
            && let Some(key) = file.names().find(|key| is_misspelt(without_prefix(key)))
        {
            return Err(unknown(key, Origin::File(file.path.clone(), file.line(key))));
        }
        if let Some(file) = &self.file
            && let Some((section, key)) =
                file.astray().find(|(_, key)| without_prefix(key).starts_with("sidecar."))
        {
            let (path, key, section) = (file.path.clone(), key.to_owned(), section.to_owned());
            return Err(SettingsError::Elsewhere { path, key, section });
        }
        let known: Vec<String> = KEYS.iter().flat_map(|key| environment_names(key.name)).collect();
        let is_ours = |name: &str| {
            ["SIDECAR_", "KINTO_SIDECAR_", "KINTO_CHANGES_", "KINTO_HISTORY_", "KINTO_FEEDS_"]
                .iter()
                .any(|namespace| name.starts_with(namespace))
        };
        let names = self
            .environment
            .keys()
            .filter(|name| is_ours(name) && !known.contains(name) && !RecordCache::owns_environment(name));
        Ok(names
            .map(|name| {
                let guess = without_prefix(&name.to_lowercase().replacen('_', ".", 1)).to_owned();
                Warning::Unknown { name: name.clone(), suggestion: nearest(&guess) }
            })
            .collect())
    }

    /// The names of kinto-changes 0.x that are still in use.
    fn formerly(&self) -> Vec<Warning> {
        let Some(file) = &self.file else { return Vec::new() };
        let names = file.names().filter_map(|name| {
            let key = KEYS.iter().find(|key| key.former == Some(without_prefix(name)))?;
            Some(Warning::Former { name: name.to_owned(), present: key.name })
        });
        names.collect()
    }

    /// Secrets on the command line, which every user of the machine can read there.
    fn exposed(&self) -> Result<Vec<Warning>, SettingsError> {
        let mut warnings = Vec::new();
        for key in KEYS {
            let Some((text, origin)) = self.written(key)? else { continue };
            let is_on_command_line = matches!(origin, Origin::Flag(_) | Origin::Assignment);
            if is_on_command_line && (key.is_secret)(&text) && !text.trim().is_empty() {
                warnings.push(Warning::Exposed { key: key.name, origin });
            }
        }
        Ok(warnings)
    }
}

/// The known key that looks most like what was written, if any looks much like it. The namespace may be missing.
fn nearest(written: &str) -> Option<&'static str> {
    let written = written.to_lowercase();
    let distance = |name: &str| strsim::damerau_levenshtein(&written, name);
    let distances = KEYS.iter().map(|key| {
        let without = NAMESPACES.iter().find_map(|namespace| key.name.strip_prefix(namespace));
        let (whole, short) = (distance(key.name), without.map_or(usize::MAX, distance));
        (whole.min(short), short < whole, key.name)
    });
    distances.min().filter(|(distance, ..)| *distance <= 3).map(|(.., name)| name)
}
