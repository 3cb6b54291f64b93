//! Heredocs: which words announce one, and reading their bodies.

use super::{
    Heredoc,
    expand::{ExpandError, Expander, Quotes},
    lines::Lines,
};
use crate::source::Span;

/// Words of heredocs are quoted with a backslash, whatever the escape character of the file is.
const ESCAPE: char = '\\';

/// Reads a word like `<<EOF`, `3<<-"EOF"`; `None` if it announces no heredoc. The heredoc has no body yet.
fn parse_word(word: &str) -> Result<Option<Heredoc>, ExpandError> {
    let digits = word.len() - word.trim_start_matches(|c: char| c.is_ascii_digit()).len();
    let (fd, rest) = word.split_at(digits);
    let Some(rest) = rest.strip_prefix("<<") else {
        return Ok(None);
    };
    let (chomp, rest) = match rest.strip_prefix('-') {
        Some(rest) => (true, rest),
        None => (false, rest),
    };
    let rest = rest.trim_start_matches(|c: char| c.is_ascii_whitespace());
    if rest.is_empty() || rest.contains('<') {
        return Ok(None);
    }
    let name_with = |quotes| {
        let expander = Expander {
            quotes,
            keep_unset: true,
            ..Expander::new(ESCAPE)
        };
        expander.expand(rest, &|_| None).map(|e| e.words)
    };
    let unquoted = name_with(Quotes::Remove)?;
    let quoted = name_with(Quotes::Keep)?;
    let ([name], [kept]) = (unquoted.as_slice(), quoted.as_slice()) else {
        return Ok(None);
    };
    let quotes = |text: &str| text.bytes().filter(|b| matches!(b, b'\'' | b'"')).count();
    Ok(Some(Heredoc {
        name: name.clone(),
        fd: fd.parse().unwrap_or(0),
        expand: quotes(name) == quotes(kept),
        chomp,
        content: String::new(),
        span: Span::default(),
    }))
}

/// The heredoc that a word of `COPY` or a whole `RUN` line announces.
pub(super) fn announced(word: &str) -> Option<Heredoc> {
    parse_word(word).ok().flatten()
}

/// The heredocs that a logical line announces, without their bodies. A line with an unbalanced quote has none.
pub(super) fn in_line(line: &str) -> Result<Vec<Heredoc>, ExpandError> {
    if !line.contains("<<") {
        return Ok(Vec::new());
    }
    let expander = Expander {
        quotes: Quotes::Keep,
        keep_escapes: true,
        keep_unset: true,
        ..Expander::new(ESCAPE)
    };
    let words = expander.expand(line, &|_| None).map(|e| e.words);
    let heredocs = words.unwrap_or_default();
    let heredocs = heredocs.iter().filter_map(|w| parse_word(w).transpose());
    heredocs.collect()
}

/// Reads the bodies that follow the line; the name of a heredoc that the file ends in, if it does.
pub(super) fn read_bodies(
    heredocs: &mut [Heredoc],
    text: &str,
    lines: &mut Lines<'_>,
) -> Result<(), String> {
    for heredoc in heredocs {
        let mut body: Option<Span> = None;
        loop {
            let Some(line) = lines.next() else {
                return Err(heredoc.name.clone());
            };
            let content = &text[line.start..line.end];
            let content = if heredoc.chomp {
                content.trim_start_matches('\t')
            } else {
                content
            };
            if content == heredoc.name {
                heredoc.span = body.unwrap_or(line.span()).to(line.span());
                break;
            }
            body = Some(body.unwrap_or(line.span()).to(line.span()));
            heredoc.content += &text[line.start..line.next];
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(line: &str) -> Vec<String> {
        let heredocs = in_line(line).unwrap();
        heredocs
            .iter()
            .map(|h| {
                let fd = if h.fd == 0 {
                    String::new()
                } else {
                    h.fd.to_string()
                };
                let chomp = if h.chomp { "-" } else { "" };
                let quote = if h.expand { "" } else { "'" };
                format!("{fd}<<{chomp}{quote}{}{quote}", h.name)
            })
            .collect()
    }

    #[test]
    fn heredocs_are_told_from_lookalikes() {
        assert_eq!(names("RUN cat <<EOF"), ["<<EOF"]);
        assert_eq!(
            names("RUN a <<A && b 3<<-'B' <<\"C\"D"),
            ["<<A", "3<<-'B'", "<<'CD'"]
        );
        assert_eq!(names(r"COPY << EOF <<E\ F /x"), ["<<EOF", "<<E F"]);
        // The second word is without its beginning, see `expand`.
        assert_eq!(names("RUN cat <<$VAR <<${X:-y}"), ["<<$VAR"]);
        for line in [
            "RUN echo $((1<<3))",
            "RUN cat <<<EOF",
            "RUN echo \"a <<EOF\"",
            "RUN echo '<<EOF'",
            "RUN echo a<<EOF",
            "RUN it's <<EOF",
            "RUN a <<",
        ] {
            assert_eq!(names(line), [""; 0], "{line}");
        }
    }

    #[test]
    fn bodies_are_raw() {
        let text = "a\r\n\t EOF\n\tEOF\nb";
        let mut heredocs = in_line("RUN <<-EOF").unwrap();
        let mut lines = Lines::new(text, 0);
        assert_eq!(read_bodies(&mut heredocs, text, &mut lines), Ok(()));
        assert_eq!(heredocs[0].content, "a\r\n\t EOF\n");
        assert_eq!(heredocs[0].body(), "a\r\n EOF\n");
        assert_eq!(heredocs[0].span.lines(text), (1, 3));
        let ends_in = read_bodies(&mut heredocs, text, &mut lines);
        assert_eq!(ends_in, Err("EOF".to_owned()));
    }
}
