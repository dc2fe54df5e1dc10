//! Names that nobody has.

use super::{Dice, MIB, at_once, inputs, memory, public};

/// How long a name is.
const LENGTH: usize = 60_000;

/// How often as many names come again, at most.
const ROUNDS: usize = 8;

#[tokio::test]
async fn names_that_nobody_has_are_remembered_as_little_as_possible() {
    let (sidecar, collection) = public(&[]).await;
    let ask = |number: usize, length: usize| {
        let mut dice = Dice(number as u64);
        let name: String =
            (0..length).map(|_| char::from(b'a' + u8::try_from(dice.roll(26)).unwrap())).collect();
        let target = dice.pick(&[
            format!("/v1{collection}/changeset?_expected=0"),
            format!("/v1{collection}/_changes"),
            format!("/v1/buckets/{}/collections/c/changeset?_expected=0", name.get(..9).unwrap_or("x")),
            "/v1/buckets/default/collections/c/changeset?_expected=0".to_owned(),
        ]);
        super::ask(
            sidecar.address(),
            &format!("GET {target} HTTP/1.1\r\nAuthorization: Basic {name}\r\n"),
            b"",
        )
    };
    let number = inputs(96);
    let most = (number * LENGTH) as u64 / 8 + MIB;
    let mut grown = Vec::new();
    // What a process sets up once, and what its allocator keeps for later, grows no further in some round. Names that are kept
    // grow in each.
    while grown.last().is_none_or(|grown| *grown >= most) {
        let round = grown.len();
        assert!(round < ROUNDS, "{grown:?} bytes in rounds of {number} names of {LENGTH}");
        let before = memory(&sidecar, "RssAnon");
        at_once(8, |index| {
            for turn in 0..number / 8 {
                assert!(ask((round * number + turn * 8) + index, LENGTH).is_some());
            }
        });
        grown.push(memory(&sidecar, "RssAnon").saturating_sub(before));
    }
}
