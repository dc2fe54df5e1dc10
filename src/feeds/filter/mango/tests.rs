//! What CouchDB's documentation and tests say of each operator.

use serde_json::json;

use crate::feeds::filter::mango::*;
use crate::query::members_at;

#[expect(clippy::needless_pass_by_value, reason = "selectors are written where they are used")]
#[track_caller]
fn check(selector: Value, cases: &[(Value, bool)]) {
    let read = Selector::read(&selector).unwrap();
    for (document, expected) in cases {
        let all = read.matches(document, &mut Steps::unlimited());
        assert_eq!(all, Ok(*expected), "{selector} of {document}");
        let in_pieces = read.matches(document, &mut Steps::with(1, || 1));
        assert_eq!(in_pieces, all, "{selector} of {document}");
        if document.is_object() {
            let read_of_it = members_at(document.to_string().as_bytes(), read.names().as_deref());
            let of_named = read.matches(&Value::Object(read_of_it), &mut Steps::unlimited());
            assert_eq!(of_named, all, "{selector} of {document} as far as it looks");
        }
    }
}

#[test]
fn bare_values_are_compared_and_objects_lead_deeper() {
    check(json!({}), &[(json!({}), true), (json!({"a": 1}), true)]);
    check(json!({"a": 1}), &[(json!({"a": 1}), true), (json!({"a": 1.0}), true), (json!({}), false)]);
    check(json!({"a": {"b": 1}}), &[(json!({"a": {"b": 1}}), true), (json!({"a.b": 1}), false)]);
    check(json!({"a.b": 1}), &[(json!({"a": {"b": 1, "c": 2}}), true), (json!({"a": 1}), false)]);
    check(json!({"a\\.b": 1}), &[(json!({"a.b": 1}), true), (json!({"a": {"b": 1}}), false)]);
    check(json!({"a.1": 2}), &[(json!({"a": [1, 2]}), true), (json!({"a": [2, 1]}), false)]);
    check(json!({"a": {}}), &[(json!({"a": {}}), true), (json!({"a": {"b": 1}}), false)]);
    check(json!({"a": 1, "b": 2}), &[(json!({"a": 1, "b": 2}), true), (json!({"a": 1}), false)]);
}

#[test]
fn comparisons_are_couchdbs() {
    let number = |n: i64| json!({ "a": n });
    check(json!({"a": {"$lt": 2}}), &[(number(1), true), (number(2), false), (json!({"a": "x"}), false)]);
    check(json!({"a": {"$lte": 2}}), &[(number(2), true), (number(3), false)]);
    check(json!({"a": {"$gt": 2}}), &[(number(3), true), (json!({"a": "x"}), true), (number(2), false)]);
    check(json!({"a": {"$gte": "a"}}), &[(json!({"a": "B"}), true), (number(9), false)]);
    check(json!({"a": {"$gt": 1, "$lt": 3}}), &[(number(2), true), (number(3), false)]);
    check(json!({"a": {"$eq": null}}), &[(json!({"a": null}), true), (json!({}), false)]);
    check(json!({"a": {"$ne": 1}}), &[(number(2), true), (number(1), false), (json!({}), false)]);
    check(json!({"_id": {"$lt": "a"}}), &[(json!({"_id": "B"}), true)]);
    check(json!({"id": {"$lt": "a"}}), &[(json!({"id": "B"}), false)]);
}

#[test]
fn a_condition_on_a_field_that_is_not_there_is_false_even_negated() {
    for selector in [
        json!({"a": {"$not": {"$eq": 1}}}),
        json!({"$not": {"a": 1}}),
        json!({"$nor": [{"a": 1}]}),
        json!({"a": {"$nin": [1]}}),
        json!({"a": {"$not": {"$type": "null"}}}),
    ] {
        check(selector, &[(json!({}), false), (json!({"a": 2}), true)]);
    }
    check(json!({"a": {"$exists": false}}), &[(json!({}), true), (json!({"a": null}), false)]);
    check(json!({"a": {"$exists": true}}), &[(json!({}), false), (json!({"a": null}), true)]);
    check(json!({"$not": {"a": {"$exists": true}}}), &[(json!({}), true)]);
}

