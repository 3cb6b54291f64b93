//! Programs in ELF: which interpreter one asks for, and how a copy of it asks for another one.
//!
//! The kernel looks for the interpreter by the name that lies at the offset of the program header `PT_INTERP`, in the root directory of
//! the process, which is not the step's. In a copy the header's offset leads to the end of the file, where the true path is appended.
//! Its address in memory stays: there the interpreter finds the name that it has always had.

use std::ffi::OsString;

/// How much of a file the header and the program headers of all known programs take.
pub(super) const HEAD: usize = 4096;

const MAGIC: &[u8; 4] = b"\x7fELF";
/// `ELFCLASS64` and `ELFDATA2LSB`.
const CLASS: [u8; 2] = [2, 1];
/// `EM_X86_64`, and `EM_AARCH64`.
const MACHINE: u16 = if cfg!(target_arch = "x86_64") {
    62
} else {
    183
};
const PT_INTERP: u32 = 3;
/// Size of a program header, and where it has offset and sizes.
const HEADER: usize = 56;
const OFFSET: usize = 8;
const FILE_SIZE: usize = 32;
const MEMORY_SIZE: usize = 40;

/// A program header that names an interpreter.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Interpreter {
    /// Where the header is in the file.
    header: usize,
    /// Where the name is.
    pub(super) offset: u64,
    /// Its length, the NUL at its end included.
    pub(super) length: usize,
}

/// What a file is, by its beginning.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Kind {
    /// A program that needs no other one.
    Static,
    /// A program with an interpreter.
    Dynamic(Interpreter),
    /// A text for this program, with this argument.
    Script {
        interpreter: OsString,
        argument: Option<OsString>,
    },
    /// Nothing that can be run here.
    Unknown,
}

fn number<const N: usize>(bytes: &[u8], at: usize) -> Option<[u8; N]> {
    bytes.get(at..at.checked_add(N)?)?.try_into().ok()
}

impl Kind {
    /// What a file is whose first bytes are `head`, [`HEAD`] of them if it has so many.
    pub(super) fn of(head: &[u8]) -> Self {
        if head.starts_with(b"#!") {
            return script(head).unwrap_or(Self::Unknown);
        }
        if !head.starts_with(MAGIC) || head.get(4..6) != Some(&CLASS) {
            return Self::Unknown;
        }
        program(head).unwrap_or(Self::Unknown)
    }
}

fn program(head: &[u8]) -> Option<Kind> {
    let short = |at| number(head, at).map(u16::from_le_bytes);
    let long = |at| number(head, at).map(u64::from_le_bytes);
    if short(18)? != MACHINE || usize::from(short(54)?) != HEADER {
        return None;
    }
    let table = usize::try_from(long(32)?).ok()?;
    for index in 0..usize::from(short(56)?) {
        let header = table.checked_add(index.checked_mul(HEADER)?)?;
        if u32::from_le_bytes(number(head, header)?) != PT_INTERP {
            continue;
        }
        let length = usize::try_from(long(header + FILE_SIZE)?).ok()?;
        // What the kernel takes: a name and its end.
        if !(2..=4096).contains(&length) {
            return None;
        }
        let offset = long(header + OFFSET)?;
        return Some(Kind::Dynamic(Interpreter {
            header,
            offset,
            length,
        }));
    }
    Some(Kind::Static)
}

/// The first line of a script, as far as the kernel reads it.
fn script(head: &[u8]) -> Option<Kind> {
    use std::os::unix::ffi::OsStringExt as _;
    /// `BINPRM_BUF_SIZE`, the last byte of which has to be the end of the line to be looked at.
    const MAX: usize = 256;
    let is_space = |b: &u8| matches!(b, b' ' | b'\t');
    let line = &head[2..head.len().min(MAX)];
    let (line, whole) = match line.iter().position(|b| matches!(b, b'\n' | 0)) {
        Some(end) => (&line[..end], true),
        None => (&line[..line.len().min(MAX - 3)], head.len() < MAX),
    };
    let start = line.iter().position(|b| !is_space(b))?;
    let end = line.iter().rposition(|b| !is_space(b))? + 1;
    let line = &line[start..end];
    let (interpreter, argument) = match line.iter().position(is_space) {
        Some(at) => {
            let rest = &line[at..];
            let skip = rest.iter().position(|b| !is_space(b)).unwrap_or(rest.len());
            (&line[..at], Some(rest[skip..].to_vec()))
        }
        // Cut off, it would be another program's name.
        None if !whole => return None,
        None => (line, None),
    };
    Some(Kind::Script {
        interpreter: OsString::from_vec(interpreter.to_vec()),
        argument: argument.map(OsString::from_vec),
    })
}

