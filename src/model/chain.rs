//! Which task's event needs which other's: click before cart, cart before purchase.

use super::InputSpec;
use crate::error::{Error, Result};
use crate::nn::Loss;
use std::collections::BTreeMap;

/// The option `after`: a task, and the task whose event must come before its own.
pub type After = BTreeMap<String, String>;

/// One task of a chain.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Link {
    /// Number of the task.
    pub task: usize,
    /// Number of the task before it.
    pub before: Option<usize>,
}

/// The tasks `members` in an order in which each stands after the one before it. Without `after` they are one chain in
/// the order of the job.
///
/// # Errors
/// A name that is no member, a circle, or a task that does not predict whether something happens.
pub fn links(after: &After, members: &[usize], spec: &InputSpec, kind: &str) -> Result<Vec<Link>> {
    for &task in members {
        let is_binary = spec.losses.get(task).is_none_or(|loss| loss.is_none_or(|l| l == Loss::BinaryCrossEntropy));
        if spec.outputs[task] != 1 || !is_binary {
            let name = &spec.tasks[task];
            return Err(Error::job(format!("`{kind}` chains events, and the task `{name}` is not binary"))
                .at("key", "model.kind")
                .fix("remove the task, or choose an architecture without a chain, such as `mmoe`"));
        }
    }
    if after.is_empty() {
        let before = std::iter::once(None).chain(members.iter().copied().map(Some));
        return Ok(members.iter().zip(before).map(|(&task, before)| Link { task, before }).collect());
    }
    let number = |name: &String| members.iter().copied().find(|&task| spec.tasks[task] == *name);
    let known = |name: &String| {
        number(name).ok_or_else(|| {
            let names: Vec<&str> = members.iter().map(|&task| spec.tasks[task].as_str()).collect();
            Error::job(format!("`after` names `{name}`, which is no task of the chain"))
                .at("key", "model.after")
                .fix(format!("the tasks here are: {}", names.join(", ")))
        })
    };
    let mut before = BTreeMap::new();
    for (task, needed) in after {
        before.insert(known(task)?, known(needed)?);
    }
    let mut links: Vec<Link> = Vec::new();
    while links.len() < members.len() {
        let placed = |task: usize| links.iter().any(|link| link.task == task);
        let ready = |&task: &usize| !placed(task) && before.get(&task).is_none_or(|&needed| placed(needed));
        let Some(task) = members.iter().copied().find(ready) else {
            return Err(Error::job("`after` leads round in a circle")
                .at("key", "model.after")
                .fix("leave out the task that comes first: it is after none"));
        };
        links.push(Link { task, before: before.get(&task).copied() });
    }
    Ok(links)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spec() -> InputSpec {
        InputSpec {
            tasks: ["buy", "click", "cart"].map(String::from).to_vec(),
            outputs: vec![1; 3],
            losses: vec![None, Some(Loss::BinaryCrossEntropy), Some(Loss::BinaryCrossEntropy)],
            ..InputSpec::default()
        }
    }

    fn after(pairs: &[(&str, &str)]) -> After {
        pairs.iter().map(|(task, needed)| (task.to_string(), needed.to_string())).collect()
    }

    fn linked(pairs: &[(&str, &str)]) -> Vec<(usize, Option<usize>)> {
        let links = links(&after(pairs), &[0, 1, 2], &spec(), "esmm").unwrap();
        links.into_iter().map(|Link { task, before }| (task, before)).collect()
    }

    #[test]
    fn tasks_stand_after_what_they_need() {
        assert_eq!(linked(&[]), [(0, None), (1, Some(0)), (2, Some(1))]);
        assert_eq!(linked(&[("buy", "cart"), ("cart", "click")]), [(1, None), (2, Some(1)), (0, Some(2))]);
        assert_eq!(linked(&[("buy", "click"), ("cart", "click")]), [(1, None), (0, Some(1)), (2, Some(1))]);
    }

    #[test]
    fn what_is_no_chain_says_what_to_change() {
        let error = |pairs: &[(&str, &str)], spec: &InputSpec| {
            links(&after(pairs), &[0, 1, 2], spec, "esmm").unwrap_err().to_string()
        };
        assert!(error(&[("buy", "view")], &spec()).contains("the tasks here are: buy, click, cart"));
        assert!(error(&[("buy", "cart"), ("cart", "buy")], &spec()).contains("circle"));
        assert!(error(&[("buy", "buy")], &spec()).contains("circle"));
        let classes = InputSpec { outputs: vec![1, 4, 1], ..spec() };
        assert!(error(&[], &classes).contains("`click` is not binary"));
        let stars = InputSpec { losses: vec![None, None, Some(Loss::SquaredError)], ..spec() };
        assert!(error(&[], &stars).contains("`cart` is not binary"));
    }
}