#[test]
fn combinations_are_negated_as_de_morgan_says() {
    let either = json!([{"a": 1}, {"b": 1}]);
    let (both, one) = (json!({"a": 1, "b": 1}), json!({"a": 1, "b": 2}));
    check(json!({"$and": either}), &[(both.clone(), true), (one.clone(), false)]);
    check(json!({"$or": either}), &[(both.clone(), true), (one.clone(), true), (json!({}), false)]);
    check(json!({"$nor": either}), &[(one.clone(), false), (json!({"a": 2, "b": 2}), true)]);
    check(json!({"$not": {"$and": either}}), &[(both.clone(), false), (one.clone(), true)]);
    check(json!({"$not": {"$nor": either}}), &[(one.clone(), true), (json!({"a": 2, "b": 2}), false)]);
    check(json!({"$not": {"$not": {"a": 1}}}), &[(one.clone(), true), (json!({"a": 2}), false)]);
    check(
        json!({"a": {"$or": [{"$lt": 1}, {"$gt": 5}]}}),
        &[(json!({"a": 6}), true), (json!({"a": 3}), false)],
    );
    check(json!({"a": {"$not": {"$gt": 1, "$lt": 3}}}), &[(json!({"a": 2}), false), (json!({"a": 3}), true)]);
}

#[test]
fn lists_are_looked_into() {
    check(
        json!({"a": {"$in": [1, "x"]}}),
        &[(json!({"a": 1.0}), true), (json!({"a": [5, "x"]}), true), (json!({"a": 2}), false)],
    );
    check(json!({"a": {"$nin": [1]}}), &[(json!({"a": [1, 2]}), false), (json!({"a": [2]}), true)]);
    check(json!({"a": {"$all": [1, 2]}}), &[(json!({"a": [2, 3, 1]}), true), (json!({"a": [1]}), false)]);
    check(
        json!({"a": {"$all": [1, 1, "x"]}}),
        &[(json!({"a": ["x", 1, 1]}), true), (json!({"a": [1, 1, 1]}), false)],
    );
    check(
        json!({"a": {"$all": [{"b": 1}, [1]]}}),
        &[(json!({"a": [[1], {"b": 1}]}), true), (json!({"a": [1]}), false)],
    );
    check(json!({"a": {"$all": [[1, 2]]}}), &[(json!({"a": [1, 2]}), true), (json!({"a": [[1, 2]]}), true)]);
    check(json!({"a": {"$size": 2}}), &[(json!({"a": [1, 2]}), true), (json!({"a": "ab"}), false)]);
    check(
        json!({"a": {"$elemMatch": {"$gte": 80, "$lt": 85}}}),
        &[(json!({"a": [10, 82]}), true), (json!({"a": [10, 90]}), false), (json!({"a": 82}), false)],
    );
    check(
        json!({"a": {"$elemMatch": {"x": 1, "y": {"$exists": false}}}}),
        &[(json!({"a": [{"x": 1, "y": 2}, {"x": 1}]}), true), (json!({"a": [{"x": 1, "y": 2}]}), false)],
    );
    check(
        json!({"a": {"$allMatch": {"$gt": 1}}}),
        &[(json!({"a": [2, 3]}), true), (json!({"a": [1, 3]}), false), (json!({"a": []}), false)],
    );
    check(
        json!({"$not": {"a": {"$allMatch": {"$gt": 1}}}}),
        &[(json!({"a": [1, 3]}), true), (json!({"a": []}), true), (json!({"a": [2]}), false)],
    );
    check(
        json!({"a": {"$keyMapMatch": {"$eq": "x"}}}),
        &[(json!({"a": {"x": 1}}), true), (json!({"a": {"y": "x"}}), false), (json!({"a": ["x"]}), false)],
    );
}

