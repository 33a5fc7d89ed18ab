//! The guessed job as commented YAML.

use super::guess::{Draft, Feature, Task};
use crate::data::profile::FileProfile;
use std::fmt::Write;

/// The text of the job on `data`, whose first file is `file`.
pub(super) fn job(data: &str, file: &str, profile: &FileProfile, draft: &Draft) -> String {
    let mut text = format!(
        "# Guessed by `tandem new` from the first {} of {} rows of {file}.\n\
         # It trains as it is: tandem train job.yaml. Correct what is wrong; every key: docs/job.md, `tandem schema`.\n\
         name: {}\n\
         data:\n  \
           train: {}\n  \
           # Rows that training does not see, of a later day for example. Without them there are no metrics:\n  \
           # valid: …\n  \
           # test: …\n\
         features:\n",
        profile.sampled,
        profile.rows,
        name(data),
        quoted(data),
    );
    // Writing to a string cannot fail.
    for Feature { name, options, why } in &draft.features {
        let _ = writeln!(text, "  - {{name: {}, {options}}}  # {why}", quoted(name));
    }
    if !draft.left_out.is_empty() {
        text += "  # Left out:\n";
    }
    for (name, why) in &draft.left_out {
        let _ = writeln!(text, "  # {name}: {why}");
    }
    text += "tasks:\n";
    for Task { label, options, why } in &draft.tasks {
        let _ = writeln!(text, "  - {{name: {}, label: {}, {options}}}  # {why}", task_name(label), quoted(label));
    }
    text += match draft.tasks.len() {
        1 => {
            "# One task: nothing to share, nothing to balance.\nmodel: {kind: shared_bottom, bottom: [256, 128], tower: [64]}\n"
        }
        _ => {
            "# Experts that every task mixes for itself. Others: ple, aitm (tasks that follow each other), star (scenarios), …\n\
             model: {kind: mmoe, experts: 4, expert: [256, 128], tower: [64]}\n\
             # The plain sum of the losses. docs/balancing.md says when another method pays.\n\
             balance: {kind: uniform}\n"
        }
    };
    let batch = batch(profile.rows);
    let _ = write!(
        text,
        "optimizer:\n  \
           dense: {{kind: adam, lr: 1.0e-3}}\n  \
           sparse: {{kind: rowwise_adagrad, lr: 0.02}}\n\
         train:\n  \
           global_batch: {batch}  # over all ranks\n  \
           epochs: 1  # ids overfit in the second epoch; watch the valid metrics before you add one\n"
    );
    text
}

/// Some dozen steps in the first file at least, for what a test log has of rows.
fn batch(rows: u64) -> u64 {
    (rows / 64).next_power_of_two().clamp(16, 4096)
}

fn quoted(text: &str) -> String {
    let plain = text.chars().all(|c| c.is_alphanumeric() || "_-./".contains(c)) && text.parse::<f64>().is_err();
    let word = !["", "true", "false", "null", "yes", "no", "on", "off", "~"].contains(&text.to_lowercase().as_str());
    match plain && word && !text.starts_with('-') {
        true => text.to_string(),
        // JSON's strings are YAML's.
        false => serde_json::to_string(text).unwrap_or_default(),
    }
}

fn task_name(label: &str) -> String {
    identifier(label.strip_prefix("is_").unwrap_or(label), "task")
}

fn identifier(text: &str, instead: &str) -> String {
    let name: String = text.chars().map(|c| if c.is_ascii_alphanumeric() { c } else { '_' }).collect();
    let name = name.trim_matches('_');
    if name.is_empty() || name.starts_with(|c: char| c.is_ascii_digit()) {
        instead.to_string()
    } else {
        name.to_string()
    }
}

/// The last part of the path that says something.
fn name(data: &str) -> String {
    let mut parts = data.split('/').map(|part| part.strip_suffix(".parquet").unwrap_or(part));
    let says =
        |part: &&str| !part.is_empty() && !part.contains(['*', '?', '=']) && !["train", ".", ".."].contains(part);
    identifier(parts.rfind(says).unwrap_or("job"), "job")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn jobs_are_named_by_what_their_data_are() {
        let names = ["logs/shop/train/*.parquet", "a-b.parquet", "*.parquet", "/data/2024/"].map(name);
        assert_eq!(names, ["shop", "a_b", "job", "job"]);
    }

    #[test]
    fn only_plain_words_stand_without_quotes() {
        assert_eq!(
            ["item_id", "a: b", "no", "12", ""].map(quoted),
            ["item_id", "\"a: b\"", "\"no\"", "\"12\"", "\"\""]
        );
    }
}
