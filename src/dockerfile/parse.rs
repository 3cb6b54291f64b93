//! From text to [`Dockerfile`]: the loop over logical lines.

use super::{
    Dockerfile, Failure, Instruction, InstructionKind, Rejected, Spanned, Word, directive,
    heredoc::{in_line, read_bodies},
    kind,
    lines::{Line, Lines, Logical, is_comment, too_long_message},
    node::Node,
};
use crate::source::{Diagnostic, Span};

/// Parses a Dockerfile.
///
/// Never fails: an instruction that cannot be read is left out, and a diagnostic says why. Bytes that are no UTF-8
/// are for the caller to replace.
///
/// ```
/// let file = rbuild::dockerfile::parse("FROM scratch\nRUM make\n");
/// assert_eq!(file.instructions[0].name(), "FROM");
/// assert_eq!(
///     file.diagnostics[0].message,
///     "unknown instruction: RUM (did you mean RUN?)"
/// );
/// ```
pub fn parse(text: &str) -> Dockerfile {
    let start = if text.starts_with('\u{feff}') {
        '\u{feff}'.len_utf8()
    } else {
        0
    };
    let (syntax, check) = directive::find(text, start);
    let mut parser = Parser {
        file: Dockerfile {
            text: text.to_owned(),
            ..Dockerfile::default()
        },
        text,
        lines: Lines::new(text, start),
        escape: '\\',
        seen: Vec::new(),
        directives: true,
        comments: Vec::new(),
        of_lines: Vec::new(),
        stage: Stage::None,
    };
    parser.file.directives.syntax = syntax;
    parser.file.directives.check = check;
    parser.run();
    let mut file = parser.file;
    file.diagnostics.sort_by_key(|d| d.span.start);
    parser.of_lines.sort_by_key(|d| d.span.start);
    file.diagnostics.splice(..0, parser.of_lines);
    file
}

/// Parses the text of an `ONBUILD` trigger, as an image's config holds it.
///
/// The spans of the result and of the error lie within the trigger's text.
pub fn parse_trigger(text: &str) -> Result<Instruction, Diagnostic> {
    let mut file = parse_lines(text);
    if let Some(error) = file.diagnostics.into_iter().next() {
        return Err(error);
    }
    match file.instructions.pop() {
        Some(instruction) if file.instructions.is_empty() => Ok(instruction),
        _ => Err(Diagnostic::error(
            "onbuild trigger should be a single expression",
            Span::new(0, text.len()),
        )),
    }
}

/// Parses instructions that need not make a complete file.
fn parse_lines(text: &str) -> Dockerfile {
    let mut parser = Parser {
        file: Dockerfile::default(),
        text,
        lines: Lines::new(text, 0),
        escape: '\\',
        seen: Vec::new(),
        directives: true,
        comments: Vec::new(),
        of_lines: Vec::new(),
        stage: Stage::NotNeeded,
    };
    parser.run();
    parser.file.diagnostics.splice(..0, parser.of_lines);
    parser.file
}

/// Whether an instruction has a stage to belong to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stage {
    /// Not yet.
    None,
    /// Not yet, and that has been said.
    Missing,
    /// Yes.
    Some,
    /// There are no stages here.
    NotNeeded,
}

struct Parser<'a> {
    file: Dockerfile,
    text: &'a str,
    lines: Lines<'a>,
    escape: char,
    /// The directives so far and where their lines start.
    seen: Vec<(directive::Key, usize)>,
    /// Whether the next line may be a directive.
    directives: bool,
    comments: Vec<Word>,
    /// Errors of the first reading.
    of_lines: Vec<Diagnostic>,
    stage: Stage,
}