#[test]
fn texts_and_numbers_have_conditions_of_their_own() {
    check(json!({"a": {"$regex": "^b+$"}}), &[(json!({"a": "bb"}), true), (json!({"a": "ab"}), false)]);
    check(json!({"a": {"$beginsWith": "x."}}), &[(json!({"a": "x.y"}), true), (json!({"a": "xy"}), false)]);
    check(json!({"a": {"$mod": [4, 1]}}), &[(json!({"a": 5}), true), (json!({"a": 5.0}), false)]);
    check(json!({"a": {"$mod": [-1, 0]}}), &[(json!({"a": i64::MIN}), false), (json!({"a": 3}), true)]);
    for (value, name) in [
        (json!(null), "null"),
        (json!(true), "boolean"),
        (json!(1), "number"),
        (json!("x"), "string"),
        (json!([]), "array"),
        (json!({}), "object"),
    ] {
        check(json!({"a": {"$type": name}}), &[(json!({ "a": value }), true), (json!({}), false)]);
    }
}

#[test]
fn what_mango_does_not_know_is_refused() {
    for (selector, reason) in [
        (json!(1), "`selector` must be a JSON object."),
        (json!({"a": {"$foo": 1}}), "Invalid operator: $foo"),
        (json!({"$where": "x"}), "Invalid operator: $where"),
        (json!({"a": {"$in": 1}}), "Bad argument for operator $in: 1"),
        (json!({"$and": {}}), "Bad argument for operator $and: {}"),
        (json!({"a": {"$mod": [0, 1]}}), "Bad argument for operator $mod: [0,1]"),
        (json!({"a": {"$regex": "("}}), "Bad argument for operator $regex: \"(\""),
        (json!({"a": {"$exists": 1}}), "Bad argument for operator $exists: 1"),
        (json!({"": 1}), "One or more conditions is missing a field name."),
    ] {
        assert_eq!(Selector::read(&selector).unwrap_err().to_string(), reason, "{selector}");
    }
    let mut deep = json!({"a": 1});
    for _ in 0..100 {
        deep = json!({ "$not": deep });
    }
    assert!(Selector::read(&deep).is_err());
}

#[test]
fn what_would_take_much_of_anything_is_refused() {
    let refused = |selector: Value| Selector::read(&selector).is_err();
    let and = |number: usize| json!({"$and": vec![json!({"x": 1}); number]});
    assert!(!refused(and(490)) && refused(and(1_000)) && refused(and(100_000)));
    let under_a_path = |number: usize| json!({"x".repeat(1_000): {"$or": vec![1; number]}});
    assert!(!refused(under_a_path(900)) && refused(under_a_path(100_000)));
    for operator in ["$in", "$nin", "$all"] {
        assert!(refused(json!({"a": {operator: (0..10_000).collect::<Vec<_>>()}})), "{operator}");
    }
    assert!(refused(json!({"a.".repeat(100): 1})) && refused(json!({"a".repeat(2_000): 1})));
    assert!(refused(json!({"a".repeat(600): {"b".repeat(600): 1}})));
    let expressions = |number: usize| json!({"$or": vec![json!({"a": {"$regex": "^x+$"}}); number]});
    assert!(!refused(expressions(16)) && refused(expressions(17)));
    for expression in ["x".repeat(10_000), "((a{0,100}){0,100}){0,100}".to_owned(), r"\w{500}".to_owned()] {
        assert!(refused(json!({"a": {"$regex": expression}})), "{expression}");
    }
    assert!(!refused(json!({"a": {"$regex": r"^\w{3,10}\d+$"}})));
    let long = Selector::read(&json!({"a": {"$mod": vec![1; 100_000]}})).unwrap_err().to_string();
    assert!(long.len() < 2_000, "{}", long.len());
}