impl Interpreter {
    /// The bytes that make a copy of the program ask for the interpreter at `path`: where they are written, and what. `size` is that of
    /// the file.
    pub(super) fn redirect(self, size: u64, path: &[u8]) -> [(u64, Vec<u8>); 4] {
        let mut name = path.to_vec();
        name.push(0);
        let length = (name.len() as u64).to_le_bytes().to_vec();
        let header = self.header as u64;
        let at = |field: usize| header + field as u64;
        [
            (size, name),
            (at(OFFSET), size.to_le_bytes().to_vec()),
            (at(FILE_SIZE), length.clone()),
            (at(MEMORY_SIZE), length),
        ]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn image(interpreter: Option<&str>) -> Vec<u8> {
        let mut bytes = vec![0; 400];
        bytes[..6].copy_from_slice(b"\x7fELF\x02\x01");
        bytes[18..20].copy_from_slice(&MACHINE.to_le_bytes());
        bytes[32..40].copy_from_slice(&64_u64.to_le_bytes());
        bytes[54..56].copy_from_slice(&56_u16.to_le_bytes());
        bytes[56..58].copy_from_slice(&2_u16.to_le_bytes());
        if let Some(name) = interpreter {
            bytes[120..124].copy_from_slice(&PT_INTERP.to_le_bytes());
            bytes[128..136].copy_from_slice(&300_u64.to_le_bytes());
            let length = name.len() as u64 + 1;
            bytes[152..160].copy_from_slice(&length.to_le_bytes());
            bytes[300..300 + name.len()].copy_from_slice(name.as_bytes());
        }
        bytes
    }

    #[test]
    fn a_copy_asks_for_the_interpreter_at_another_place() {
        let mut bytes = image(Some("/lib/ld.so"));
        let Kind::Dynamic(found) = Kind::of(&bytes) else {
            panic!("it has an interpreter");
        };
        assert_eq!((found.offset, found.length), (300, 11));
        let size = bytes.len() as u64;
        for (at, what) in found.redirect(size, b"/a/much/longer/root/lib/ld.so") {
            let at = usize::try_from(at).unwrap();
            bytes.resize(bytes.len().max(at + what.len()), 0);
            bytes[at..at + what.len()].copy_from_slice(&what);
        }
        let Kind::Dynamic(now) = Kind::of(&bytes) else {
            panic!("it has an interpreter still");
        };
        let start = usize::try_from(now.offset).unwrap();
        let name = &bytes[start..start + now.length];
        assert_eq!(name, b"/a/much/longer/root/lib/ld.so\0");
        assert_eq!(&bytes[300..310], b"/lib/ld.so", "in memory it stays");
    }

    #[test]
    fn what_is_no_program_of_this_machine_is_none() {
        assert_eq!(Kind::of(&image(None)), Kind::Static);
        let mut other = image(None);
        other[18] = 3;
        assert_eq!(Kind::of(&other), Kind::Unknown);
        other[4] = 1;
        assert_eq!(Kind::of(&other), Kind::Unknown, "32 bits");
        assert_eq!(Kind::of(b""), Kind::Unknown);
        assert_eq!(Kind::of(b"echo hi\n"), Kind::Unknown);
        for end in 0..400 {
            let _no_panic = Kind::of(&image(Some("/lib/ld.so"))[..end]);
        }
        let mut far = image(Some("/x"));
        far[32..40].copy_from_slice(&u64::MAX.to_le_bytes());
        assert_eq!(Kind::of(&far), Kind::Unknown);
    }

    #[test]
    fn the_first_line_of_a_script_is_read_as_the_kernel_does() {
        let read = |text: &str| match Kind::of(text.as_bytes()) {
            Kind::Script {
                interpreter,
                argument,
            } => Some((
                interpreter.into_string().unwrap(),
                argument.map(|a| a.into_string().unwrap()),
            )),
            _ => None,
        };
        let some = |a: &str, b: Option<&str>| Some((a.to_owned(), b.map(str::to_owned)));
        assert_eq!(read("#!/bin/sh\necho"), some("/bin/sh", None));
        assert_eq!(
            read("#! /usr/bin/env  python3 -u \nx"),
            some("/usr/bin/env", Some("python3 -u"))
        );
        assert_eq!(read("#!/bin/sh"), some("/bin/sh", None));
        assert_eq!(read("#!\n/bin/sh"), None);
        assert_eq!(read("#!   "), None);
        assert_eq!(read(&format!("#!/{}", "a".repeat(300))), None);
        let long = format!("#!/bin/x {}", "a".repeat(300));
        assert_eq!(read(&long).unwrap().1.unwrap().len(), 255 - 9);
    }
}
