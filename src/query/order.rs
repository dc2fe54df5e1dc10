//! How values of any type compare: the order of PostgreSQL's JSONB as Kinto's memory backend imitates it.
//!
//! Null < text < number < boolean < array < object < not there. Within arrays and objects, where Kinto's backends do
//! not agree, members are compared one by one; the order is total.

use std::cmp::Ordering;

use serde_json::{Number, Value};

/// Compares two values, of which either may be missing.
pub(super) fn compare(left: Option<&Value>, right: Option<&Value>) -> Ordering {
    match (left, right) {
        (None, None) => Ordering::Equal,
        (None, Some(_)) => Ordering::Greater,
        (Some(_), None) => Ordering::Less,
        (Some(left), Some(right)) => compare_values(left, right),
    }
}

/// Compares a value with a text.
pub(super) fn compare_with_text(value: &Value, text: &str) -> Ordering {
    match value {
        Value::String(value) => value.as_str().cmp(text),
        other => rank(other).cmp(&TEXTS),
    }
}

/// Whether two values are the same: `1` and `1.0` are, `1` and `"1"` are not.
pub(super) fn same(left: &Value, right: &Value) -> bool {
    compare_values(left, right) == Ordering::Equal
}

fn compare_values(left: &Value, right: &Value) -> Ordering {
    match (left, right) {
        (Value::String(left), Value::String(right)) => left.cmp(right),
        (Value::Number(left), Value::Number(right)) => compare_numbers(left, right),
        (Value::Bool(left), Value::Bool(right)) => left.cmp(right),
        (Value::Array(left), Value::Array(right)) => {
            let pairs = left.iter().zip(right);
            let first = pairs.map(|(left, right)| compare_values(left, right)).find(|order| order.is_ne());
            first.unwrap_or_else(|| left.len().cmp(&right.len()))
        }
        (Value::Object(left), Value::Object(right)) => {
            // They are kept in the order of their names.
            let mut pairs = left.iter().zip(right);
            left.len().cmp(&right.len()).then_with(|| {
                let order = pairs.find_map(|((name, value), (other_name, other))| {
                    Some(name.cmp(other_name).then_with(|| compare_values(value, other)))
                        .filter(|order| order.is_ne())
                });
                order.unwrap_or(Ordering::Equal)
            })
        }
        _ => rank(left).cmp(&rank(right)),
    }
}

fn compare_numbers(left: &Number, right: &Number) -> Ordering {
    match (left.as_i128(), right.as_i128()) {
        (Some(left), Some(right)) => left.cmp(&right),
        (Some(left), None) => compare_with_float(left, right.as_f64().unwrap_or_default()),
        (None, Some(right)) => compare_with_float(right, left.as_f64().unwrap_or_default()).reverse(),
        (None, None) => {
            let (left, right) = (left.as_f64().unwrap_or_default(), right.as_f64().unwrap_or_default());
            // JSON has no NaN; adding zero makes -0.0 the same as 0.0.
            (left + 0.0).total_cmp(&(right + 0.0))
        }
    }
}

/// Compares exactly: an integer of JSON is beyond what a float can tell apart.
fn compare_with_float(integer: i128, float: f64) -> Ordering {
    #[expect(
        clippy::cast_possible_truncation,
        reason = "the cast saturates, and integers of JSON are far from its ends"
    )]
    let floor = float.floor() as i128;
    integer.cmp(&floor).then(if float > float.floor() { Ordering::Less } else { Ordering::Equal })
}

/// The rank of texts.
const TEXTS: u8 = 1;

fn rank(value: &Value) -> u8 {
    match value {
        Value::Null => 0,
        Value::String(_) => TEXTS,
        Value::Number(_) => 2,
        Value::Bool(_) => 3,
        Value::Array(_) => 4,
        Value::Object(_) => 5,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use serde_json::json;

    #[test]
    fn types_are_ordered_as_in_jsonb() {
        let ascending = [
            json!(null),
            json!(""),
            json!("a"),
            json!(-1),
            json!(1),
            json!(1.5),
            json!(u64::MAX),
            json!(false),
            json!(true),
            json!([]),
            json!([1]),
            json!([1, 2]),
            json!([2]),
            json!({}),
            json!({"a": 1}),
            json!({"b": 0}),
        ];
        for (left, right) in ascending.iter().zip(ascending.iter().skip(1)) {
            assert_eq!(compare(Some(left), Some(right)), Ordering::Less, "{left} < {right}");
        }
        assert!(same(&json!(1), &json!(1.0)) && !same(&json!(1), &json!("1")));
        assert!(!same(&json!(9_007_199_254_740_993_i64), &json!(9_007_199_254_740_992.0)));
        assert_eq!(compare(None, Some(&json!({}))), Ordering::Greater);
        for value in &ascending {
            for text in ["", "a", "b"] {
                assert_eq!(compare_with_text(value, text), compare(Some(value), Some(&json!(text))));
            }
        }
    }

    fn values() -> impl Strategy<Value = Value> {
        let leaf = prop_oneof![
            Just(Value::Null),
            any::<bool>().prop_map(Value::from),
            any::<i64>().prop_map(Value::from),
            (-3_i64..3).prop_map(Value::from),
            (-3.0..3.0_f64).prop_map(Value::from),
            "[ab]{0,2}".prop_map(Value::from),
        ];
        leaf.prop_recursive(2, 8, 3, |inner| {
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..3).prop_map(Value::from),
                prop::collection::btree_map("[ab]", inner, 0..3)
                    .prop_map(|members| Value::Object(members.into_iter().collect())),
            ]
        })
    }

    proptest! {
        #[test]
        fn the_order_is_total(a in values(), b in values(), c in values()) {
            let order = |x: &Value, y: &Value| compare(Some(x), Some(y));
            prop_assert_eq!(order(&a, &a), Ordering::Equal);
            prop_assert_eq!(order(&a, &b), order(&b, &a).reverse());
            if order(&a, &b).is_le() && order(&b, &c).is_le() {
                prop_assert!(order(&a, &c).is_le());
            }
        }
    }
}
