//! Names that nobody has.

use super::{Dice, MIB, at_once, inputs, memory, public};

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
    // What is set up once is not counted.
    at_once(8, |index| _ = ask(index, 60_000));
    let before = memory(&sidecar, "VmRSS");
    let number = inputs(160);
    at_once(8, |index| {
        for turn in 0..number / 8 {
            assert!(ask(1_000 + turn * 8 + index, 60_000).is_some());
        }
    });
    let grown = memory(&sidecar, "VmRSS").saturating_sub(before);
    assert!(grown < 12 * MIB + number as u64 * 1024, "{} KiB of {number} names", grown / 1024);
}
