//! Pages of the book that are written from the code: every key of a job, every model, every balancing method. Where one
//! differs from the code a test fails; `WRITE_DOCS=1 cargo test --test book` writes them anew.

use serde_json::{Map, Value};
use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

const ROOT: &str = env!("CARGO_MANIFEST_DIR");

/// What `tandem` prints.
fn tandem(arguments: &[&str]) -> String {
    let output = Command::new(env!("CARGO_BIN_EXE_tandem")).args(arguments).output().expect("tandem runs");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).expect("text")
}

/// Compares a page with what the code says, or writes it.
fn check(page: &str, text: &str) {
    let path = Path::new(ROOT).join("docs").join(page);
    if std::env::var_os("WRITE_DOCS").is_some() {
        fs::create_dir_all(path.parent().expect("a folder")).expect("a folder");
        fs::write(&path, text).expect("a page");
    }
    let there = fs::read_to_string(&path).unwrap_or_default();
    assert!(there == text, "docs/{page} is not what the code says: WRITE_DOCS=1 cargo test --test book");
}

#[test]
fn the_reference_of_the_job_is_what_its_types_say() {
    check("job-reference.md", &tandem(&["schema", "--markdown"]));
}

/// The kinds of `model` or `balance`, with their options and defaults.
fn kinds(place: &str) -> Vec<(String, Map<String, Value>)> {
    let schema: Value = serde_json::from_str(&tandem(&["schema"])).expect("JSON");
    let kinds = schema["definitions"][place]["oneOf"].as_array().expect("kinds").clone();
    let of_kind = |kind: Value| {
        let properties = kind["properties"].as_object().expect("options").clone();
        (properties["kind"]["const"].as_str().expect("a name").to_string(), properties)
    };
    kinds.into_iter().map(of_kind).collect()
}

/// The file of a kind, and its text.
fn source(folder: &str, kind: &str) -> (String, String) {
    let name = if kind == "static" { "static_weights" } else { kind };
    let file = format!("src/{folder}/{name}.rs");
    let text = fs::read_to_string(Path::new(ROOT).join(&file)).unwrap_or_else(|e| panic!("{file}: {e}"));
    (file, text)
}

/// What stands at the head of a file, as Markdown.
fn head(text: &str) -> String {
    let lines = text.lines().map_while(|line| line.strip_prefix("//!"));
    let plain = lines.map(|line| line.strip_prefix(' ').unwrap_or(line)).collect::<Vec<_>>().join("\n");
    // Links into the code lead nowhere in a book.
    let mut out = String::new();
    let mut rest = plain.as_str();
    while let Some((before, after)) = rest.split_once("[`") {
        let Some((name, after)) = after.split_once("`]") else { break };
        out += &format!("{before}`{}`", name.rsplit("::").next().unwrap_or(name));
        rest = match after.strip_prefix('(').and_then(|link| link.split_once(')')) {
            Some((_, after)) => after,
            None => after,
        };
    }
    out + rest
}

/// What the code says of a field of this name, in the first of `texts` that has one.
fn meaning(field: &str, texts: &[String]) -> String {
    texts.iter().find_map(|text| field_docs(field, text)).unwrap_or_default()
}

fn field_docs(field: &str, text: &str) -> Option<String> {
    let mut docs: Vec<&str> = Vec::new();
    for line in text.lines().map(str::trim) {
        if let Some(doc) = line.strip_prefix("///") {
            docs.push(doc.trim());
        } else if line.strip_prefix("pub ").unwrap_or(line).starts_with(&format!("{field}: ")) && !docs.is_empty() {
            let words = docs.join(" ").replace('|', "\\|").replace("[`", "`").replace("`]", "`");
            return Some(words.split(" Default ").next().unwrap_or_default().to_string());
        } else if !line.starts_with("#[") {
            docs.clear();
        }
    }
    None
}

/// All sources below a folder.
fn sources(folder: &str) -> Vec<String> {
    let mut paths: Vec<PathBuf> = fs::read_dir(Path::new(ROOT).join(folder))
        .expect("a folder")
        .map(|entry| entry.expect("an entry").path())
        .collect();
    paths.sort();
    let rust = paths.into_iter().filter(|path| path.extension().is_some_and(|extension| extension == "rs"));
    rust.map(|path| fs::read_to_string(path).expect("text")).collect()
}

/// The pages of all kinds in a place of the job, and the page that lists them.
fn pages(place: &str, folder: &str, title: &str, about: &str) {
    let others = sources(&format!("src/{folder}"));
    let mut list = format!("# {title}\n\n{about}\n\n| kind | what it is |\n|---|---|\n");
    let mut written = BTreeSet::new();
    let pages_folder = if place == "model" { "models" } else { "methods" };
    for (kind, options) in kinds(place) {
        let (file, text) = source(folder, &kind);
        let said = head(&text);
        let first = said.split("\n\n").next().unwrap_or_default().replace('\n', " ");
        let first = first
            .split_once(": ")
            .filter(|(name, _)| name.contains('('))
            .map_or(first.clone(), |(name, _)| name.to_string());
        list += &format!("| [`{kind}`]({pages_folder}/{kind}.md) | {} |\n", first.trim_end_matches([',', '.', ':']));
        let mut page = format!("# {kind}\n\n{said}\n\n```yaml\n{place}: {{kind: {kind}}}\n```\n");
        let mut texts = vec![text];
        texts.extend(others.iter().cloned());
        let rows = options
            .iter()
            .filter(|(name, _)| *name != "kind")
            .map(|(name, option)| format!("| `{name}` | `{}` | {} |\n", option["default"], meaning(name, &texts)));
        let rows: String = rows.collect();
        if !rows.is_empty() {
            page += &format!("\n| option | default | meaning |\n|---|---|---|\n{rows}");
        }
        page += &format!("\nIn the [job file](../job.md#{place}). Code: `{file}`.\n");
        check(&format!("{pages_folder}/{kind}.md"), &page);
        written.insert(format!("{kind}.md"));
    }
    check(&format!("{pages_folder}.md"), &list);
    let there = fs::read_dir(Path::new(ROOT).join("docs").join(pages_folder)).expect("pages");
    let there: BTreeSet<String> =
        there.map(|entry| entry.expect("an entry").file_name().to_string_lossy().into_owned()).collect();
    assert_eq!(there, written, "docs/{pages_folder} has a page for every kind and no other");
}

#[test]
fn every_model_has_a_page() {
    pages(
        "model",
        "model",
        "Models",
        "What [`model: {kind: …}`](job.md#model) may be. Written from the heads of their files; [add one](add-a-model.md).",
    );
}

#[test]
fn every_balancing_method_has_a_page() {
    pages(
        "balance",
        "balance",
        "Balancing methods",
        "What [`balance: {kind: …}`](job.md#balance) may be. [Which one, and whether any](balancing.md).",
    );
}

/// Every document is in the book, and the book names none that is not there.
#[test]
fn the_book_has_every_page() {
    let docs = Path::new(ROOT).join("docs");
    let summary = fs::read_to_string(docs.join("SUMMARY.md")).expect("a summary");
    for folder in ["", "models/", "methods/"] {
        for entry in fs::read_dir(docs.join(folder)).expect("docs") {
            let name = format!("{folder}{}", entry.expect("an entry").file_name().to_string_lossy());
            let named = || summary.contains(&format!("]({name})"));
            assert!(!name.ends_with(".md") || name == "SUMMARY.md" || named(), "docs/SUMMARY.md does not name {name}");
        }
    }
}
