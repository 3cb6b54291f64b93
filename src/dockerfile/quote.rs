//! Quoting as messages and image histories have it: Go's `%q`.

/// The text in double quotes, with what does not print escaped: `a"b` becomes `"a\"b"`.
pub fn quoted(text: &str) -> String {
    let mut out = String::with_capacity(text.len() + 2);
    out.push('"');
    for c in text.chars() {
        match c {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            '\u{7}' => out.push_str("\\a"),
            '\u{8}' => out.push_str("\\b"),
            '\u{c}' => out.push_str("\\f"),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            '\u{b}' => out.push_str("\\v"),
            ' '..='~' => out.push(c),
            _ if !c.is_ascii() && is_printable(c) => out.push(c),
            _ => out += &escaped(c),
        }
    }
    out.push('"');
    out
}

fn escaped(c: char) -> String {
    match c as u32 {
        code @ ..0x80 => format!("\\x{code:02x}"),
        code @ ..0x1_0000 => format!("\\u{code:04x}"),
        code => format!("\\U{code:08x}"),
    }
}

/// The texts quoted, in brackets, with blanks between: `["a" "b"]`.
pub fn quoted_list<T: AsRef<str>>(texts: &[T]) -> String {
    let words: Vec<String> = texts.iter().map(|t| quoted(t.as_ref())).collect();
    format!("[{}]", words.join(" "))
}

/// Whether a character outside ASCII shows as itself. The letter in front keeps combining marks from being escaped
/// as they would be at the start of a text.
fn is_printable(c: char) -> bool {
    let pair = String::from_iter(['a', c]);
    pair.escape_debug().eq(pair.chars()) && !c.is_whitespace()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quotes_as_go_does() {
        assert_eq!(
            quoted("a\"b\\c\n\u{1}é\u{200b}e\u{301}"),
            "\"a\\\"b\\\\c\\n\\x01é\\u200be\u{301}\""
        );
        assert_eq!(quoted_list(&["a", "b c"]), r#"["a" "b c"]"#);
    }
}
