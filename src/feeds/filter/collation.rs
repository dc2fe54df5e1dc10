//! The order of JSON values in CouchDB: `null`, `false`, `true`, numbers, texts, arrays, objects; texts by the root order of
//! the Unicode Collation Algorithm, as ICU has it.
//!
//! Follows `couch_ejson_compare` of CouchDB 3.

use std::cmp::Ordering;

use icu_collator::CollatorBorrowed;
use icu_collator::options::CollatorOptions;
use serde_json::{Number, Value};

use super::steps::{Steps, UsedUp};

/// Compares as CouchDB does.
pub fn compare(left: &Value, right: &Value, steps: &mut Steps<'_>) -> Result<Ordering, UsedUp> {
    steps.take(1)?;
    match (left, right) {
        (Value::Number(left), Value::Number(right)) => Ok(compare_numbers(left, right)),
        (Value::String(left), Value::String(right)) => compare_texts(left, right, steps),
        (Value::Array(left), Value::Array(right)) => {
            for (left, right) in left.iter().zip(right) {
                let order = compare(left, right, steps)?;
                if order.is_ne() {
                    return Ok(order);
                }
            }
            Ok(left.len().cmp(&right.len()))
        }
        (Value::Object(left), Value::Object(right)) => {
            for ((name, value), (other_name, other_value)) in left.iter().zip(right) {
                let mut order = compare_texts(name, other_name, steps)?;
                if order.is_eq() {
                    order = compare(value, other_value, steps)?;
                }
                if order.is_ne() {
                    return Ok(order);
                }
            }
            Ok(left.len().cmp(&right.len()))
        }
        _ => Ok(rank(left).cmp(&rank(right))),
    }
}

/// As [`compare`], of values that are not a reader's to choose, or elsewhere than where others are served.
pub fn order(left: &Value, right: &Value) -> Ordering {
    compare(left, right, &mut Steps::unlimited()).unwrap_or(Ordering::Equal)
}

/// The name of a value's type in Mango.
pub fn type_name(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "boolean",
        Value::Number(_) => "number",
        Value::String(_) => "string",
        Value::Array(_) => "array",
        Value::Object(_) => "object",
    }
}

fn rank(value: &Value) -> u8 {
    match value {
        Value::Null => 0,
        Value::Bool(false) => 1,
        Value::Bool(true) => 2,
        Value::Number(_) => 3,
        Value::String(_) => 4,
        Value::Array(_) => 5,
        Value::Object(_) => 6,
    }
}

fn compare_numbers(left: &Number, right: &Number) -> Ordering {
    if let (Some(left), Some(right)) = (left.as_i128(), right.as_i128()) {
        return left.cmp(&right);
    }
    let (left, right) = (left.as_f64().unwrap_or_default(), right.as_f64().unwrap_or_default());
    left.partial_cmp(&right).unwrap_or(Ordering::Equal)
}

fn compare_texts(left: &str, right: &str, steps: &mut Steps<'_>) -> Result<Ordering, UsedUp> {
    // Of the root order alone: the data of all languages would be a megabyte.
    static COLLATOR: CollatorBorrowed<'static> = CollatorBorrowed::new_root(CollatorOptions::default());
    if left == right {
        steps.take_text(left)?;
        return Ok(Ordering::Equal);
    }
    steps.take(2 + left.len().min(right.len()) / 2)?;
    Ok(COLLATOR.compare(left, right))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn values_are_in_the_order_of_couchdbs_documentation() {
        let ascending = [
            json!(null),
            json!(false),
            json!(true),
            json!(1),
            json!(2),
            json!(3.0),
            json!(4),
            json!("a"),
            json!("A"),
            json!("aa"),
            json!("b"),
            json!("B"),
            json!("ba"),
            json!("bb"),
            json!(["a"]),
            json!(["b"]),
            json!(["b", "c"]),
            json!(["b", "c", "a"]),
            json!(["b", "d"]),
            json!({"a": 1}),
            json!({"a": 2}),
            json!({"b": 1}),
            json!({"b": 2}),
        ];
        for (left, right) in ascending.iter().zip(ascending.iter().skip(1)) {
            assert_eq!(order(left, right), Ordering::Less, "{left} < {right}");
            assert_eq!(order(right, left), Ordering::Greater);
        }
        assert_eq!(order(&json!(1), &json!(1.0)), Ordering::Equal);
        assert_eq!(order(&json!("é"), &json!("f")), Ordering::Less);
    }
}
