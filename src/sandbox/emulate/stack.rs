//! The stack on which a new program finds its arguments, environment and auxiliary values, as the System V ABI has it: what the
//! kernel made of a call, with other arguments in front.
//!
//! ```text
//! stack pointer → argc, argv…, 0, envp…, 0, (type, value)…, (0, 0)     words of 64 bits; the strings lie above
//! ```

use std::ffi::OsString;
use std::os::unix::ffi::OsStrExt as _;

/// `AT_EXECFN`: the name that the program was called by.
const EXECFN: u64 = 31;

/// Memory to be written.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Stack {
    /// Where it goes, and where the stack ends from then on.
    pub(super) pointer: u64,
    pub(super) bytes: Vec<u8>,
}

/// The words of a stack from its end on, as far as they mean something; `None` when `words` do not reach so far.
pub(super) fn extent(words: &[u64]) -> Option<usize> {
    let argc = usize::try_from(*words.first()?).ok()?;
    let mut at = argc.checked_add(2)?;
    while *words.get(at)? != 0 {
        at += 1;
    }
    at += 1;
    while *words.get(at)? != 0 {
        at += 2;
    }
    (at + 2 <= words.len()).then_some(at + 2)
}

/// The stack that ends at `pointer` and holds `words`, with `front` instead of the first argument. What comes last of these is the name
/// of the program's file.
pub(super) fn with_arguments(pointer: u64, words: &[u64], front: &[OsString]) -> Option<Stack> {
    let words = &words[..extent(words)?];
    let argc = usize::try_from(*words.first()?).ok()?;
    let kept = &words[1 + argc.min(1)..=argc];
    let strings: usize = front.iter().map(|s| s.len() + 1).sum();
    let count = words.len() - argc + kept.len() + front.len();
    let room = u64::try_from(strings + 8 * count).ok()?;
    let start = pointer.checked_sub(room)? & !15;
    let mut at = start + 8 * u64::try_from(count).ok()?;
    let mut text = Vec::with_capacity(strings);
    let mut places = Vec::with_capacity(front.len());
    for string in front {
        places.push(at);
        text.extend(string.as_bytes());
        text.push(0);
        at += string.len() as u64 + 1;
    }
    let mut new = vec![(front.len() + kept.len()) as u64];
    new.extend(&places);
    new.extend(kept);
    let rest = new.len();
    new.extend(&words[1 + argc..]);
    if let Some(name) = places.last() {
        // The auxiliary values come after two ends: that of the arguments and that of the environment.
        let env = new[rest + 1..].iter().position(|word| *word == 0)?;
        for pair in new[rest + 1 + env + 1..].chunks_exact_mut(2) {
            if pair[0] == EXECFN {
                pair[1] = *name;
            }
        }
    }
    let mut bytes: Vec<u8> = new.iter().flat_map(|word| word.to_ne_bytes()).collect();
    bytes.extend(text);
    Some(Stack {
        pointer: start,
        bytes,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_script_s_interpreter_comes_first() {
        // Two arguments, one variable, one auxiliary value and the name; then something else.
        let words = [2, 100, 200, 0, 300, 0, 6, 4096, EXECFN, 400, 0, 0, 77];
        assert_eq!(extent(&words), Some(12));
        assert_eq!(extent(&words[..11]), None);
        let front = ["/bin/sh", "-e", "./x"].map(OsString::from);
        let stack = with_arguments(0x8008, &words, &front).unwrap();
        assert_eq!(stack.pointer % 16, 0);
        assert!(stack.pointer + stack.bytes.len() as u64 <= 0x8008);
        let word = |index: usize| {
            let bytes: [u8; 8] = stack.bytes[8 * index..8 * index + 8].try_into().unwrap();
            u64::from_ne_bytes(bytes)
        };
        let string = |address: u64| {
            let start = usize::try_from(address - stack.pointer).unwrap();
            let rest = &stack.bytes[start..];
            let end = rest.iter().position(|b| *b == 0).unwrap();
            String::from_utf8(rest[..end].to_vec()).unwrap()
        };
        assert_eq!(word(0), 4);
        let names: Vec<_> = (1..4).map(|i| string(word(i))).collect();
        assert_eq!(names, ["/bin/sh", "-e", "./x"]);
        let rest: Vec<_> = (4..14).map(word).collect();
        let name = word(3);
        assert_eq!(rest, [200, 0, 300, 0, 6, 4096, EXECFN, name, 0, 0]);
    }

    #[test]
    fn a_program_without_arguments_gets_those_in_front() {
        let words = [0, 0, 0, 0, 0];
        let stack = with_arguments(0x1000, &words, &["a".into()]).unwrap();
        assert_eq!(stack.bytes[0], 1);
    }
}
