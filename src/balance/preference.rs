//! How much each task counts in a method that combines tasks before or after it resolves their conflicts.

use super::KEY;
use crate::error::{Error, Result};
use serde::{Deserialize, Serialize};

/// One factor per task, in the order of the job's `tasks`; written as a list. Empty (the default): all alike.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(transparent)]
pub(super) struct Preference(Vec<f64>);

impl Preference {
    /// Refuses a list of another length than the tasks', and factors that are negative or not finite. `option` is
    /// its name in the job.
    pub fn check(&self, option: &str, tasks: usize) -> Result<()> {
        let key = format!("{KEY}.{option}");
        if !self.0.is_empty() && self.0.len() != tasks {
            let what = format!("{} factors for {tasks} tasks", self.0.len());
            return Err(Error::job(what).at("key", key).fix("give one per task, in the order of `tasks`"));
        }
        match self.0.iter().find(|p| !(p.is_finite() && **p >= 0.0)) {
            Some(bad) => Err(Error::job(format!("a factor is {bad}")).at("key", key).fix("give numbers ≥ 0")),
            None => Ok(()),
        }
    }

    /// The factors of some of the tasks, each `alike` where none were given.
    pub fn of(&self, tasks: &[usize], alike: f64) -> Vec<f64> {
        tasks.iter().map(|&k| self.0.get(k).copied().unwrap_or(alike)).collect()
    }

    /// The factors of some of the tasks, 1 over their number where none were given.
    pub fn or_mean(&self, tasks: &[usize]) -> Vec<f64> {
        self.of(tasks, 1.0 / tasks.len().max(1) as f64)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_list_must_fit_the_tasks() {
        let given = Preference(vec![1.0, 0.0, 3.0]);
        assert!(given.check("preference", 3).is_ok() && Preference::default().check("preference", 3).is_ok());
        assert_eq!(given.of(&[2, 0], 9.0), [3.0, 1.0]);
        assert_eq!(Preference::default().or_mean(&[1, 2]), [0.5, 0.5]);
        let error = given.check("preference", 2).unwrap_err().to_string();
        assert!(error.contains("3 factors for 2 tasks") && error.contains("balance.preference"), "{error}");
        assert!(Preference(vec![1.0, -1.0]).check("preference", 2).is_err());
        assert!(Preference(vec![1.0, f64::NAN]).check("preference", 2).is_err());
    }
}
