//! Variables in instructions.

use super::{args::NOT_IN_ENV, label, lower::error, planner::Planner, state::Command};
use crate::{
    dockerfile::{
        Pair, Word,
        expand::{ExpandError, Expander, Expansion},
        lint::Warning,
    },
    source::{Diagnostic, MOST_SUGGESTIONS, suggest_in_case},
};

impl Planner<'_> {
    /// Keys and values with their variables expanded, all with the values from before the instruction.
    pub(super) fn expand_pairs(
        &mut self,
        at: usize,
        command: &Command<'_>,
        pairs: &[Pair],
    ) -> Result<Vec<(String, String)>, Diagnostic> {
        let mut expanded = Vec::with_capacity(pairs.len());
        for pair in pairs {
            let key = self.expand(at, command, &pair.key)?;
            expanded.push((key, self.expand(at, command, &pair.value)?));
        }
        Ok(expanded)
    }

    /// A word with its variables expanded, as one word.
    pub(super) fn expand(
        &mut self,
        at: usize,
        command: &Command<'_>,
        word: &Word,
    ) -> Result<String, Diagnostic> {
        self.expand_text(at, command, &word.value, Expander::new(self.file.escape()))
    }

    /// A text with its variables expanded; undefined ones are reported. Where errors are excused, one that cannot be
    /// expanded stays as written.
    pub(super) fn expand_text(
        &mut self,
        at: usize,
        command: &Command<'_>,
        text: &str,
        expander: Expander,
    ) -> Result<String, Diagnostic> {
        match self.expand_reporting(at, command, text, expander) {
            Ok(text) => Ok(text),
            Err(e) => {
                let error = error(command, e.to_string());
                self.excuse(match e.hint() {
                    Some(hint) => error.with_hint(hint),
                    None => error,
                })?;
                Ok(text.to_owned())
            }
        }
    }

    /// The same for those who have more to say about an error.
    pub(super) fn expand_reporting(
        &mut self,
        at: usize,
        command: &Command<'_>,
        text: &str,
        expander: Expander,
    ) -> Result<String, ExpandError> {
        let result = self.expand_with(at, text, expander);
        let unset = match &result {
            Ok(expansion) => &expansion.unset,
            Err(error) => &error.unset,
        };
        let state = &self.states[at];
        for name in unset {
            let is_declared = state.args.iter().any(|(arg, _)| arg == name);
            if !is_declared && !NOT_IN_ENV.contains(&name.as_str()) {
                self.n_unset += 1;
                let near = (self.n_unset <= MOST_SUGGESTIONS)
                    .then(|| suggest_in_case(name, state.env.names()))
                    .flatten();
                let warning = Warning::undefined_var(name, near, command.span);
                self.linter.report(Some(&command.instruction), warning);
            }
        }
        result.map(|expansion| expansion.text)
    }

    pub(super) fn expand_with(
        &self,
        at: usize,
        text: &str,
        expander: Expander,
    ) -> Result<Expansion, ExpandError> {
        let env = &self.states[at].env;
        expander.expand(text, &|name| env.get(name).map(ToOwned::to_owned))
    }

    /// What progress shows of an instruction. `masked` variables show as `****`.
    pub(super) fn progress_text(
        &self,
        at: usize,
        written: &str,
        is_run: bool,
        masked: &[String],
    ) -> String {
        let env = &self.states[at].env;
        label::text(written, self.file.escape(), is_run, &|name| {
            if masked.iter().any(|variable| variable == name) {
                return Some("****".to_owned());
            }
            env.get(name).map(ToOwned::to_owned)
        })
    }
}
