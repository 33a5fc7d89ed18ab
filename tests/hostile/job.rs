//! Job files: YAML.

use crate::common::job::EVERY_FEATURE;
use crate::draw::{damaged, damages, each};
use crate::{bounded, corpus};
use proptest::prelude::*;
use std::path::Path;
use tandem::config;

/// Bytes that reading a job may hold: aliases may stand for 100,000 nodes, and a job file is at most 4 MiB.
const LIMIT: usize = 256 << 20;

fn read(text: &str, what: &str) -> tandem::Result<config::Loaded> {
    bounded::within(LIMIT, what, || config::from_text(text, Path::new("job.yaml"), &[]))
}

#[test]
fn jobs_of_the_corpus_are_refused() {
    for (name, bytes) in corpus("job") {
        let text = String::from_utf8_lossy(&bytes).into_owned();
        let error = read(&text, &name).expect_err(&name);
        assert_eq!(error.exit_code(), 2, "{name}: {error}");
    }
}

#[test]
fn deep_and_wide_jobs_are_refused() {
    let bomb = |levels: usize| {
        let level = |i: usize| format!("l{i}: &l{i} [{}]\n", vec![format!("*l{}", i - 1); 10].join(", "));
        "l0: &l0 [x, x, x, x, x, x, x, x, x, x]\n".to_string() + &(1..levels).map(level).collect::<String>()
    };
    let cases = [
        ("a sequence in a sequence", "[".repeat(20_000)),
        ("a mapping in a mapping", "{a: ".repeat(10_000)),
        ("blocks", (0..3000).map(|i| format!("{}a:\n", " ".repeat(i))).collect()),
        ("aliases of aliases", bomb(12)),
        ("an alias of itself", "a: &a [*a]\n".to_string()),
        ("merges of merges", format!("a: &a {{<<: *a}}\n{}", "b: {<<: [*a, *a]}\n")),
        ("a long key", format!("{}: 1\n", "k".repeat(3 << 20))),
        ("a long number", format!("seed: {}\n", "9".repeat(1 << 20))),
    ];
    for (what, text) in cases {
        read(&text, what).expect_err(what);
    }
}

#[test]
fn damaged_jobs_are_read_or_refused() {
    each(300, damages(), |damages| {
        let text = String::from_utf8_lossy(&damaged(EVERY_FEATURE.as_bytes(), &damages)).into_owned();
        let _ = read(&text, "a damaged job");
    });
}

#[test]
fn jobs_of_odd_words_are_read_or_refused() {
    let word = prop::sample::select(vec![
        "name",
        "data",
        "train",
        "features",
        "tasks",
        "model",
        "kind",
        "dim",
        ": ",
        "\n",
        "- ",
        "{",
        "}",
        "[",
        "]",
        ", ",
        "  ",
        "&a ",
        "*a",
        "<<",
        "!!binary ",
        "!x ",
        "|\n",
        ">\n",
        "'",
        "\"",
        "#",
        "---\n",
        "...",
        "%YAML 1.2\n",
        "? ",
        "~",
        "1e999",
        "-.inf",
        ".nan",
        "0x7fffffffffffffff",
        "18446744073709551616",
        "\u{feff}",
        "\t",
        "\u{0}",
        "é",
        "\u{2028}",
    ]);
    each(300, prop::collection::vec(word, 1..60), |words| {
        let _ = read(&words.concat(), "words");
    });
}

/// Names become those of files and folders.
#[test]
fn names_that_lead_elsewhere_are_refused() {
    for name in ["../x", "/etc/x", "a/b", "..", ".hidden", "a\\b"] {
        for (from, to) in [
            ("name: every_feature", format!("name: {name:?}")),
            (
                "{name: user, kind: categorical, dim: 4}",
                format!("{{name: user, table: {name:?}, kind: categorical, dim: 4}}"),
            ),
            ("{name: click, label: click, gauc: user}", format!("{{name: {name:?}, label: click}}")),
        ] {
            assert!(EVERY_FEATURE.contains(from));
            let error = read(&EVERY_FEATURE.replace(from, &to), &to).expect_err(&to).to_string();
            assert!(error.contains("files are named after it"), "{to}: {error}");
        }
    }
}
