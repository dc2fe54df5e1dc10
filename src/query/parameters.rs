//! A query string taken apart the way Kinto (WebOb) does.
//!
//! `&` and `;` separate, `+` is a space, a name without `=` has an empty value, and all of it is UTF-8 once decoded.
//! Names stand in the order in which they first came; values of a repeated name are kept together.

use std::collections::HashMap;
use std::collections::hash_map::Entry;

use percent_encoding::percent_decode;

use super::invalid::Invalid;

/// Decoded parameters of a query.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Parameters {
    items: Vec<(String, Vec<String>)>,
    positions: HashMap<String, usize>,
}

impl Parameters {
    /// Takes apart what follows the `?` of a request, where there is anything.
    pub fn parse(query: Option<&str>) -> Result<Self, Invalid> {
        let mut parameters = Self::default();
        let query = query.unwrap_or_default();
        for (name, value) in pairs(query) {
            let (Some(name), Some(value)) = (decode(name), decode(value)) else {
                return Err(Invalid::Encoding(query.to_owned()));
            };
            parameters.add(name, value);
        }
        Ok(parameters)
    }

    fn add(&mut self, name: String, value: String) {
        match self.positions.entry(name) {
            Entry::Occupied(position) => {
                if let Some((_, values)) = self.items.get_mut(*position.get()) {
                    values.push(value);
                }
            }
            Entry::Vacant(position) => {
                let name = position.key().clone();
                position.insert(self.items.len());
                self.items.push((name, vec![value]));
            }
        }
    }

    /// All values of a name, in their order.
    pub fn values(&self, name: &str) -> Option<&[String]> {
        let (_, values) = self.items.get(*self.positions.get(name)?)?;
        Some(values)
    }

    /// The value of a name that was given once.
    pub fn single(&self, name: &str) -> Option<&str> {
        match self.values(name)? {
            [value] => Some(value),
            _ => None,
        }
    }

    /// Those whose names are wanted.
    #[must_use]
    pub fn only(&self, is_wanted: impl Fn(&str) -> bool) -> Self {
        let mut kept = Self::default();
        for (name, values) in self.iter().filter(|(name, _)| is_wanted(name)) {
            for value in values {
                kept.add(name.to_owned(), value.clone());
            }
        }
        kept
    }

    /// All names with their values, by first occurrence.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &[String])> {
        self.items.iter().map(|(name, values)| (name.as_str(), values.as_slice()))
    }
}

/// The names and values of a query as they came, still encoded.
pub fn pairs(query: &str) -> impl Iterator<Item = (&str, &str)> {
    pieces(query).map(|pair| pair.split_once('=').unwrap_or((pair, "")))
}

/// The names of a query with their values, as they came.
pub fn pieces(query: &str) -> impl Iterator<Item = &str> {
    query.split(['&', ';']).filter(|pair| !pair.is_empty())
}

/// Decodes one name or value; `None` if it is not UTF-8.
pub fn decode(encoded: &str) -> Option<String> {
    if !encoded.bytes().any(|byte| matches!(byte, b'+' | b'%')) {
        return Some(encoded.to_owned());
    }
    let spaced = encoded.replace('+', " ");
    percent_decode(spaced.as_bytes()).decode_utf8().ok().map(Into::into)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_keep_the_order_of_their_first_occurrence() {
        let parameters = Parameters::parse(Some("b=1&&a=x%20y+z;b=2&c")).unwrap();
        let all: Vec<_> = parameters.iter().map(|(name, values)| (name, values.join("|"))).collect();
        assert_eq!(all, [("b", "1|2".into()), ("a", "x y z".into()), ("c", String::new())]);
        assert_eq!(parameters.single("b"), None);
    }

    #[test]
    fn what_is_not_utf8_is_refused() {
        let invalid = Parameters::parse(Some("a=%FF")).unwrap_err();
        assert!(invalid.message().ends_with("encoded in UTF-8: a=%FF"));
        assert_eq!(invalid.title(), "Bad Request");
    }
}
