//! Damage, drawn from a fixed seed.

use proptest::prelude::*;
use proptest::sample::Index;
use proptest::test_runner::{Config, RngAlgorithm, TestRng, TestRunner};
use serde_json::{Value, json};

/// Runs `test` on `cases` draws of `strategy`: the same ones each time.
pub fn each<S: Strategy>(cases: u32, strategy: S, test: impl Fn(S::Value)) {
    let config = Config { cases, failure_persistence: None, ..Config::default() };
    let mut runner = TestRunner::new_with_rng(config, TestRng::deterministic_rng(RngAlgorithm::ChaCha));
    let checked = runner.run(&strategy, |value| {
        test(value);
        Ok(())
    });
    checked.unwrap_or_else(|failure| panic!("{failure}"));
}

/// One change of some bytes.
#[derive(Debug, Clone)]
pub enum Damage {
    Set(Index, u8),
    Flip(Index, u8),
    Cut(Index),
    Insert(Index, Vec<u8>),
    Copy(Index, Index, u8),
}

/// Up to four changes.
pub fn damages() -> impl Strategy<Value = Vec<Damage>> {
    let odd = prop::sample::select(vec![0u8, 1, 0x7f, 0x80, 0xfe, 0xff]);
    let one = prop_oneof![
        4 => (any::<Index>(), odd).prop_map(|(at, byte)| Damage::Set(at, byte)),
        4 => (any::<Index>(), 0u8..8).prop_map(|(at, bit)| Damage::Flip(at, bit)),
        1 => any::<Index>().prop_map(Damage::Cut),
        2 => (any::<Index>(), prop::collection::vec(any::<u8>(), 1..12)).prop_map(|(at, bytes)| Damage::Insert(at, bytes)),
        2 => (any::<Index>(), any::<Index>(), any::<u8>()).prop_map(|(from, to, n)| Damage::Copy(from, to, n)),
    ];
    prop::collection::vec(one, 1..5)
}

/// `good` with these changes.
pub fn damaged(good: &[u8], damages: &[Damage]) -> Vec<u8> {
    let mut bytes = good.to_vec();
    for damage in damages {
        if bytes.is_empty() {
            break;
        }
        let length = bytes.len();
        match damage {
            Damage::Set(at, byte) => bytes[at.index(length)] = *byte,
            Damage::Flip(at, bit) => bytes[at.index(length)] ^= 1 << bit,
            Damage::Cut(at) => bytes.truncate(at.index(length)),
            Damage::Insert(at, more) => {
                let at = at.index(length);
                bytes.splice(at..at, more.iter().copied());
            }
            Damage::Copy(from, to, n) => {
                let (from, to) = (from.index(length), to.index(length));
                let n = usize::from(*n).min(length - from.max(to));
                bytes.copy_within(from..from + n, to);
            }
        }
    }
    bytes
}

/// Changes of a JSON document: which value, and what takes its place.
pub fn changes() -> impl Strategy<Value = Vec<(Index, Value)>> {
    let odd = vec![
        json!(null),
        json!(0),
        json!(1),
        json!(-1),
        json!(u64::MAX),
        json!(u64::from(u32::MAX)),
        json!(1u64 << 40),
        json!(1e308),
        json!(""),
        json!("../../../../../../../../etc/passwd"),
        json!("/etc/passwd"),
        json!("\u{0}"),
        json!([]),
        json!({}),
        json!([[[[[[[[]]]]]]]]),
        json!([1u64 << 33, 1u64 << 33]),
        json!(true),
    ];
    prop::collection::vec((any::<Index>(), prop::sample::select(odd)), 1..4)
}

/// `good` with these changes; the values are those at any depth.
pub fn changed(good: &Value, changes: &[(Index, Value)]) -> Value {
    let mut document = good.clone();
    for (at, odd) in changes {
        let mut paths = Vec::new();
        list(&document, String::new(), &mut paths);
        if let Some(place) = document.pointer_mut(&paths[at.index(paths.len())]) {
            *place = odd.clone();
        }
    }
    document
}

fn list(value: &Value, path: String, paths: &mut Vec<String>) {
    match value {
        Value::Object(map) => {
            for (key, value) in map {
                list(value, format!("{path}/{}", key.replace('~', "~0").replace('/', "~1")), paths);
            }
        }
        Value::Array(entries) => {
            entries.iter().enumerate().for_each(|(i, value)| list(value, format!("{path}/{i}"), paths))
        }
        _ => {}
    }
    paths.push(path);
}

/// A document whose head is the checksum of the rest, as manifests are.
pub fn sealed(document: &Value) -> String {
    let mut document = document.clone();
    if let Some(map) = document.as_object_mut() {
        map.remove("checksum");
    }
    let text = serde_json::to_string_pretty(&document).expect("JSON");
    let rest = format!("\",{}", text.strip_prefix('{').unwrap_or_default());
    format!("{{\n  \"checksum\": \"{}{rest}", tandem::checkpoint::checksum(rest.as_bytes()))
}
