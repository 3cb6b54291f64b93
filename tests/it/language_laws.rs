//! Laws of the Dockerfile language: what holds for every text, not for chosen ones.

use std::{fs, path::Path};

use dockerfile_parser::Instruction as Theirs;
use proptest::prelude::*;
use rbuild::dockerfile::{
    self, Dockerfile,
    expand::{Expander, Quotes},
    lint::{self, Checks, Linter},
    mount::Mount,
};
use serde_json::Value;

/// Pieces of Dockerfiles, whole and broken; chains of them come near to everything that the parser tells apart.
const PIECES: &[&str] = &[
    "FROM scratch",
    "FROM --platform=$P a AS b",
    "from",
    "ARG A=1",
    "ARG",
    "ENV A=b",
    "ENV A",
    "LABEL",
    "RUN ",
    "RUN --mount=type=cache,target=/c ",
    "COPY ",
    "ADD --chown=1 ",
    "ONBUILD ",
    "CMD ",
    "ENTRYPOINT",
    "SHELL ",
    "HEALTHCHECK --interval=1s ",
    "HEALTHCHECK NONE",
    "VOLUME ",
    "EXPOSE 80",
    "USER a",
    "WORKDIR /a",
    "STOPSIGNAL 9",
    "MAINTAINER me",
    "NONE",
    "CMD",
    "a",
    "b c",
    "$x",
    "${x:-y}",
    "${",
    "}",
    "<<EOF",
    "<<-'E F'",
    "3<<X",
    "EOF",
    "E F",
    "X",
    "\n",
    "\n",
    "\n",
    "\r\n",
    "\t",
    " ",
    "\\",
    "\\\n",
    "`",
    "`\n",
    "#",
    "# c",
    "# escape=`\n",
    "# escape=\\\n",
    "# syntax=docker/dockerfile:1\n",
    "# check=skip=all\n",
    "#!sh\n",
    "\u{feff}",
    "\"",
    "'",
    "[\"a\", \"b\"]",
    "[]",
    "[1]",
    "[",
    "]",
    ",",
    "=",
    "--",
    "--link",
    "--x=y",
    "é",
    "\u{a0}",
    "\u{b}",
    "\u{2028}",
    "\0",
];

fn near_dockerfile() -> impl Strategy<Value = String> {
    let piece = prop_oneof![
        8 => prop::sample::select(PIECES).prop_map(str::to_owned),
        1 => any::<String>(),
    ];
    let body = prop::collection::vec(piece, 0..24).prop_map(|pieces| pieces.concat());
    prop_oneof![
        body.clone(),
        body.prop_map(|body| format!("FROM scratch\n{body}"))
    ]
}

/// Files that are mostly right: whole instructions, whole heredocs, now and then a comment or a broken line.
fn mostly_right() -> impl Strategy<Value = String> {
    let words = "[a-z$\\{\\}\"'\\\\`=#<\t ,\\[\\]\u{b}é]{0,16}";
    let line = (
        "[\t ]{0,2}",
        prop::sample::select(PIECES),
        words,
        "\\\\?[\t ]?",
        "\r?\n",
    );
    let line = line.prop_map(|(blank, piece, words, end, newline)| {
        format!("{blank}{piece} {words}{end}{newline}")
    });
    let heredoc = (
        "(RUN|COPY|ADD|ONBUILD RUN)",
        "-?",
        "['\"]?",
        "[ab\t\\\\#$\n]{0,12}",
    );
    let heredoc = heredoc.prop_map(|(name, chomp, quote, body)| {
        format!("{name} <<{chomp}{quote}EOF{quote} x\n{body}\nEOF\n")
    });
    let piece = prop_oneof![3 => line, 1 => heredoc, 1 => "# [a-z=#]{0,8}\n"];
    prop::collection::vec(piece, 0..6).prop_map(|lines| format!("FROM scratch\n{}", lines.concat()))
}

