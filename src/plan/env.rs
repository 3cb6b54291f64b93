//! Variables, in order of their last assignment.

/// Names and values. Setting a variable again moves it to the end: BuildKit gives a process its environment in this
/// order.
#[derive(Debug, Clone, Default)]
pub(super) struct Env {
    variables: Vec<(String, String)>,
}

impl Env {
    /// The value of a variable.
    pub(super) fn get(&self, name: &str) -> Option<&str> {
        self.variables
            .iter()
            .find(|(n, _)| n == name)
            .map(|(_, value)| value.as_str())
    }

    /// Gives a variable a value.
    pub(super) fn set(&mut self, name: impl Into<String>, value: impl Into<String>) {
        let name = name.into();
        self.remove(&name);
        self.variables.push((name, value.into()));
    }

    /// Removes a variable.
    pub(super) fn remove(&mut self, name: &str) {
        self.variables.retain(|(n, _)| n != name);
    }

    /// The names, in order.
    pub(super) fn names(&self) -> impl Iterator<Item = &str> {
        self.variables.iter().map(|(name, _)| name.as_str())
    }

    /// Names and values, in order.
    pub(super) fn to_vec(&self) -> Vec<(String, String)> {
        self.variables.clone()
    }
}

/// Splits `NAME=value`; without `=` the value is empty.
pub(super) fn split(variable: &str) -> (&str, &str) {
    variable.split_once('=').unwrap_or((variable, ""))
}

/// Sets a variable in an image's `Env`, where one that exists keeps its place.
pub(super) fn set_in_config(env: &mut Vec<String>, name: &str, value: &str) {
    let variable = format!("{name}={value}");
    match env.iter_mut().find(|v| split(v).0 == name) {
        Some(old) => *old = variable,
        None => env.push(variable),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_assignment_moves_to_the_end_of_the_environment_but_not_of_the_config() {
        let mut env = Env::default();
        let mut config = Vec::new();
        for (name, value) in [("A", "1"), ("B", "2"), ("A", "3")] {
            env.set(name, value);
            set_in_config(&mut config, name, value);
        }
        assert_eq!(env.names().collect::<Vec<_>>(), ["B", "A"]);
        assert_eq!(config, ["A=3", "B=2"]);
    }
}
