//! Standard output: data for programs and pipes.

use std::{
    fs::{File, OpenOptions},
    io::{self, Write},
    os::unix::fs::OpenOptionsExt as _,
};

use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    fs::{FileType, OFlags, fstat},
    io::Errno,
};

use super::diagnostics::{Failure, Kind};

/// Prints text. A reader that has gone away has read enough.
pub(crate) fn print(text: &str) -> Result<(), Failure> {
    let mut out = io::stdout().lock();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Ok(()) => Ok(()),
        Err(e) if e.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        Err(e) => Err(Failure::new(
            Kind::Machine,
            format!("cannot write to standard output: {e}"),
        )),
    }
}

/// Prints a value as indented JSON.
pub(crate) fn print_json(value: &impl serde::Serialize) -> Result<(), Failure> {
    let text = serde_json::to_string_pretty(value)
        .map_err(|e| Failure::new(Kind::Bug, format!("a result is no JSON: {e}")))?;
    print(&format!("{text}\n"))
}

/// How long a wait for a reader goes on without a look at whether it is still wanted, in nanoseconds.
const PATIENCE: i64 = 100_000_000;
/// Where a pipe or a socket has room at all, it has room for so many bytes (pipe(7)).
const LEAST_ROOM: usize = 4096;

/// Standard output for much data: whoever reads it may take as long as they like, or never do it.
pub(crate) struct Patient<'a> {
    out: io::Stdout,
    /// A pipe, opened once more: whether writing waits is said of it alone then, and not of what others have open.
    pipe: Option<File>,
    /// Whether it may have to be waited for.
    has_reader: bool,
    is_canceled: &'a dyn Fn() -> bool,
}

impl<'a> Patient<'a> {
    /// Data is waited for as long as `is_canceled` says no.
    pub(crate) fn new(is_canceled: &'a dyn Fn() -> bool) -> Self {
        let out = io::stdout();
        let kind = fstat(&out).map(|stat| FileType::from_raw_mode(stat.st_mode));
        let open = || {
            let mut options = OpenOptions::new();
            options
                .write(true)
                .custom_flags(OFlags::NONBLOCK.bits().cast_signed());
            options.open("/proc/self/fd/1").ok()
        };
        Self {
            pipe: (kind == Ok(FileType::Fifo)).then(open).flatten(),
            has_reader: matches!(kind, Ok(FileType::Fifo | FileType::Socket)),
            out,
            is_canceled,
        }
    }

    fn wait(&self) -> io::Result<()> {
        loop {
            let mut fds = [PollFd::new(&self.out, PollFlags::OUT)];
            let patience = Timespec {
                tv_sec: 0,
                tv_nsec: PATIENCE,
            };
            match poll(&mut fds, Some(&patience)) {
                Ok(0) | Err(Errno::INTR) => {}
                Ok(_) => return Ok(()),
                Err(error) => return Err(error.into()),
            }
            if (self.is_canceled)() {
                return Err(io::Error::other("the wait for its reader was given up"));
            }
        }
    }
}

impl Write for Patient<'_> {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        if let Some(mut pipe) = self.pipe.as_ref() {
            loop {
                match pipe.write(buf) {
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => self.wait()?,
                    written => return written,
                }
            }
        }
        if !self.has_reader {
            return self.out.write(buf);
        }
        self.wait()?;
        let n = self.out.write(&buf[..buf.len().min(LEAST_ROOM)])?;
        self.out.flush()?;
        Ok(n)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.out.flush()
    }
}

/// Rows as columns, two spaces apart; the first row is the heading.
pub(crate) fn table<const N: usize>(rows: &[[String; N]]) -> String {
    let mut widths = [0; N];
    for row in rows {
        for (width, cell) in widths.iter_mut().zip(row) {
            *width = (*width).max(cell.chars().count());
        }
    }
    let mut out = String::new();
    for row in rows {
        let mut line = String::new();
        for (width, cell) in widths.iter().zip(row) {
            line.push_str(cell);
            line.extend(std::iter::repeat_n(' ', width + 2 - cell.chars().count()));
        }
        out.push_str(line.trim_end());
        out.push('\n');
    }
    out
}