/// Words with everything that expansion tells apart.
fn near_word() -> impl Strategy<Value = String> {
    let pieces = [
        "$", "${", "}", "A", "_b", "1", "{", ":", "-", "+", "?", "#", "%", "/", "*", "\\", "`",
        "'", "\"", " ", "<<", "é", "[", "]", "(", ")", ".", "|", "^", "=",
    ];
    prop::collection::vec(prop::sample::select(pieces.to_vec()), 0..24).prop_map(|p| p.concat())
}

/// Checks all spans of a tree against the text.
fn check_spans(value: &Value, text: &str) {
    match value {
        Value::Object(object) => {
            if let (Some(start), Some(end)) = (object.get("start"), object.get("end")) {
                let place = |v: &Value| {
                    v.as_u64()
                        .and_then(|n| usize::try_from(n).ok())
                        .expect("a place is a number")
                };
                let (start, end) = (place(start), place(end));
                assert!(text.get(start..end).is_some(), "{start}..{end} of {text:?}");
            }
            object.values().for_each(|v| check_spans(v, text));
        }
        Value::Array(values) => values.iter().for_each(|v| check_spans(v, text)),
        _ => {}
    }
}

/// The tree without places.
fn without_spans(value: &mut Value) {
    match value {
        Value::Object(object) => {
            object.retain(|key, _| !matches!(key.as_str(), "span" | "empty_continuation"));
            object.values_mut().for_each(without_spans);
        }
        Value::Array(values) => values.iter_mut().for_each(without_spans),
        _ => {}
    }
}

fn tree(file: &Dockerfile) -> Value {
    let mut tree = serde_json::to_value(file).expect("a tree can be JSON");
    without_spans(&mut tree);
    tree
}

fn use_all_of_it(text: &str) {
    let file = dockerfile::parse(text);
    let json = serde_json::to_value(&file).expect("a tree can be JSON");
    check_spans(&json, text);
    for diagnostic in &file.diagnostics {
        assert!(
            !diagnostic.message.is_empty() && !diagnostic.message.contains('\u{fffd}')
                || text.contains('\u{fffd}')
        );
    }
    let mut linter = Linter::new(file.checks(None).unwrap_or_default());
    lint::lint(&file, &mut linter);
    let lines = 1 + text.matches('\n').count();
    for warning in linter.warnings() {
        assert!(warning.span.lines(text).1 <= lines);
    }
    if file.has_errors() {
        return;
    }
    let printed = file.to_string();
    let again = dockerfile::parse(&printed);
    assert_eq!(tree(&again), tree(&file), "printed as:\n{printed}");
}

proptest! {
    #[test]
    fn any_bytes_are_read(bytes in prop::collection::vec(any::<u8>(), 0..512)) {
        use_all_of_it(&String::from_utf8_lossy(&bytes));
    }

    #[test]
    fn near_dockerfiles_are_read_and_printed(text in near_dockerfile()) {
        use_all_of_it(&text);
    }

    #[test]
    fn files_that_are_mostly_right_are_read_and_printed(text in mostly_right()) {
        use_all_of_it(&text);
    }

    #[test]
    fn triggers_are_read(text in near_dockerfile()) {
        match dockerfile::parse_trigger(&text) {
            Ok(instruction) => check_spans(&serde_json::to_value(&instruction).unwrap(), &text),
            Err(error) => assert!(text.get(error.span.range()).is_some()),
        }
    }

    #[test]
    fn words_expand_or_fail(word in prop_oneof![near_word(), any::<String>()], backtick: bool, value: String) {
        let lookup = |name: &str| (name != "A").then(|| value.clone());
        for quotes in [Quotes::Remove, Quotes::Keep, Quotes::Literal] {
            for flags in 0..4 {
                let expander = Expander {
                    escape: if backtick { '`' } else { '\\' },
                    quotes,
                    keep_escapes: flags & 1 != 0,
                    keep_unset: flags & 2 != 0,
                };
                drop(expander.expand(&word, &lookup));
            }
        }
    }

    #[test]
    fn words_without_syntax_are_themselves(word in "[a-zA-Z0-9 ./:=,@~é-]*") {
        let expansion = Expander::new('\\').expand(&word, &|_| None).unwrap();
        prop_assert_eq!(&expansion.text, &word);
        let words: Vec<&str> = word.split_whitespace().collect();
        prop_assert_eq!(&expansion.words, &words);
    }

    #[test]
    fn trimming_a_literal_undoes_appending_it(a in "[a-z/.]*", b in "[a-z/.]{1,8}") {
        let whole = format!("{a}{b}");
        let lookup = |name: &str| Some(if name == "W" { whole.clone() } else { b.clone() });
        let expand = |word| Expander::new('\\').expand(word, &lookup).unwrap().text;
        prop_assert_eq!(expand("${W%$B}"), a.clone());
        prop_assert_eq!(expand("${W%%$B}"), a);
    }

    #[test]
    fn mounts_are_read_or_refused(value in "[a-z=,\"$0-9 /]{0,40}|type=(bind|cache|tmpfs|secret|ssh)(,(ro|rw|from=a|id=b|mode=0755|size=1m|required|env=E|source=s|target=/t|sharing=locked|uid=1)){0,5}") {
        drop(Mount::parse(&value, &mut |text| Ok(text.to_owned())));
    }

    #[test]
    fn checks_are_read_or_refused(value in "((skip|experimental|error|x)=?[a-z, ]{0,8};?){0,4}") {
        drop(Checks::parse(&value));
    }
}

