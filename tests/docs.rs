//! The documents say what is true: their commands run, their jobs load, their links lead somewhere, and the reference
//! of the job file names every key that there is.

mod common;

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;
use tandem::cli::schema;
use tandem::config::{self, Component};

const ROOT: &str = env!("CARGO_MANIFEST_DIR");

/// A fenced block of a document.
struct Block {
    /// What stands behind the opening fence: `sh`, `sh norun`, `yaml`, …
    info: String,
    /// Line of the opening fence, from 1.
    line: usize,
    text: String,
}

/// Every document, README.md first.
fn documents() -> Vec<PathBuf> {
    let mut paths = vec![Path::new(ROOT).join("README.md"), Path::new(ROOT).join("CHANGELOG.md")];
    let below = |folder: &str| fs::read_dir(Path::new(ROOT).join(folder)).unwrap().map(|e| e.unwrap().path());
    let mut docs: Vec<_> = ["docs", "docs/models", "docs/methods"].into_iter().flat_map(below).collect();
    docs.sort();
    paths.extend(docs.into_iter().filter(|path| path.extension().is_some_and(|extension| extension == "md")));
    paths
}

/// The fenced blocks of a document, and its text without them.
fn read(path: &Path) -> (Vec<Block>, String) {
    let (mut blocks, mut prose) = (Vec::new(), String::new());
    let mut open: Option<Block> = None;
    for (i, line) in fs::read_to_string(path).unwrap().lines().enumerate() {
        match (&mut open, line.strip_prefix("```")) {
            (None, Some(info)) => open = Some(Block { info: info.to_string(), line: i + 1, text: String::new() }),
            (Some(_), Some(_)) => blocks.extend(open.take()),
            (Some(block), None) => block.text += &format!("{line}\n"),
            (None, None) => prose += &format!("{line}\n"),
        }
    }
    assert!(open.is_none(), "{}: a block is not closed", path.display());
    (blocks, prose)
}

fn name(path: &Path) -> String {
    path.strip_prefix(ROOT).unwrap().display().to_string()
}

/// A folder in which the commands of one document run: `jobs/` as in the repository, `../shared` as beside it, and
/// first on the path a `tandem` that trains a few steps only.
struct Place {
    folder: tempfile::TempDir,
}

