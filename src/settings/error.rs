//! What can be wrong with the settings. Each says in one line which key, which value, and what was expected.

use std::{fmt, io, path::PathBuf};

use thiserror::Error;

use super::auth::AuthError;

/// Why the sidecar does not start.
#[derive(Debug, Error)]
pub enum SettingsError {
    /// A value that cannot be read.
    #[error("{key} = {value} ({origin}): expected {expected}")]
    Malformed {
        /// The key.
        key: &'static str,
        /// What was written, between quotes, unless it is a secret.
        value: String,
        /// Where it was written.
        origin: Origin,
        /// What would have been right.
        expected: &'static str,
    },
    /// A key that nothing reads.
    #[error("unknown setting {key} ({origin}){}", did_you_mean(*.suggestion))]
    Unknown {
        /// The key.
        key: String,
        /// Where it was written.
        origin: Origin,
        /// A known key that looks like it.
        suggestion: Option<&'static str>,
    },
    /// A `--set` without a key and a value.
    #[error("--set {0:?}: expected KEY=VALUE")]
    Assignment(String),
    /// A flag with nothing for its value.
    #[error("--{flag} has no value: say what {key} is, or leave the flag out")]
    Blank {
        /// The key.
        key: &'static str,
        /// The flag.
        flag: &'static str,
    },
    /// A variable of the environment that is no text.
    #[error("the environment's {0} is not UTF-8")]
    NotText(String),
    /// A setting of the sidecar where nothing reads it.
    #[error("settings file {}: {key} is in [{section}], and settings are read from [app:main] alone", path.display())]
    Elsewhere {
        /// The file.
        path: PathBuf,
        /// The key.
        key: String,
        /// The section.
        section: String,
    },
    /// Two settings that cannot both be meant.
    #[error("{first} ({origin}) {verb} {second}")]
    Clash {
        /// One, and what it is.
        first: String,
        /// Where it was written.
        origin: Origin,
        /// What one does to the other.
        verb: &'static str,
        /// The other, and what it is.
        second: String,
    },
    /// Two spellings of one key with different values.
    #[error("{}: settings '{names}' are in conflict", path.display(), names = names.join("', '"))]
    Conflict {
        /// The file.
        path: PathBuf,
        /// The two spellings.
        names: [String; 2],
    },
    /// Two settings of which only one can be obeyed.
    #[error("{first} and {second} are both set ({origin}): expected one of them")]
    Exclusive {
        /// One.
        first: &'static str,
        /// The other.
        second: &'static str,
        /// Where both were written.
        origin: Origin,
    },
    /// A setting that needs another one.
    #[error("{present} ({origin}) needs {missing} beside it")]
    Incomplete {
        /// What is there.
        present: &'static str,
        /// What is not.
        missing: &'static str,
        /// Where the former was written.
        origin: Origin,
    },
    /// The settings file cannot be read.
    #[error("settings file {}: {source}", path.display())]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The settings file is not an INI file as Kinto reads them.
    #[error("settings file {}: {reason}", path.display())]
    Syntax {
        /// The file.
        path: PathBuf,
        /// What was found, and where.
        reason: String,
    },
    /// The service account's credentials cannot be used.
    #[error("{key} ({origin}): {source}")]
    Credentials {
        /// The key.
        key: &'static str,
        /// Where it was written.
        origin: Origin,
        /// What is wrong with them.
        source: AuthError,
    },
}

/// What deserves a word but no stop.
#[derive(Debug, PartialEq, Eq)]
pub enum Warning {
    /// A key by its name in kinto-changes 0.x.
    Former {
        /// The name that was used.
        name: String,
        /// The name that it has now.
        present: &'static str,
    },
    /// An environment variable that looks like a setting and is none.
    Unknown {
        /// The variable.
        name: String,
        /// A known key that looks like it.
        suggestion: Option<&'static str>,
    },
    /// A key with several values on one command line.
    Twice(String),
    /// The settings file names another one, which is not read.
    NotFollowed {
        /// Where it does.
        origin: Origin,
        /// How the other one is named.
        other: String,
    },
    /// A secret on the command line.
    Exposed {
        /// Its key.
        key: &'static str,
        /// Where it was written.
        origin: Origin,
    },
}

impl fmt::Display for Warning {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Twice(key) => write!(f, "--set {key} is there with several values: the last one counts"),
            Self::Former { name, present } => write!(f, "setting {name} is now called {present}"),
            Self::Unknown { name, suggestion } => {
                write!(f, "environment variable {name} is no setting{}", did_you_mean(*suggestion))
            }
            Self::NotFollowed { origin, other } => write!(
                f,
                "use = {other} ({origin}) is not followed: what that file says is no setting here; write it here, too"
            ),
            Self::Exposed { key, origin } => {
                write!(
                    f,
                    "{key} ({origin}) can be seen by every user of this machine, in its list of processes: "
                )?;
                f.write_str(match *key {
                    "sidecar.auth" => "write it into a file of your own and name that with --auth-file",
                    _ => "write it into the settings file or the environment",
                })
            }
        }
    }
}

fn did_you_mean(suggestion: Option<&str>) -> String {
    suggestion.map(|key| format!(": did you mean {key}?")).unwrap_or_default()
}

/// Where a value was written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Origin {
    /// Nowhere: the default is in force.
    Default,
    /// The settings file, and its line.
    File(PathBuf, usize),
    /// This environment variable.
    Environment(String),
    /// `--set`.
    Assignment,
    /// This flag.
    Flag(&'static str),
}

impl Origin {
    /// How strong it is against others.
    pub(super) fn rank(&self) -> u8 {
        match self {
            Self::Default => 0,
            Self::File(..) => 1,
            Self::Environment(_) => 2,
            Self::Assignment => 3,
            Self::Flag(_) => 4,
        }
    }
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Default => f.write_str("default"),
            Self::File(path, line) => write!(f, "in {}:{line}", path.display()),
            Self::Environment(name) => write!(f, "from {name}"),
            Self::Assignment => f.write_str("from --set"),
            Self::Flag(long) => write!(f, "from --{long}"),
        }
    }
}
