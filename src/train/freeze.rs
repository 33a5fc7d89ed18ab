//! What a run leaves as it is: dense parameters and tables that no step changes.
//!
//! A resumed run does not ask its job again, for what `init_from` named may be gone: its checkpoint says what is frozen.

use crate::checkpoint::Manifest;
use crate::config::job::Job;
use crate::config::suggest;
use crate::error::{Error, Result};
use glob::Pattern;

/// The frozen parameters and tables, by name and shape.
#[derive(Debug, Clone, Default)]
pub struct Frozen {
    dense: Choice,
    tables: Choice,
}

/// Some of the names of one kind.
#[derive(Debug, Clone, Default)]
struct Choice {
    /// Chosen whatever the patterns say not.
    listed: Vec<(String, Vec<usize>)>,
    /// In the order of the job: the last that fits decides.
    patterns: Vec<Rule>,
}

/// A pattern, and whether it freezes or makes an exception.
#[derive(Debug, Clone)]
struct Rule {
    written: String,
    pattern: Pattern,
    freezes: bool,
}

impl Frozen {
    /// What a run that goes on from this checkpoint, or evaluates it, leaves as it is.
    pub fn of_checkpoint(manifest: &Manifest) -> Self {
        let dense = manifest.parameters.iter().filter(|p| p.frozen).map(|p| (p.name.clone(), p.shape.clone()));
        let tables = manifest.tables.iter().filter(|t| t.frozen).map(|t| (t.name.clone(), vec![t.dim]));
        let listed = |listed| Choice { listed, patterns: Vec::new() };
        Self { dense: listed(dense.collect()), tables: listed(tables.collect()) }
    }

    /// What `freeze:` of the job says, for a run that begins with the checkpoint `init`.
    pub fn of_job(job: &Job, init: Option<&Manifest>) -> Result<Self> {
        let freeze = &job.freeze;
        let loaded = init.filter(|_| freeze.loaded);
        if freeze.loaded && loaded.is_none() {
            return Err(Error::job("`freeze.loaded` without `init_from`: nothing is loaded")
                .at("key", "freeze.loaded")
                .fix("name a checkpoint in `init_from`, or give patterns in `freeze.dense` and `freeze.tables`"));
        }
        let dense = loaded.map(|m| m.parameters.iter().map(|p| (p.name.clone(), p.shape.clone())).collect());
        let tables = loaded.map(|m| m.tables.iter().map(|t| (t.name.clone(), vec![t.dim])).collect());
        Ok(Self {
            dense: Choice { listed: dense.unwrap_or_default(), patterns: rules(&freeze.dense, "freeze.dense")? },
            tables: Choice { listed: tables.unwrap_or_default(), patterns: rules(&freeze.tables, "freeze.tables")? },
        })
    }

    /// Whether the dense parameter of this name and shape is frozen.
    pub fn parameter(&self, name: &str, shape: &[usize]) -> bool {
        self.dense.holds(name, shape)
    }

    /// Whether the table of this name and dimension is frozen.
    pub fn table(&self, name: &str, dim: usize) -> bool {
        self.tables.holds(name, &[dim])
    }

    /// Every pattern must name something: what was meant to be frozen would be trained.
    pub fn check(&self, parameters: &[String], tables: &[&str]) -> Result<()> {
        let parameters: Vec<&str> = parameters.iter().map(String::as_str).collect();
        self.dense.check(&parameters, "freeze.dense", "dense parameters")?;
        self.tables.check(tables, "freeze.tables", "tables")
    }
}

impl Choice {
    fn holds(&self, name: &str, shape: &[usize]) -> bool {
        let listed = self.listed.iter().any(|(known, of)| known == name && of == shape);
        let said = self.patterns.iter().rev().find(|rule| rule.pattern.matches(name));
        said.map_or(listed, |rule| rule.freezes)
    }

    fn check(&self, names: &[&str], key: &str, what: &str) -> Result<()> {
        let idle = |rule: &Rule| !names.iter().any(|name| rule.pattern.matches(name));
        let Some(at) = self.patterns.iter().position(idle) else { return Ok(()) };
        let written = &self.patterns[at].written;
        Err(Error::job(format!("`{written}` fits no name")).at("key", format!("{key}[{at}]")).fix(suggest(
            written.trim_start_matches('!'),
            names,
            what,
        )))
    }
}

fn rules(patterns: &[String], key: &str) -> Result<Vec<Rule>> {
    let rule = |(at, written): (usize, &String)| {
        let bare = written.strip_prefix('!');
        let pattern = Pattern::new(bare.unwrap_or(written)).map_err(|e| {
            Error::job(format!("`{written}` is no pattern: {}", e.msg)).at("key", format!("{key}[{at}]"))
        })?;
        Ok(Rule { written: written.clone(), pattern, freezes: bare.is_none() })
    };
    patterns.iter().enumerate().map(rule).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frozen(freeze: &str) -> Result<Frozen> {
        let yaml =
            format!("name: x\ndata: {{train: a}}\nfeatures: []\ntasks: []\nmodel: {{kind: mmoe}}\nfreeze: {freeze}");
        Frozen::of_job(&serde_yaml::from_str(&yaml).unwrap(), None)
    }

    #[test]
    fn the_last_pattern_that_fits_decides() {
        let frozen = frozen("{dense: ['*', '!towers.*', 'towers.click.*'], tables: [item]}").unwrap();
        let parameter = |name| frozen.parameter(name, &[2, 3]);
        assert!(parameter("experts.0.weight") && parameter("towers.click.logits.bias"));
        assert!(!parameter("towers.buy.logits.bias"));
        assert!(frozen.table("item", 8) && !frozen.table("items", 8));
    }

    #[test]
    fn a_pattern_that_names_nothing_is_refused() {
        let names = ["experts.0.weight".to_string(), "gates.click.scores.weight".to_string()];
        let error = |freeze| frozen(freeze).unwrap().check(&names, &["item"]).unwrap_err();
        let message = error("{dense: ['experts.*', '!gate.*']}").to_string();
        assert!(message.contains("`!gate.*` fits no name") && message.contains("freeze.dense[1]"), "{message}");
        assert!(error("{tables: [itme]}").to_string().contains("did you mean `item`"));
        frozen("{dense: ['*.weight'], tables: ['i*']}").unwrap().check(&names, &["item"]).unwrap();
        assert!(frozen("{dense: ['[']}").unwrap_err().to_string().contains("no pattern"));
        assert!(frozen("{loaded: true}").unwrap_err().to_string().contains("init_from"));
    }
}
