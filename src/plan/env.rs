//! Variables, in order of their last assignment.

use std::collections::{BTreeMap, HashMap};

/// Names and values. Setting a variable again moves it to the end: BuildKit gives a process its environment in this
/// order.
#[derive(Debug, Clone, Default)]
pub(super) struct Env {
    /// By the number of their assignment.
    variables: BTreeMap<usize, (String, String)>,
    numbers: HashMap<String, usize>,
    next: usize,
}

impl Env {
    /// The value of a variable.
    pub(super) fn get(&self, name: &str) -> Option<&str> {
        let (_, value) = self.variables.get(self.numbers.get(name)?)?;
        Some(value)
    }

    /// Gives a variable a value.
    pub(super) fn set(&mut self, name: impl Into<String>, value: impl Into<String>) {
        let name = name.into();
        if let Some(before) = self.numbers.insert(name.clone(), self.next) {
            self.variables.remove(&before);
        }
        self.variables.insert(self.next, (name, value.into()));
        self.next += 1;
    }

    /// Removes a variable.
    pub(super) fn remove(&mut self, name: &str) {
        if let Some(number) = self.numbers.remove(name) {
            self.variables.remove(&number);
        }
    }

    /// The names, in order.
    pub(super) fn names(&self) -> impl Iterator<Item = &str> {
        self.variables.values().map(|(name, _)| name.as_str())
    }

    /// Whether these of a config were assigned last, in this order.
    pub(super) fn ends_with(&self, config: &[String]) -> bool {
        let last = self.variables.values().rev().take(config.len());
        self.variables.len() >= config.len()
            && last
                .zip(config.iter().rev())
                .all(|((name, value), variable)| split(variable) == (name, value))
    }

    /// Names and values, in order.
    pub(super) fn to_vec(&self) -> Vec<(String, String)> {
        self.variables.values().cloned().collect()
    }
}

/// Splits `NAME=value`; without `=` the value is empty.
pub(super) fn split(variable: &str) -> (&str, &str) {
    variable.split_once('=').unwrap_or((variable, ""))
}

/// Where the variables of an image's `Env` are in it, by name: the first place of each, since `Env` may have any.
#[derive(Debug, Clone, Default)]
pub(super) struct ConfigEnv {
    places: HashMap<String, usize>,
    /// So much of `Env` is in `places`.
    n_known: usize,
}

impl ConfigEnv {
    /// Sets a variable, where one that exists keeps its place. Others have at most added to `env` since the last call.
    pub(super) fn set(&mut self, env: &mut Vec<String>, name: &str, value: &str) {
        for (place, variable) in env.iter().enumerate().skip(self.n_known) {
            let name = split(variable).0.to_owned();
            self.places.entry(name).or_insert(place);
        }
        self.n_known = env.len();
        let variable = format!("{name}={value}");
        match self.places.get(name) {
            Some(place) => env[*place] = variable,
            None => env.push(variable),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_assignment_moves_to_the_end_of_the_environment_but_not_of_the_config() {
        let mut env = Env::default();
        let mut config = vec!["B=0".to_owned(), "C".to_owned(), "B=9".to_owned()];
        let mut in_config = ConfigEnv::default();
        for (name, value) in [("A", "1"), ("B", "2"), ("A", "3"), ("C", "4"), ("D", "")] {
            env.set(name, value);
            in_config.set(&mut config, name, value);
        }
        env.remove("D");
        assert_eq!(env.names().collect::<Vec<_>>(), ["B", "A", "C"]);
        assert_eq!(env.get("A"), Some("3"));
        assert_eq!(env.get("D"), None);
        assert_eq!(config, ["B=2", "C=4", "B=9", "A=3", "D="]);
        for (config, is_last) in [
            (&["A=3", "C=4"][..], true),
            (&["B=2", "A=3", "C=4"], true),
            (&["A=3"], false),
            (&["A=4", "C=4"], false),
            (&["A=3", "A=3", "C=4"], false),
            (&["D=", "B=2", "A=3", "C=4"], false),
        ] {
            let config: Vec<String> = config.iter().map(|it| (*it).to_owned()).collect();
            assert_eq!(env.ends_with(&config), is_last, "{config:?}");
        }
    }
}