#[test]
fn deep_nesting_is_refused() {
    let word = "${a:-".repeat(50_000);
    let error = Expander::new('\\').expand(&word, &|_| None).unwrap_err();
    assert!(error.to_string().contains("nested too deeply"));
    use_all_of_it(&format!("FROM a\n{}RUN x\n", "ONBUILD ".repeat(50_000)));
    use_all_of_it(&format!("FROM a\nRUN {}\n", "[".repeat(50_000)));
}

#[test]
fn a_line_that_is_too_long_ends_the_file() {
    let text = format!("FROM scratch\nRUN {}\nRUM\n", "a".repeat(65_532));
    let file = dockerfile::parse(&text);
    assert_eq!(
        file.diagnostics[0].message,
        "dockerfile line greater than max allowed size of 65535"
    );
    assert_eq!(file.diagnostics[0].span.lines(&text), (2, 2));
    assert_eq!((file.diagnostics.len(), file.instructions.len()), (1, 1));
}

#[test]
fn long_instructions_are_broken_when_printed() {
    let words = "word ".repeat(1000);
    let lines = format!("{words}\\\n").repeat(100);
    use_all_of_it(&format!("FROM scratch\nRUN {lines} end\n"));
}

#[test]
fn another_reader_sees_the_same_instructions() {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("testdata/dockerfile/ok");
    let mut judged = 0;
    for entry in fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        let text = fs::read_to_string(&path).unwrap();
        let theirs = match dockerfile_parser::Dockerfile::parse(&text) {
            Ok(theirs) if path.extension().is_some_and(|e| e == "dockerfile") => theirs,
            _ => continue,
        };
        let theirs: Vec<String> = theirs.instructions.iter().map(keyword).collect();
        let ours = dockerfile::parse(&text);
        let ours: Vec<&str> = ours
            .instructions
            .iter()
            .map(dockerfile::Instruction::name)
            .collect();
        assert_eq!(ours, theirs, "{}", path.display());
        judged += 1;
    }
    assert!(judged >= 5, "only {judged} files could be judged");
}

fn keyword(instruction: &Theirs) -> String {
    match instruction {
        Theirs::From(_) => "FROM".to_owned(),
        Theirs::Arg(_) => "ARG".to_owned(),
        Theirs::Label(_) => "LABEL".to_owned(),
        Theirs::Run(_) => "RUN".to_owned(),
        Theirs::Entrypoint(_) => "ENTRYPOINT".to_owned(),
        Theirs::Cmd(_) => "CMD".to_owned(),
        Theirs::Copy(_) => "COPY".to_owned(),
        Theirs::Env(_) => "ENV".to_owned(),
        Theirs::Misc(other) => other.instruction.content.to_uppercase(),
    }
}
