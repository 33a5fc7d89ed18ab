//! What a job and the checkpoint of another have in common.

use serde::Serialize;

/// Names that two jobs have in common, or not.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Matches {
    /// In both: taken over.
    pub loaded: Vec<String>,
    /// In both with different shapes: begun anew.
    pub reshaped: Vec<String>,
    /// In the job only: begun anew.
    pub new: Vec<String>,
    /// In the checkpoint only.
    pub left_out: Vec<String>,
}

impl Matches {
    /// Compares what the job `wants` with what there `is`, both by name and shape.
    pub fn new<S: PartialEq>(wants: &[(String, S)], is: &[(String, S)]) -> Self {
        let mut matches = Self::default();
        for (name, shape) in wants {
            let list = match is.iter().find(|(known, _)| known == name) {
                Some((_, known)) if known == shape => &mut matches.loaded,
                Some(_) => &mut matches.reshaped,
                None => &mut matches.new,
            };
            list.push(name.clone());
        }
        let unwanted = is.iter().filter(|(name, _)| !wants.iter().any(|(wanted, _)| wanted == name));
        matches.left_out = unwanted.map(|(name, _)| name.clone()).collect();
        matches
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_name_is_in_one_list() {
        let named = |names: &[(&str, usize)]| -> Vec<(String, usize)> {
            names.iter().map(|(name, shape)| (name.to_string(), *shape)).collect()
        };
        let matches = Matches::new(&named(&[("a", 1), ("b", 2), ("c", 3)]), &named(&[("b", 2), ("c", 4), ("d", 5)]));
        let Matches { loaded, reshaped, new, left_out } = matches;
        assert_eq!((loaded, reshaped), (vec!["b".to_string()], vec!["c".to_string()]));
        assert_eq!((new, left_out), (vec!["a".to_string()], vec!["d".to_string()]));
    }
}
