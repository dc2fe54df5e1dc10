//! What `check` has found, as lines for people and as JSON for their machines.

use serde::Serialize;
use serde_json::{Value, json};

use crate::complaint::Complaint;
use crate::settings::{Setting, at_start_only};

/// How much something matters.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Level {
    /// The sidecar cannot do what the settings ask for.
    Problem,
    /// It can, and somebody may miss something.
    Warning,
    /// Of use to some.
    Note,
}

/// Something that can be mended.
#[derive(Debug, Clone, Serialize)]
pub(super) struct Finding {
    pub(super) level: Level,
    #[serde(rename = "finding")]
    what: String,
    mend: String,
}

/// What was found.
#[derive(Debug, Default)]
pub(super) struct Report {
    /// What is there, each with what it is about.
    facts: Vec<(&'static str, String)>,
    findings: Vec<Finding>,
}

impl Finding {
    pub(super) fn problem(what: impl Into<String>, mend: impl Into<String>) -> Self {
        Self { level: Level::Problem, what: what.into(), mend: mend.into() }
    }

    pub(super) fn note(what: impl Into<String>, mend: impl Into<String>) -> Self {
        Self { level: Level::Note, ..Self::problem(what, mend) }
    }

    pub(super) fn warning(complaint: Complaint) -> Self {
        Self { level: Level::Warning, ..Self::from(complaint) }
    }
}

impl From<Complaint> for Finding {
    fn from(Complaint { what, mend }: Complaint) -> Self {
        Self::problem(what, mend)
    }
}

impl Report {
    /// Something is there.
    pub(super) fn say(&mut self, about: &'static str, what: impl Into<String>) {
        self.facts.push((about, what.into()));
    }

    /// Something can be mended.
    pub(super) fn add(&mut self, finding: Finding) {
        self.findings.push(finding);
    }

    /// Whether nothing keeps the sidecar from doing its work.
    pub(super) fn is_good(&self) -> bool {
        self.findings.iter().all(|finding| finding.level != Level::Problem)
    }

    /// Line by line.
    pub(super) fn text(&self) -> String {
        let facts = self.facts.iter().map(|(about, what)| format!("{about:<13} {what}\n"));
        let findings = self.findings.iter().map(|Finding { level, what, mend }| {
            let level = match level {
                Level::Problem => "problem",
                Level::Warning => "warning",
                Level::Note => "note",
            };
            format!("{level:<13} {what}: {mend}\n")
        });
        facts.chain(findings).collect()
    }

    /// In one document.
    pub(super) fn json(&self) -> String {
        let facts: serde_json::Map<String, Value> =
            self.facts.iter().map(|(about, what)| ((*about).to_owned(), what.as_str().into())).collect();
        format!("{:#}\n", json!({ "ok": self.is_good(), "facts": facts, "findings": self.findings }))
    }
}

/// Every setting in force, and where it was written.
pub(super) fn settings(in_force: &[Setting], is_json: bool) -> String {
    if is_json {
        let settings: Vec<Value> = in_force
            .iter()
            .map(|setting| {
                json!({
                    "name": setting.name,
                    "section": setting.section,
                    "value": setting.shown(),
                    "origin": setting.origin.to_string(),
                    "live": setting.is_live,
                })
            })
            .collect();
        return format!("{:#}\n", json!({ "settings": settings }));
    }
    let mut text = String::new();
    for settings in in_force.chunk_by(|one, next| one.section == next.section) {
        let section = settings.first().map_or("", |setting| setting.section);
        text.extend(["# ", section, "\n"]);
        for setting in settings {
            // What has several lines stands on one.
            let shown = setting.shown();
            let value: Vec<&str> = shown.split_whitespace().collect();
            let origin = setting.origin.to_string();
            text.extend([setting.name.as_ref(), " = ", &value.join(" "), "  (", &origin, ")"]);
            text.extend([at_start_only(setting.is_live), "\n"]);
        }
    }
    text
}
