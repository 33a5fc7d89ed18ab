//! "Did you mean": the known name that is nearest to a wrong one.

/// Below this similarity (0 to 1) two names have nothing to do with each other.
const LEAST_SIMILARITY: f64 = 0.5;

/// The entry of `known` that `given` most likely stands for, if any is near enough.
pub fn nearest<'a>(given: &str, known: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let mut best: Option<(f64, &str)> = None;
    for name in known {
        let similarity = similarity(given, name);
        if similarity >= LEAST_SIMILARITY && best.is_none_or(|(most, _)| similarity > most) {
            best = Some((similarity, name));
        }
    }
    best.map(|(_, name)| name)
}

/// The remedy for a wrong name: the nearest right one, then all of them. `plural` says what they are,
/// such as `"keys"`.
pub fn suggest(given: &str, known: &[&str], plural: &str) -> String {
    let all = format!("the {plural} are: {}", known.join(", "));
    match nearest(given, known.iter().copied()) {
        Some(name) => format!("did you mean `{name}`? {all}"),
        None if known.is_empty() => format!("remove it: there are no {plural}"),
        None => all,
    }
}

fn similarity(given: &str, name: &str) -> f64 {
    let (given, name) = (normalised(given), normalised(name));
    // `batch` for `global_batch`, `epoch_count` for `epoch`: one word of several.
    let contained = given.len() >= 3 && name.len() >= 3 && (name.contains(&given) || given.contains(&name));
    let edit = strsim::normalized_damerau_levenshtein(&given, &name);
    if contained { edit.max(0.6) } else { edit }
}

fn normalised(name: &str) -> String {
    name.trim().to_lowercase().replace(['-', ' '], "_")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_nearest_name_is_found() {
        let keys = ["name", "label", "kind", "where", "weight", "global_batch"];
        for (given, right) in [
            ("wheer", Some("where")),
            ("Label", Some("label")),
            ("weigth", Some("weight")),
            ("batch", Some("global_batch")),
            ("global-batch", Some("global_batch")),
            ("zzz", None),
            ("", None),
        ] {
            assert_eq!(nearest(given, keys), right, "{given}");
        }
    }

    #[test]
    fn the_remedy_lists_all_names() {
        assert_eq!(suggest("mmoee", &["mmoe", "ple"], "kinds"), "did you mean `mmoe`? the kinds are: mmoe, ple");
        assert_eq!(suggest("zzz", &["mmoe", "ple"], "kinds"), "the kinds are: mmoe, ple");
        assert_eq!(suggest("zzz", &[], "options"), "remove it: there are no options");
    }
}
