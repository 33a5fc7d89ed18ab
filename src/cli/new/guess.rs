//! What the columns of a log are for, guessed from their names, types and first values.

use crate::data::accepts::Accepts;
use crate::data::profile::{FileProfile, MOST_DISTINCT, Profile};
use crate::error::{Error, Result};

/// Whole numbers above this are rather ids than amounts.
const LARGEST_AMOUNT: f64 = 1e8;

/// What becomes of every column.
#[derive(Debug, Default)]
pub(super) struct Draft {
    pub features: Vec<Feature>,
    pub tasks: Vec<Task>,
    /// Column and why it is left out.
    pub left_out: Vec<(String, String)>,
}

/// A feature: its options as they stand in YAML, and why.
#[derive(Debug, PartialEq)]
pub(super) struct Feature {
    pub name: String,
    pub options: String,
    pub why: String,
}

/// A task on a label column.
#[derive(Debug, PartialEq)]
pub(super) struct Task {
    pub label: String,
    pub options: String,
    pub why: String,
}

/// Words of names of labels; a column of zeros and ones that has one is a label.
const LABELS: [&str; 26] = [
    "click",
    "clk",
    "label",
    "buy",
    "bought",
    "purchase",
    "conversion",
    "convert",
    "cart",
    "like",
    "follow",
    "forward",
    "share",
    "comment",
    "favorite",
    "fav",
    "finish",
    "effective",
    "target",
    "ctr",
    "cvr",
    "ctcvr",
    "watched",
    "hate",
    "valid",
    "view",
];

/// Words of names of graded labels.
const GRADES: [&str; 4] = ["rating", "stars", "score", "grade"];

/// Words of names of users, by whom GAUC groups.
const USERS: [&str; 5] = ["user", "uid", "member", "visitor", "customer"];

/// Words of names of integers that are ids, however few or many there are.
const IDS: [&str; 8] = ["id", "user", "item", "code", "category", "cat", "brand", "author"];

/// Words of names of columns that only put rows in order.
const TIMES: [&str; 8] = ["time", "timestamp", "ts", "date", "dt", "datetime", "ms", "created"];

/// Integers of fewer distinct values than this are rather ids than amounts.
const FEW: usize = 100;

/// Guesses. Columns of `labels` are labels whatever they look like; those of `ignored` are left out.
///
/// # Errors
/// A named column that is not there, or that cannot be a label; no label at all, or no feature.
pub(super) fn draft(file: &FileProfile, labels: &[String], ignored: &[String]) -> Result<Draft> {
    for name in labels.iter().chain(ignored) {
        if !file.columns.iter().any(|column| column.name == *name) {
            let names: Vec<&str> = file.columns.iter().map(|column| column.name.as_str()).collect();
            return Err(Error::job(format!("there is no column `{name}`"))
                .fix(format!("the columns are: {}", names.join(", "))));
        }
    }
    let mut draft = Draft::default();
    let group = file.columns.iter().find(|column| is_user(column)).map(|column| column.name.as_str());
    // Where some are called like labels, other columns of zeros and ones are rather flags.
    let sounds = |column: &Profile| has_word(column, &LABELS) || has_word(column, &GRADES);
    let any_sounds = file.columns.iter().any(|column| sounds(column) && label(column, group).is_some());
    for column in &file.columns {
        if ignored.contains(&column.name) {
            draft.left_out.push((column.name.clone(), "asked for".to_string()));
            continue;
        }
        let named = labels.contains(&column.name);
        let guessed = labels.is_empty() && (sounds(column) || !any_sounds);
        match label(column, group) {
            Some(task) if named || guessed => draft.tasks.push(task),
            None if named => {
                return Err(Error::job(format!("column `{}` of type {} can be no label", column.name, column.kind))
                    .fix(Accepts::Label.remedy(&column.kind)));
            }
            _ => match feature(column) {
                Ok(feature) => draft.features.push(feature),
                Err(why) => draft.left_out.push((column.name.clone(), why)),
            },
        }
    }
    if draft.tasks.is_empty() {
        return Err(Error::job("no column looks like a label").fix("name the labels: --label COLUMN"));
    }
    if draft.features.is_empty() {
        return Err(Error::job("no column looks like a feature"));
    }
    Ok(draft)
}

/// The words of a name: `isClick_2` has `is`, `click`, `2`.
fn words(name: &str) -> Vec<String> {
    let mut words = vec![String::new()];
    let mut before = ' ';
    for c in name.chars() {
        if !c.is_alphanumeric() || c.is_uppercase() && before.is_lowercase() {
            words.push(String::new());
        }
        if let Some(word) = words.last_mut().filter(|_| c.is_alphanumeric()) {
            word.extend(c.to_lowercase());
        }
        before = c;
    }
    words
}

