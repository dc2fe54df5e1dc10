//! The text format of Prometheus.

use std::fmt::{Display, Write as _};

use super::BUCKETS;

/// What is measured when it is asked for, family by family.
#[derive(Debug, Default)]
pub(crate) struct Exposition(String);

impl Exposition {
    /// Begins a family of samples.
    pub(crate) fn begin(&mut self, name: &str, kind: &str, help: &str) {
        // Writing to a string does not fail.
        let _ = writeln!(self.0, "# HELP {name} {help}\n# TYPE {name} {kind}");
    }

    /// Adds a sample with these labels.
    pub(crate) fn add(&mut self, name: &str, labels: &[(&str, &str)], value: impl Display) {
        self.0.push_str(name);
        write_labels(&mut self.0, labels);
        let _ = writeln!(self.0, " {value}");
    }

    /// A family of one sample without labels.
    pub(crate) fn one(&mut self, name: &str, kind: &str, help: &str, value: impl Display) {
        self.begin(name, kind, help);
        self.add(name, &[], value);
    }

    /// Adds a histogram of [`BUCKETS`]: how many there are in each, and their sum in microseconds.
    pub(crate) fn histogram(
        &mut self,
        name: &str,
        label: Option<(&str, &str)>,
        in_bucket: impl Fn(usize) -> u64,
        sum_us: u64,
    ) {
        let bucket = format!("{name}_bucket");
        let mut total = 0;
        for place in 0..=BUCKETS.len() {
            total += in_bucket(place);
            let bound = BUCKETS.get(place).map_or_else(|| "+Inf".to_owned(), |bound| seconds(*bound));
            let labels: Vec<_> = label.into_iter().chain([("le", &*bound)]).collect();
            self.add(&bucket, &labels, total);
        }
        self.add(&format!("{name}_sum"), label.as_slice(), seconds(sum_us));
        self.add(&format!("{name}_count"), label.as_slice(), total);
    }

    /// The text of all of them.
    pub(crate) fn into_text(self) -> String {
        self.0
    }
}

fn write_labels(text: &mut String, labels: &[(&str, &str)]) {
    for (place, (name, value)) in labels.iter().enumerate() {
        text.push(if place == 0 { '{' } else { ',' });
        text.push_str(name);
        text.push_str("=\"");
        for letter in value.chars() {
            match letter {
                '\\' => text.push_str("\\\\"),
                '"' => text.push_str("\\\""),
                '\n' => text.push_str("\\n"),
                letter => text.push(letter),
            }
        }
        text.push('"');
    }
    if !labels.is_empty() {
        text.push('}');
    }
}

/// Microseconds as Prometheus writes seconds.
pub(super) fn seconds(microseconds: u64) -> String {
    let text = format!("{}.{:06}", microseconds / 1_000_000, microseconds % 1_000_000);
    text.trim_end_matches('0').trim_end_matches('.').to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_of_labels_cannot_break_a_line() {
        let mut out = Exposition::default();
        out.add("x", &[("a", "1"), ("b", "\"\\\n")], 2);
        assert_eq!(out.into_text(), "x{a=\"1\",b=\"\\\"\\\\\\n\"} 2\n");
        assert_eq!(
            (seconds(0), seconds(2_500), seconds(1_000_000)),
            ("0".into(), "0.0025".into(), "1".into())
        );
    }
}
