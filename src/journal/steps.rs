//! The tables, step by step.

/// The steps from nothing to the present schema; a journal's version is how many of them it has seen. Steps are never
/// changed once they were released. `{key}` is a key that the engine counts up, `{bytes}` makes a text compare byte by byte,
/// `{rowless}` keeps a table in the order of its key, `{shared}` stands before what only an engine needs that several processes
/// use.
pub(super) const STEPS: [&str; 5] = [
    include_str!("schema/1.sql"),
    include_str!("schema/2.sql"),
    include_str!("schema/3.sql"),
    include_str!("schema/4.sql"),
    include_str!("schema/5.sql"),
];
