//! Lines out of the pieces that a process writes.

use rbuild::progress::Stream;

/// A line that grows beyond this is taken as it is, so that memory stays bounded.
const LONGEST_LINE: usize = 1 << 20;

/// The unfinished lines of one step, one for each stream.
#[derive(Debug, Default)]
pub(crate) struct Lines {
    out: Vec<u8>,
    err: Vec<u8>,
}

impl Lines {
    /// Takes a piece and gives each line that is now whole, without its line break.
    pub(crate) fn push(&mut self, stream: Stream, bytes: &[u8], mut line: impl FnMut(&[u8])) {
        let partial = match stream {
            Stream::Stdout => &mut self.out,
            Stream::Stderr => &mut self.err,
        };
        let mut rest = bytes;
        while let Some(end) = rest.iter().position(|b| *b == b'\n') {
            if partial.is_empty() {
                line(&rest[..end]);
            } else {
                partial.extend_from_slice(&rest[..end]);
                line(partial);
                partial.clear();
            }
            rest = &rest[end + 1..];
        }
        partial.extend_from_slice(rest);
        if partial.len() > LONGEST_LINE {
            line(partial);
            partial.clear();
        }
    }

    /// Gives what never got a line break.
    pub(crate) fn finish(&mut self, mut line: impl FnMut(&[u8])) {
        for partial in [&mut self.out, &mut self.err] {
            if !partial.is_empty() {
                line(partial);
                partial.clear();
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pieces_become_lines() {
        let mut lines = Lines::default();
        let mut got = Vec::new();
        let mut take = |line: &[u8]| got.push(String::from_utf8_lossy(line).into_owned());
        lines.push(Stream::Stdout, b"a", &mut take);
        lines.push(Stream::Stderr, b"x\n", &mut take);
        lines.push(Stream::Stdout, b"b\n\nc", &mut take);
        lines.finish(&mut take);
        lines.finish(&mut take);
        assert_eq!(got, ["x", "ab", "", "c"]);
    }
}
