//! Members one after the other.

use std::io::{self, Read};

use super::{
    Fault,
    blocks::{Blocks, Output, Stop},
    input::Input,
};

/// Reads what is in a gzip file: all its members, one after the other. An error of kind `InvalidData` or `UnexpectedEof` is about
/// the file, all others are the reader's.
pub struct Gunzip<R> {
    input: Input<R>,
    blocks: Blocks,
    output: Output,
    part: Part,
    crc: libdeflater::Crc,
    /// Length of the member so far, as its end says it.
    length: u32,
    yielded: u64,
    spacing: u64,
    starts: Vec<Start>,
}

/// Where a member begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Start {
    /// How many bytes the members before it yield.
    pub yielded: u64,
    /// How many bytes of the file are before it.
    pub read: u64,
}

/// What comes next of the input.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Part {
    Header,
    Blocks,
    /// Its checksum and length.
    End,
    /// The member was the last one.
    Nothing,
}

impl<R> std::fmt::Debug for Gunzip<R> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Gunzip({})", self.yielded)
    }
}

impl<R: Read> Gunzip<R> {
    /// Of a reader whose first byte is that of a member. Members are remembered that begin at least `spacing` bytes of output after
    /// the one before that is remembered: a hostile file may have one for every twenty bytes.
    pub fn new(reader: R, spacing: u64) -> Self {
        Self {
            input: Input::new(reader),
            blocks: Blocks::new(),
            output: Output::new(),
            part: Part::Header,
            crc: libdeflater::Crc::new(),
            length: 0,
            yielded: 0,
            spacing,
            starts: Vec::new(),
        }
    }

    /// The members that were remembered so far, and how many bytes of the file were read.
    pub fn into_starts(self) -> (Vec<Start>, u64) {
        let read = self.input.position();
        (self.starts, read)
    }

    fn expect(&mut self) -> io::Result<u8> {
        self.input.byte()?.ok_or_else(|| fault(Fault::Truncated))
    }

    fn number(&mut self, n_bytes: u32) -> io::Result<u32> {
        let mut number = 0;
        for i in 0..n_bytes {
            number |= u32::from(self.expect()?) << (8 * i);
        }
        Ok(number)
    }

    /// Reads the header of a member; whether there was one.
    fn header(&mut self) -> io::Result<bool> {
        let start = self.input.position();
        let Some(first) = self.input.byte()? else {
            return if start == 0 {
                Err(fault(Fault::Truncated))
            } else {
                Ok(false)
            };
        };
        let second = if first == 0x1f {
            self.input.byte()?
        } else {
            None
        };
        if second != Some(0x8b) {
            // Tapes and block devices leave zeros behind; gzip ignores them too.
            let mut is_zeros = start > 0 && first == 0;
            while is_zeros && let Some(byte) = self.input.byte()? {
                is_zeros = byte == 0;
            }
            return if is_zeros {
                Ok(false)
            } else {
                Err(invalid("there are other bytes after the compressed data"))
            };
        }
        let mut header = vec![0x1f, 0x8b];
        for _ in 0..8 {
            header.push(self.expect()?);
        }
        let flags = header[3];
        if header[2] != 8 || flags & 0xe0 != 0 {
            return Err(invalid("the gzip header is not valid"));
        }
        let mut checksum = libdeflater::Crc::new();
        checksum.update(&header);
        if flags & 4 != 0 {
            let length = [self.expect()?, self.expect()?];
            checksum.update(&length);
            for _ in 0..u16::from_le_bytes(length) {
                checksum.update(&[self.expect()?]);
            }
        }
        // A name and a comment, each ending with a zero.
        for flag in [8, 16] {
            let mut is_over = flags & flag == 0;
            while !is_over {
                let byte = self.expect()?;
                checksum.update(&[byte]);
                is_over = byte == 0;
            }
        }
        if flags & 2 != 0 && self.number(2)? != checksum.sum() & 0xffff {
            return Err(invalid("the gzip header is not valid"));
        }
        let yielded = self.yielded;
        let last = self.starts.last();
        if last.is_none_or(|last| yielded - last.yielded >= self.spacing) {
            let read = start;
            self.starts.push(Start { yielded, read });
        }
        self.crc = libdeflater::Crc::new();
        self.length = 0;
        self.output.begin();
        Ok(true)
    }

    /// Compares a member with what it says of itself.
    fn end(&mut self) -> io::Result<()> {
        let (crc, length) = (self.number(4)?, self.number(4)?);
        if (crc, length) != (self.crc.sum(), self.length) {
            return Err(invalid("the compressed data does not have its checksum"));
        }
        Ok(())
    }

    /// Decodes some more of a member.
    fn decode(&mut self) -> io::Result<()> {
        self.output.make_room();
        self.input.fill()?;
        let stop = self.blocks.run(&mut self.input, &mut self.output);
        if stop.map_err(fault)? == Stop::Stream {
            self.part = Part::End;
        }
        Ok(())
    }
}

impl<R: Read> Read for Gunzip<R> {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        if out.is_empty() {
            return Ok(0);
        }
        loop {
            let decoded = self.output.decoded();
            if !decoded.is_empty() {
                let length = decoded.len().min(out.len());
                out[..length].copy_from_slice(&decoded[..length]);
                self.output.give(length);
                self.crc.update(&out[..length]);
                self.length = self.length.wrapping_add(length as u32);
                self.yielded += length as u64;
                return Ok(length);
            }
            match self.part {
                Part::Header => {
                    self.part = if self.header()? {
                        Part::Blocks
                    } else {
                        Part::Nothing
                    };
                }
                Part::Blocks => self.decode()?,
                Part::End => {
                    self.end()?;
                    self.part = Part::Header;
                }
                Part::Nothing => return Ok(0),
            }
        }
    }
}

fn fault(fault: Fault) -> io::Error {
    match fault {
        Fault::Corrupt => invalid("the compressed data is corrupt"),
        Fault::Truncated => io::Error::new(
            io::ErrorKind::UnexpectedEof,
            "the compressed data ends too early",
        ),
    }
}

fn invalid(problem: &'static str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, problem)
}
