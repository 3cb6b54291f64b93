//! The value of `--chmod`: an octal number, or the words of chmod(1).

use std::fmt::{self, Display, Formatter};

use serde::Serialize;

/// A value of `--chmod` that is none.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ChmodError {
    /// It looks like a number but is not an octal one within bounds.
    #[error("invalid chmod parameter: '{0}'. it should be octal string and between 0 and 07777")]
    Number(String),
    /// It is neither a number nor words that chmod(1) knows.
    #[error("invalid chmod parameter: '{0}': invalid syntax")]
    Words(String),
}

/// A value of `--chmod`: a change of permission bits.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(into = "String")]
pub struct Chmod {
    text: String,
    change: Change,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Change {
    /// These bits, whatever there was.
    Octal(u32),
    /// Changes to what there is, in order.
    Symbolic(Vec<Edit>),
}

/// One change of a symbolic mode.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Edit {
    action: Action,
    bits: u32,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Action {
    Set,
    Clear,
    /// Sets when any execute bit was set, or for a directory.
    SetIfSearchable,
    /// Takes the bits of one class (its shift) over into those within `bits`.
    Copy {
        from: u32,
        op: Op,
    },
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Op {
    Add,
    Remove,
    Assign,
}

const SETUID: u32 = 0o4000;
const SETGID: u32 = 0o2000;
const STICKY: u32 = 0o1000;
const ALL_BUT_STICKY: u32 = 0o6777;

impl Chmod {
    /// Reads a value of `--chmod`.
    pub fn parse(text: &str) -> Result<Self, ChmodError> {
        Ok(Self {
            text: text.to_owned(),
            change: Change::parse(text)?,
        })
    }

    /// The value as written, with its variables expanded.
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// The bits that `mode` becomes.
    pub fn apply(&self, mode: u32, is_dir: bool) -> u32 {
        let edits = match &self.change {
            Change::Octal(mode) => return *mode,
            Change::Symbolic(edits) => edits,
        };
        let mut new = mode;
        for Edit { action, bits } in edits {
            match action {
                Action::Set => new |= bits,
                Action::Clear => new &= !bits,
                Action::SetIfSearchable => {
                    if mode & 0o111 != 0 || is_dir {
                        new |= bits;
                    }
                }
                Action::Copy { from, op } => {
                    let class = new >> from & 0o7;
                    let copied = (class << 6 | class << 3 | class) & bits;
                    match op {
                        Op::Add => new |= copied,
                        Op::Remove => new &= !copied,
                        Op::Assign => new = new & !bits | copied,
                    }
                }
            }
        }
        new
    }

    /// The mode of directories that a copy has to make on the way to its destination: BuildKit gives them an octal
    /// mode without its special bits, and does not apply a symbolic one.
    pub fn of_made_parents(chmod: Option<&Self>) -> u32 {
        match chmod.map(|chmod| &chmod.change) {
            Some(Change::Octal(mode)) => mode & 0o777,
            _ => 0o755,
        }
    }
}

impl Display for Chmod {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl From<Chmod> for String {
    fn from(chmod: Chmod) -> Self {
        chmod.text
    }
}

impl Change {
    fn parse(text: &str) -> Result<Self, ChmodError> {
        if text.starts_with(|c: char| c.is_ascii_digit()) {
            return match u32::from_str_radix(text, 8) {
                Ok(mode @ ..=0o7777) => Ok(Self::Octal(mode)),
                _ => Err(ChmodError::Number(text.to_owned())),
            };
        }
        let mut edits = Vec::new();
        for clause in text.split(',') {
            parse_clause(clause, &mut edits).ok_or_else(|| ChmodError::Words(text.to_owned()))?;
        }
        Ok(Self::Symbolic(edits))
    }
}

/// Adds the edits of `[ugoa]*([-+=][rwxXstugo]*)+`; `None` when it is not of that form.
fn parse_clause(clause: &str, edits: &mut Vec<Edit>) -> Option<()> {
    let mut who = 0;
    let permissions = clause.trim_start_matches(|c| {
        who |= match c {
            'a' => ALL_BUT_STICKY,
            'u' => SETUID | 0o700,
            'g' => SETGID | 0o070,
            'o' => 0o007,
            _ => return false,
        };
        true
    });
    let mut rest = permissions.chars().peekable();
    loop {
        let op = match rest.next()? {
            '+' => Op::Add,
            '-' => Op::Remove,
            '=' => Op::Assign,
            _ => return None,
        };
        let mut list = List {
            op,
            who,
            bits: 0,
            searchable: 0,
            has_assigned: false,
        };
        while let Some(letter) = rest.next_if(|c| "rwxXstugo".contains(*c)) {
            list.letter(letter, edits);
        }
        list.finish(edits);
        if rest.peek().is_none() {
            return Some(());
        }
    }
}

/// The letters after one operator, gathered until a copied class or the end.
struct List {
    op: Op,
    /// The bits of the classes named; 0 when none is.
    who: u32,
    bits: u32,
    searchable: u32,
    /// An assignment clears only once.
    has_assigned: bool,
}

impl List {
    fn letter(&mut self, letter: char, edits: &mut Vec<Edit>) {
        // For others alone, setuid, setgid and sticky mean nothing.
        let is_special = self.who == 0 || self.who & !0o007 != 0;
        match letter {
            'r' => self.bits |= 0o444,
            'w' => self.bits |= 0o222,
            'x' => self.bits |= 0o111,
            'X' if self.op == Op::Remove => self.bits |= 0o111,
            'X' => self.searchable = 0o111,
            's' if is_special => self.bits |= SETUID | SETGID,
            't' if is_special => {
                self.bits |= STICKY;
                if self.who != 0 {
                    self.who |= STICKY;
                }
            }
            'u' | 'g' | 'o' => {
                if self.bits != 0 {
                    self.push_bits(edits);
                }
                self.has_assigned |= self.op == Op::Assign;
                self.push_searchable(edits);
                let from = match letter {
                    'u' => 6,
                    'g' => 3,
                    _ => 0,
                };
                edits.push(Edit {
                    action: Action::Copy { from, op: self.op },
                    bits: self.within(0o777),
                });
            }
            _ => {}
        }
    }

    fn finish(mut self, edits: &mut Vec<Edit>) {
        if self.bits != 0 || self.op == Op::Assign && !self.has_assigned {
            self.push_bits(edits);
        }
        self.push_searchable(edits);
    }

    /// Those of `bits` that belong to the classes named.
    fn within(&self, bits: u32) -> u32 {
        if self.who == 0 { bits } else { bits & self.who }
    }

    fn push_bits(&mut self, edits: &mut Vec<Edit>) {
        if self.op == Op::Assign {
            self.has_assigned = true;
            edits.push(Edit {
                action: Action::Clear,
                bits: if self.who == 0 {
                    ALL_BUT_STICKY
                } else {
                    self.who
                },
            });
        }
        let action = if self.op == Op::Remove {
            Action::Clear
        } else {
            Action::Set
        };
        edits.push(Edit {
            action,
            bits: self.within(self.bits),
        });
        self.bits = 0;
    }

    fn push_searchable(&mut self, edits: &mut Vec<Edit>) {
        if self.searchable != 0 {
            edits.push(Edit {
                action: Action::SetIfSearchable,
                bits: self.within(self.searchable),
            });
            self.searchable = 0;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn modes_change_as_chmod_changes_them() {
        let table = [
            ("0", 0o644, 0),
            ("4755", 0o644, 0o4755),
            ("01777", 0o644, 0o1777),
            ("u+x", 0o644, 0o744),
            ("go-r,u=rwx", 0o644, 0o700),
            ("a=r", 0o755, 0o444),
            ("u=rwX,go=rX", 0o600, 0o644),
            ("u=rwX,go=rX", 0o700, 0o755),
            ("u+s,g+w", 0o644, 0o4664),
            ("o+s", 0o644, 0o644),
            ("+t", 0o644, 0o1644),
            ("u+t", 0o644, 0o1644),
            ("=rw", 0o755, 0o666),
            ("+x", 0o644, 0o755),
            ("g=u", 0o740, 0o770),
            ("go=u-w", 0o700, 0o755),
            ("o=g", 0o751, 0o755),
            ("go=", 0o755, 0o700),
            ("u=", 0o4755, 0o055),
            ("a-X", 0o755, 0o644),
            ("g+x-r", 0o640, 0o610),
            ("u=rg", 0o070, 0o770),
        ];
        for (text, before, after) in table {
            let new = Chmod::parse(text).unwrap().apply(before, false);
            assert_eq!(new, after, "{text} on {before:o} gives {new:o}");
        }
        let x = Chmod::parse("go+X").unwrap();
        assert_eq!(x.apply(0o600, true), 0o611);
    }

    #[test]
    fn what_is_no_mode_is_refused() {
        for text in ["64a", "10000", "077777", "8", "99999999999999999999"] {
            assert_eq!(
                Chmod::parse(text).unwrap_err().to_string(),
                format!(
                    "invalid chmod parameter: '{text}'. it should be octal string and between 0 and 07777"
                )
            );
        }
        for text in ["rwx", "", "u", "u+x,", ",u+x", "u+q", "+5", "u x"] {
            assert!(
                matches!(Chmod::parse(text), Err(ChmodError::Words(_))),
                "{text}"
            );
        }
    }

    #[test]
    fn made_parents_take_an_octal_mode_without_its_special_bits() {
        let of = |text| Chmod::of_made_parents(Some(&Chmod::parse(text).unwrap()));
        assert_eq!((of("1777"), of("644"), of("u+s")), (0o777, 0o644, 0o755));
        assert_eq!(Chmod::of_made_parents(None), 0o755);
    }
}
