//! Text from elsewhere on its way to a terminal: process output, file names, registry answers.
//!
//! Colours (`ESC [ … m`) pass where colours are wanted, other escape sequences are dropped, other control characters
//! become visible. Nothing that a build prints can move the cursor, set the title or hide text.

/// Whether colours are wanted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Colour {
    On,
    Off,
}

/// One line, safe to print. Carriage returns act as on a terminal: what follows the last one is what is seen.
pub(crate) fn line(bytes: &[u8], colour: Colour) -> String {
    let text = String::from_utf8_lossy(bytes);
    let text = text.trim_end_matches(['\n', '\r']);
    let visible = text
        .rsplit('\r')
        .find(|part| !part.is_empty())
        .unwrap_or_default();
    clean(visible, colour)
}

/// Text of several lines, safe to print.
pub(crate) fn lines(text: &str) -> String {
    let cleaned: Vec<String> = text.lines().map(|line| clean(line, Colour::Off)).collect();
    cleaned.join("\n")
}

/// Text that is to stay on one line, safe to print.
pub(crate) fn one_line(text: &str) -> String {
    let text = text.trim().replace(['\n', '\r'], " ");
    clean(&text, Colour::Off)
}

fn clean(text: &str, colour: Colour) -> String {
    if !text.contains(|c: char| c.is_control()) {
        return text.to_owned();
    }
    let mut out = String::with_capacity(text.len());
    let mut coloured = false;
    let mut rest = text;
    while let Some(c) = rest.chars().next() {
        if c == '\u{1b}' {
            let sequence = &rest[..escape_length(rest)];
            if colour == Colour::On && sequence.starts_with("\u{1b}[") && sequence.ends_with('m') {
                out.push_str(sequence);
                coloured = true;
            }
            rest = &rest[sequence.len()..];
            continue;
        }
        match c {
            '\t' => out.push(c),
            '\u{0}'..='\u{1f}' | '\u{7f}' => {
                out.push('^');
                out.push(char::from(
                    u8::try_from(u32::from(c)).unwrap_or_default() ^ 0x40,
                ));
            }
            c if c.is_control() => out.push('\u{fffd}'),
            c => out.push(c),
        }
        rest = &rest[c.len_utf8()..];
    }
    if coloured {
        out.push_str("\u{1b}[0m");
    }
    out
}

/// The length of the escape sequence that the text begins with (ECMA-48: CSI, the string sequences, two characters).
fn escape_length(text: &str) -> usize {
    let body = &text[1..];
    match body.chars().next() {
        Some('[') => match body[1..].find(|c: char| ('\u{40}'..='\u{7e}').contains(&c)) {
            Some(end) => 1 + 1 + end + 1,
            None => text.len(),
        },
        Some(']' | 'P' | '_' | '^' | 'X') => {
            let bell = body.find('\u{7}').map(|at| 1 + at + 1);
            let terminator = body.find("\u{1b}\\").map(|at| 1 + at + 2);
            match (bell, terminator) {
                (Some(a), Some(b)) => a.min(b),
                (Some(end), None) | (None, Some(end)) => end,
                (None, None) => text.len(),
            }
        }
        Some(c) => 1 + c.len_utf8(),
        None => 1,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_colours_survive() {
        let say = |text: &str| line(text.as_bytes(), Colour::On);
        assert_eq!(say("plain\n"), "plain");
        assert_eq!(say("\u{1b}[31mred"), "\u{1b}[31mred\u{1b}[0m");
        assert_eq!(say("\u{1b}[2J\u{1b}[Hwiped"), "wiped");
        assert_eq!(say("\u{1b}]0;title\u{7}text"), "text");
        assert_eq!(say("\u{1b}]0;title\u{1b}\\text"), "text");
        assert_eq!(say("\u{1b}]0;never ends"), "");
        assert_eq!(say("bell\u{7} nul\u{0}"), "bell^G nul^@");
        assert_eq!(say("c1 \u{9b}31m"), "c1 \u{fffd}31m");
        assert_eq!(line(b"\x1b[31mred", Colour::Off), "red");
        assert_eq!(line(b"bad \xff utf-8", Colour::Off), "bad \u{fffd} utf-8");
    }

    #[test]
    fn carriage_returns_overwrite() {
        assert_eq!(line(b"10%\r20%\r100%\r\n", Colour::Off), "100%");
        assert_eq!(line(b"dos\r\n", Colour::Off), "dos");
        assert_eq!(line(b"\r\n", Colour::Off), "");
    }
}