#[test]
fn long_lists_are_sets() {
    let many: Vec<_> = (0..4_000).map(|number| json!(format!("id{}", number * 2))).collect();
    let read = Selector::read(&json!({"a": {"$in": many}})).unwrap();
    let is_met =
        |number: &u32| read.matches(&json!({"a": format!("id{number}")}), &mut Steps::at_most(200)).unwrap();
    assert_eq!((0..8_000).filter(is_met).count(), 4_000);
    check(
        json!({"a": {"$in": [3, "b", null, 1.0, [2], {"c": 1}, "B", true]}}),
        &[
            (json!({"a": 1}), true),
            (json!({"a": "B"}), true),
            (json!({"a": [9, 3]}), true),
            (json!({"a": null}), true),
            (json!({"a": {"c": 1}}), true),
            (json!({"a": [[2]]}), true),
            (json!({"a": false}), false),
            (json!({"a": "c"}), false),
        ],
    );
}

/// How many steps it takes, and what comes of it.
fn taken(selector: &Value, document: &Value) -> (usize, bool) {
    let read = Selector::read(selector).unwrap();
    let mut steps = Steps::at_most(usize::MAX);
    let matches = read.matches(document, &mut steps).unwrap();
    (usize::MAX - steps.left(), matches)
}

#[test]
fn of_all_each_element_is_looked_at_once() {
    for number in [1_000, 2_000, 4_000] {
        let (mut wanted, items): (Vec<_>, Vec<_>) = ((0..number).rev().collect(), (0..number).collect());
        let document = json!({"a": items});
        let (met, matches) = taken(&json!({"a": {"$all": wanted}}), &document);
        assert!(matches && met < 4 * number, "{met} steps");
        wanted[0] = number;
        let (missed, matches) = taken(&json!({"a": {"$all": wanted}}), &document);
        assert!(!matches && missed < 4 * number, "{missed} steps");
    }
}

#[test]
fn all_that_is_looked_at_is_counted() {
    const NUMBER: usize = 300;
    const MANY: usize = NUMBER * NUMBER;
    let never = json!({"$or": vec![json!({"$eq": "x"}); NUMBER]});
    let always = json!({"$and": vec![json!({"$ne": "x"}); NUMBER]});
    let document = json!({
        "list": vec!["y"; NUMBER],
        "object": (0..NUMBER).map(|number| (format!("n{number}"), json!(0))).collect::<Value>(),
        "text": "ab".repeat(MANY),
    });
    for selector in [
        json!({"list": {"$elemMatch": never}}),
        json!({"list": {"$allMatch": always}}),
        json!({"list": {"$not": {"$allMatch": always}}}),
        json!({"object": {"$keyMapMatch": never}}),
        json!({"$or": vec![json!({"list": {"$in": ["x", "z"]}}); NUMBER]}),
        json!({"$and": vec![json!({"list": {"$nin": ["x", "z"]}}); NUMBER]}),
        json!({"$or": vec![json!({"list": {"$all": ["y", "z"]}}); NUMBER]}),
        json!({"$or": vec![json!({"list": vec!["y"; NUMBER + 1]}); NUMBER]}),
        json!({"text": {"$regex": "^(a?b?)*$"}}),
        json!({"text": {"$lt": "AB".repeat(MANY)}}),
    ] {
        let (steps, _) = taken(&selector, &document);
        let shown: String = selector.to_string().chars().take(40).collect();
        assert!(steps >= MANY, "{steps} steps of {shown}");
        let read = Selector::read(&selector).unwrap();
        assert_eq!(read.matches(&document, &mut Steps::at_most(MANY / 2)), Err(UsedUp));
    }
    let long = json!({"$or": vec![json!({"x".repeat(600): 1}); NUMBER]});
    assert!(taken(&long, &document).0 >= NUMBER * 600 / 16);
}