fn has_word(column: &Profile, known: &[&str]) -> bool {
    words(&column.name).iter().any(|word| {
        let singular = word.strip_suffix('s').unwrap_or(word);
        let stem = word.strip_suffix("ed").unwrap_or(word);
        [word.as_str(), singular, stem].iter().any(|form| known.contains(form))
    })
}

fn is_user(column: &Profile) -> bool {
    has_word(column, &USERS) && !column.is_list() && Accepts::Id.accepts(&column.kind) && distinct(column) > FEW
}

fn distinct(column: &Profile) -> usize {
    column.ids.len()
}

fn quoted(name: &str) -> String {
    serde_json::to_string(name).unwrap_or_default()
}

/// The task on a column that looks like a label, or could be one.
fn label(column: &Profile, group: Option<&str>) -> Option<Task> {
    let numbers = column.numbers.filter(|_| Accepts::Label.accepts(&column.kind))?;
    let share = format!("{:.2} % of the rows", 100.0 * numbers.mean);
    let gauc = group.filter(|group| *group != column.name).map_or(String::new(), |g| format!(", gauc: {}", quoted(g)));
    let task = |options: String, why: String| Some(Task { label: column.name.clone(), options, why });
    if numbers.binary {
        return task(format!("kind: binary{gauc}"), format!("0 or 1, 1 in {share}"));
    }
    if has_word(column, &GRADES) {
        return task("kind: regression".to_string(), format!("numbers from {} to {}", numbers.min, numbers.max));
    }
    None
}

/// The feature on a column, or why there is none.
fn feature(column: &Profile) -> std::result::Result<Feature, String> {
    let feature = |options: String, why: String| Ok(Feature { name: column.name.clone(), options, why });
    if column.elements == 0 {
        return Err("no value in the rows that were looked at".to_string());
    }
    let seen = if distinct(column) >= MOST_DISTINCT { "many".to_string() } else { distinct(column).to_string() };
    if column.is_list() {
        let Some((shortest, longest)) = column.lengths else { return Err("no list in these rows".to_string()) };
        if Accepts::IdList.accepts(&column.kind) {
            let max_len = longest.clamp(1, 50);
            let options = format!("kind: sequence, dim: {}, max_len: {max_len}", dim(distinct(column)));
            return feature(options, format!("lists of up to {longest} ids, {seen} distinct"));
        }
        if Accepts::Vector.accepts(&column.kind) && shortest == longest && column.nulls == 0 {
            return feature(format!("kind: vector, length: {longest}"), "lists of one length".to_string());
        }
        return Err(format!("lists of {shortest} to {longest} values of type {}", column.kind));
    }
    if has_word(column, &TIMES) {
        return Err("it looks like a time, which rows to come will not repeat".to_string());
    }
    if !Accepts::Id.accepts(&column.kind) {
        return number(column);
    }
    let is_text = !Accepts::Number.accepts(&column.kind);
    let huge = column.numbers.is_some_and(|numbers| numbers.max > LARGEST_AMOUNT);
    if is_text || has_word(column, &IDS) || distinct(column) < FEW || huge {
        return feature(format!("kind: categorical, dim: {}", dim(distinct(column))), format!("{seen} distinct ids"));
    }
    number(column)
}

fn number(column: &Profile) -> std::result::Result<Feature, String> {
    let Some(numbers) = column.numbers.filter(|_| Accepts::Number.accepts(&column.kind)) else {
        return Err(format!("values of type {} are neither ids nor numbers", column.kind));
    };
    // Amounts with a long tail: their logarithms are nearer to each other.
    let long_tail = numbers.min >= 0.0 && numbers.max > 20.0 * numbers.mean.max(f64::MIN_POSITIVE);
    let transform = if long_tail { "log1p" } else { "standardize" };
    let why = format!("numbers {}", numbers.describe());
    Ok(Feature { name: column.name.clone(), options: format!("kind: numeric, transform: {transform}"), why })
}

/// Floats of an embedding row: more for more ids.
fn dim(distinct: usize) -> usize {
    match distinct {
        0..=10 => 4,
        11..=1000 => 8,
        1001..=20_000 => 16,
        _ => 32,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_fall_into_words() {
        assert_eq!(words("isClick_2"), ["is", "click", "2"]);
        assert_eq!(words("user-ID"), ["user", "id"]);
    }

    #[test]
    fn larger_tables_have_longer_rows() {
        assert_eq!([3, 500, 5000, MOST_DISTINCT].map(dim), [4, 8, 16, 32]);
    }
}