impl Place {
    fn new(shared: Option<&Path>) -> Self {
        let place = Self { folder: tempfile::tempdir().unwrap() };
        for folder in ["bin", "tandem"] {
            fs::create_dir(place.path(folder)).unwrap();
        }
        symlink(Path::new(ROOT).join("jobs"), place.path("tandem/jobs")).unwrap();
        if let Some(shared) = shared {
            symlink(shared, place.path("shared")).unwrap();
        }
        let short = format!(
            "#!/bin/sh\ncase \"$*\" in\n\
             train*--dry-run*) exec {tandem} \"$@\" ;;\n\
             train*--resume*) exec {tandem} \"$@\" --set train.max_steps=5 ;;\n\
             train*) exec {tandem} \"$@\" --set train.max_steps=3 ;;\n\
             *) exec {tandem} \"$@\" ;;\nesac\n",
            tandem = env!("CARGO_BIN_EXE_tandem"),
        );
        fs::write(place.path("bin/tandem"), short).unwrap();
        fs::set_permissions(place.path("bin/tandem"), fs::Permissions::from_mode(0o755)).unwrap();
        place
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// Runs a block as a script that stops at the first command that fails.
    fn run(&self, block: &Block, document: &str) {
        let path = format!("{}:{}", self.path("bin").display(), std::env::var("PATH").unwrap());
        let output = Command::new("bash")
            .args(["-euo", "pipefail", "-c", &block.text])
            .current_dir(self.path("tandem"))
            .env("PATH", path)
            .envs(common::MPI_SETTINGS)
            .output()
            .expect("bash runs");
        let text = common::text_of(&output);
        assert!(output.status.success(), "{document}:{}: these commands fail:\n{}\n{text}", block.line, block.text);
    }
}

/// Says that something is left out; in CI nothing may be.
fn skip(what: &str) {
    assert!(std::env::var_os("CI").is_none(), "{what}");
    eprintln!("SKIPPED: {what}");
}

/// Runs the `sh` blocks of a document in order, in one folder, since they go on from one another. A block `sh norun` is
/// for people: it builds or installs.
fn run_blocks(document: &str) {
    let (mut blocks, _) = read(&Path::new(ROOT).join(document));
    blocks.retain(|block| block.info == "sh");
    assert!(!blocks.is_empty(), "{document} has no commands");
    let shared = fs::canonicalize(Path::new(ROOT).join("../shared")).ok();
    if shared.is_none() && blocks.iter().any(|block| block.text.contains("../shared")) {
        return skip(&format!("{document} needs ../shared/data beside the repository"));
    }
    if blocks.iter().any(|block| block.text.contains("mpirun")) && Command::new("mpirun").arg("-V").output().is_err() {
        return skip(&format!("{document} needs mpirun"));
    }
    let place = Place::new(shared.as_deref());
    blocks.iter().for_each(|block| place.run(block, document));
}

#[test]
fn commands_of_the_readme_run() {
    run_blocks("README.md");
}

#[test]
fn commands_of_the_reference_run() {
    run_blocks("docs/commands.md");
}

#[test]
fn commands_about_data_run() {
    run_blocks("docs/data.md");
    run_blocks("docs/ingest.md");
}

#[test]
fn commands_of_the_first_ten_minutes_run() {
    run_blocks("docs/start.md");
}

#[test]
fn commands_about_serving_run() {
    run_blocks("docs/serving.md");
    run_blocks("docs/continual.md");
}

/// No document has a command that none of the tests above runs.
#[test]
fn every_command_is_run_by_a_test() {
    const RUN: [&str; 9] = [
        "README.md",
        "docs/commands.md",
        "docs/continual.md",
        "docs/data.md",
        "docs/ingest.md",
        // By tests/cloud, which has a store.
        "docs/object-stores.md",
        // By tests/readers, since its other half is Python.
        "docs/python.md",
        "docs/serving.md",
        "docs/start.md",
    ];
    for path in documents() {
        for block in read(&path).0 {
            let kind = block.info.as_str();
            let at = format!("{}:{}", name(&path), block.line);
            assert!(
                ["sh", "sh norun", "yaml", "json", "text", "rust", "python", "sql"].contains(&kind),
                "{at}: a block of `{kind}`"
            );
            assert!(kind != "sh" || RUN.contains(&name(&path).as_str()), "{at}: no test runs this");
            for line in block.text.lines().filter(|_| kind == "sh norun") {
                let builds = ["make ", "cargo ", "git ", ".ci/", "cd ", "#"];
                let builds = builds.iter().any(|start| line.starts_with(start));
                // tests/slurm/run.sh submits these scripts, where it can start a Slurm.
                let submits = line.contains("sbatch ") && line.contains(" slurm/");
                assert!(builds || submits, "{at}: `{line}` could be run by a test");
            }
        }
    }
}

#[test]
fn whole_jobs_in_documents_load() {
    let mut jobs = 0;
    for path in documents() {
        for block in read(&path).0.iter().filter(|block| block.info == "yaml") {
            let is_job = ["name:", "data:", "tasks:"].iter().all(|key| block.text.lines().any(|l| l.starts_with(key)));
            if is_job {
                let loaded = config::from_text(&block.text, &path, &[]);
                loaded.unwrap_or_else(|error| panic!("{}:{}: {error}", name(&path), block.line));
                jobs += 1;
            }
        }
    }
    assert!(jobs >= 2, "README.md and docs/job.md show a job each");
}

/// The headings of a document as GitHub names them in links.
fn anchors(prose: &str) -> BTreeSet<String> {
    let heading = |line: &str| {
        let text = line.trim_start_matches('#').trim().to_lowercase();
        let kept = text.chars().filter(|c| c.is_alphanumeric() || " -_".contains(*c));
        kept.map(|c| if c == ' ' { '-' } else { c }).collect()
    };
    prose.lines().filter(|line| line.starts_with('#')).map(heading).collect()
}

#[test]
fn links_lead_somewhere() {
    for path in documents() {
        let (_, prose) = read(&path);
        for (i, _) in prose.match_indices("](") {
            let target = prose[i + 2..].split(')').next().unwrap();
            if target.starts_with("https://") {
                continue;
            }
            let (file, anchor) = target.split_once('#').unwrap_or((target, ""));
            let file = if file.is_empty() { path.clone() } else { path.parent().unwrap().join(file) };
            assert!(file.exists(), "{}: the link {target} leads nowhere", name(&path));
            let known = || anchors(&read(&file).1).contains(anchor);
            assert!(anchor.is_empty() || known(), "{}: no heading for the link {target}", name(&path));
        }
    }
}

/// The sections of docs/job.md by heading, each with the sections below it.
fn sections() -> BTreeMap<String, String> {
    let text = fs::read_to_string(Path::new(ROOT).join("docs/job.md")).unwrap();
    let mut open: Vec<(usize, String)> = Vec::new();
    let mut sections: BTreeMap<String, String> = BTreeMap::new();
    for line in text.lines() {
        let level = line.len() - line.trim_start_matches('#').len();
        if level > 0 && line[level..].starts_with(' ') {
            open.retain(|(above, _)| *above < level);
            open.push((level, line[level..].trim().trim_matches('`').to_string()));
        }
        for (_, heading) in &open {
            *sections.entry(heading.clone()).or_default() += &format!("{line}\n");
        }
    }
    sections
}

/// The names that an error lists after `label`, such as `the keys here are: `.
fn listed(error: &tandem::Error, label: &str) -> Option<Vec<String>> {
    let text = error.to_string();
    let (_, names) = text.rsplit_once(label)?;
    Some(names.lines().next()?.split(", ").map(String::from).collect())
}

const NO_SUCH: &str = "no_such_name";

/// The keys of the job at `path`, as the reader of jobs lists them for a key that is not there; none if nothing at
/// `path` has keys.
fn keys_at(path: &str) -> Option<Vec<String>> {
    const JOB: &str = "
name: every_key
data: {train: log}
features: [{name: item, kind: categorical, dim: 4}]
tables: {item: {dim: 4}}
tasks: [{name: click, label: click}]
model: {kind: mmoe}
";
    let place = if path.is_empty() { NO_SUCH.to_string() } else { format!("{path}.{NO_SUCH}") };
    let error = config::from_text(JOB, Path::new("job.yaml"), &[format!("{place}=1")]).err()?;
    listed(&error, "the keys here are: ")
}

#[test]
fn every_key_of_a_job_is_in_its_reference() {
    let sections = sections();
    let mut todo: Vec<(String, String)> =
        [("", "Top level"), ("features.0", "features"), ("tables.item", "tables"), ("tasks.0", "tasks")]
            .map(|(path, section)| (path.to_string(), section.to_string()))
            .to_vec();
    let mut seen = 0;
    while let Some((path, section)) = todo.pop() {
        let keys = keys_at(&path).unwrap_or_else(|| panic!("`{path}` has no keys"));
        let text = sections.get(&section).unwrap_or_else(|| panic!("docs/job.md has no section `{section}`"));
        for key in keys {
            assert!(text.contains(&format!("| `{key}` |")), "docs/job.md: `{section}` does not say what `{key}` is");
            let below = if path.is_empty() { key.clone() } else { format!("{path}.{key}") };
            if keys_at(&below).is_some() {
                todo.push((below, key));
            }
            seen += 1;
        }
    }
    assert!(seen > 60, "{seen} keys");
}

#[test]
fn every_kind_and_option_is_in_the_reference() {
    let sections = sections();
    for (section, build) in schema::components() {
        let text = &sections[section];
        let error = build(&mut Component::named(NO_SUCH)).expect_err("there is no such kind");
        let kinds = listed(&error, "the kinds are: ").unwrap_or_else(|| panic!("{section}: no kinds in {error}"));
        for kind in kinds {
            assert!(text.contains(&format!("`{kind}`")), "docs/job.md: `{section}` does not name `{kind}`");
            let mut component = Component::named(&kind);
            if kind == "llm4msr" {
                // Without knowledge it is nothing.
                let options =
                    "{user_knowledge: user, scenario_knowledge: file, scenario_dim: 3, scenario_fingerprint: '0'}";
                component.options = serde_yaml::from_str(options).expect("options");
            }
            build(&mut component).unwrap_or_else(|error| panic!("{kind} with its defaults: {error}"));
            for option in component.options.keys().filter_map(|key| key.as_str()) {
                let told = text.contains(&format!("`{option}`"));
                assert!(told, "docs/job.md: `{section}` does not say what `{option}` of `{kind}` is");
            }
        }
    }
}