impl Parser<'_> {
    fn run(&mut self) {
        let mut any = false;
        let mut last = Span::default();
        while let Some(line) = self.lines.next() {
            last = line.span();
            any |= self.line(line);
        }
        let everything = Span::new(0, self.text.len());
        if let Some(line) = self.lines.too_long {
            self.lexical(Diagnostic::error(too_long_message(), line.span()));
        } else if !any && self.stage != Stage::NotNeeded {
            let message = if self.text.is_empty() {
                "the Dockerfile cannot be empty"
            } else {
                "file with no instructions"
            };
            self.lexical(Diagnostic::error(message, last));
        } else if self.stage == Stage::None && self.file.failure == Failure::None {
            self.semantic(Diagnostic::error(
                "dockerfile contains no stages to build",
                everything,
            ));
        }
    }

    /// Reads what starts on a line; whether it is an instruction.
    fn line(&mut self, line: Line) -> bool {
        let content = &self.text[line.start..line.end];
        let trimmed = content.trim_start();
        let directive = self.directive(line.end - trimmed.len(), trimmed);
        if is_comment(content) {
            if !directive {
                self.comment(line);
            }
            return false;
        }
        if trimmed.is_empty() {
            return false;
        }
        let start = line.end - trimmed.len();
        let logical = Logical::read(self.text, line, start, self.escape, &mut self.lines);
        let comments = std::mem::take(&mut self.comments);
        self.instruction(logical, comments);
        true
    }

    /// Reads a directive if there is one.
    fn directive(&mut self, start: usize, line: &str) -> bool {
        if !self.directives {
            return false;
        }
        let Some((key, value)) = directive::parse_line(line, "#") else {
            self.directives = false;
            return false;
        };
        let span = Span::new(start + value.span.start, start + value.span.end);
        if let Some((_, first)) = self.seen.iter().find(|(k, _)| *k == key) {
            let message = format!("only one {} parser directive can be used", key.name());
            let both = Span::new(*first, start + line.len());
            self.lexical(Diagnostic::error(message, both));
            return true;
        }
        self.seen.push((key, start));
        if key == directive::Key::Escape {
            match value.value.as_str() {
                "\\" | "`" => {
                    self.escape = if value.value == "`" { '`' } else { '\\' };
                    self.file.directives.escape = Some(Spanned::new(self.escape, span));
                }
                other => self.lexical(Diagnostic::error(
                    format!("invalid escape token '{other}' does not match ` or \\"),
                    span,
                )),
            }
        }
        true
    }

    fn comment(&mut self, line: Line) {
        // The first character is dropped, whatever it is: an indented comment keeps its `#` and describes nothing.
        let mut chars = self.text[line.start..line.end].chars();
        chars.next();
        let comment = chars.as_str().trim();
        if comment.is_empty() {
            self.comments.clear();
        } else {
            self.comments
                .push(Spanned::new(comment.to_owned(), line.span()));
        }
    }

    fn instruction(&mut self, mut logical: Logical, comments: Vec<Word>) {
        let node = match Node::parse(&logical, 0, self.escape) {
            Ok(node) => node,
            Err(error) => {
                let keyword = logical.text.trim_start();
                if keyword
                    .get(..4)
                    .is_some_and(|k| k.eq_ignore_ascii_case("FROM"))
                {
                    self.stage = Stage::Some;
                }
                return self.lexical(error);
            }
        };
        let mut heredocs = Vec::new();
        if node.takes_heredocs() {
            match in_line(&logical.text) {
                Ok(announced) => heredocs = announced,
                Err(error) => {
                    return self.lexical(Diagnostic::error(error.to_string(), logical.span));
                }
            }
            if let Err(name) = read_bodies(&mut heredocs, self.text, &mut self.lines) {
                let error = Diagnostic::error("unterminated heredoc", logical.span);
                return self.lexical(error.with_hint(format!(
                    "a line with `{name}` and nothing else ends it; `<<-` allows tabs in front"
                )));
            }
            if let Some(last) = heredocs.last() {
                logical.span = logical.span.to(last.span);
            }
        }
        let is_from = node.keyword.value.eq_ignore_ascii_case("FROM");
        if is_from && self.stage != Stage::NotNeeded {
            self.stage = Stage::Some;
        }
        let kind = match kind::parse(&node, &heredocs, &logical) {
            Ok(kind) => kind,
            Err(error) => {
                self.skip_bodies_of_unknown(&logical);
                self.file.rejected.push(Rejected {
                    span: logical.span,
                    words: node.args.words().to_vec(),
                    keyword: node.keyword,
                    comments,
                    empty_continuation: logical.empty_continuation,
                });
                return self.semantic(error);
            }
        };
        if self.stage == Stage::None && !matches!(kind, InstructionKind::Arg(_)) {
            self.stage = Stage::Missing;
            self.semantic(
                Diagnostic::error("no build stage in current context", logical.span)
                    .with_hint("a Dockerfile starts with FROM; only ARG may stand in front of it"),
            );
        }
        self.file.instructions.push(Instruction {
            span: logical.span,
            keyword: node.keyword,
            text: logical.text.trim().to_owned(),
            flags: node.flags,
            heredocs,
            comments,
            empty_continuation: logical.empty_continuation,
            kind,
        });
    }

    /// After a misspelt `RUN <<EOF`, the body is no sequence of misspelt instructions.
    fn skip_bodies_of_unknown(&mut self, logical: &Logical) {
        let name = logical.text.split_whitespace().next().unwrap_or_default();
        let known = super::INSTRUCTION_NAMES
            .iter()
            .any(|n| n.eq_ignore_ascii_case(name));
        if known {
            return;
        }
        let mut heredocs = in_line(&logical.text).unwrap_or_default();
        let mut lines = self.lines.clone();
        if read_bodies(&mut heredocs, self.text, &mut lines).is_ok() {
            self.lines = lines;
        }
    }

    /// Records an error of the first reading, which hides all warnings.
    fn lexical(&mut self, error: Diagnostic) {
        self.file.failure = Failure::Lines;
        self.of_lines.push(error);
    }

    /// Records an error of the second reading, which hides the warnings behind it.
    fn semantic(&mut self, error: Diagnostic) {
        let at = error.span.start;
        self.file.failure = match self.file.failure {
            Failure::None => Failure::Instruction(at),
            Failure::Instruction(first) => Failure::Instruction(first.min(at)),
            Failure::Lines => Failure::Lines,
        };
        self.file.diagnostics.push(error);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn triggers_hold_one_instruction() {
        let trigger = parse_trigger("RUN <<EOF\na\nEOF").unwrap();
        assert_eq!(
            (trigger.name(), trigger.heredocs[0].content.as_str()),
            ("RUN", "a\n")
        );
        let error = |text| parse_trigger(text).unwrap_err().message;
        assert_eq!(
            error("RUN a\nRUN b"),
            "onbuild trigger should be a single expression"
        );
        assert_eq!(error(""), "onbuild trigger should be a single expression");
        assert_eq!(
            error("FOO"),
            "unknown instruction: FOO (did you mean FROM?)"
        );
        assert_eq!(error("ENV A"), "ENV must have two arguments");
    }

    #[test]
    fn what_onbuild_stores_can_be_triggered() {
        let file = parse("FROM scratch\nONBUILD copy --link <<-A <<B /x\n\ta\n\tA\nb\nB\n");
        let InstructionKind::Onbuild(onbuild) = &file.instructions[1].kind else {
            panic!("no ONBUILD");
        };
        assert_eq!(
            onbuild.trigger.value,
            "copy --link <<-A <<B /x\n\ta\nA\nb\nB"
        );
        let trigger = parse_trigger(&onbuild.trigger.value).unwrap();
        let bodies: Vec<String> = trigger
            .heredocs
            .iter()
            .map(super::super::Heredoc::body)
            .collect();
        assert_eq!(bodies, ["a\n", "b\n"]);
    }

    #[test]
    fn spans_point_at_words() {
        let text = "FROM scratch\nCOPY --from=a \\\n  --chown=1:2 \\\n  # c\n  x \\\n  y\n";
        let file = parse(text);
        let InstructionKind::Copy(copy) = &file.instructions[1].kind else {
            panic!("no COPY");
        };
        let chown = copy.transfer.chown.as_ref().unwrap();
        let words = [copy.from.as_ref().unwrap(), chown, &copy.transfer.dest];
        assert_eq!(words.map(|w| &text[w.span.range()]), ["a", "1:2", "y"]);
        assert_eq!(file.instructions[1].span.lines(text), (2, 6));
    }
}
