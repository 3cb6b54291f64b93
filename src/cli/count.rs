//! Counts in English: one step, but two steps.

use std::fmt::Display;

/// `n` things; `thing` is one of them, and takes an `s` when there are more or none.
pub(crate) fn counted(n: impl Into<Count>, thing: impl Display) -> String {
    let Count(n) = n.into();
    let ending = if n == 1 { "" } else { "s" };
    format!("{n} {thing}{ending}")
}

/// How many there are.
#[derive(Clone, Copy)]
pub(crate) struct Count(u64);

impl From<u64> for Count {
    fn from(n: u64) -> Self {
        Self(n)
    }
}

impl From<u32> for Count {
    fn from(n: u32) -> Self {
        Self(n.into())
    }
}

impl From<usize> for Count {
    fn from(n: usize) -> Self {
        Self(n as u64)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_of_a_kind_has_no_s() {
        let said: Vec<String> = (0_u32..3).map(|n| counted(n, "cache mount")).collect();
        assert_eq!(said, ["0 cache mounts", "1 cache mount", "2 cache mounts"]);
    }
}
