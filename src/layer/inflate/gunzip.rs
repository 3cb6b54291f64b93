//! Members one after the other.

use std::io::{self, Read};

use super::{
    super::{decode::record, toc::Member},
    Fault,
    blocks::{Blocks, Output, Stop},
    input::Input,
};

/// Reads what is in a gzip file.
pub(in crate::layer) struct Gunzip<R> {
    input: Input<R>,
    blocks: Blocks,
    output: Output,
    part: Part,
    crc: libdeflater::Crc,
    /// Length of the member so far, as its end says it.
    length: u32,
    yielded: u64,
    members: Vec<Member>,
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

impl<R: Read> Gunzip<R> {
    /// Of a reader whose first byte is that of a member.
    pub(in crate::layer) fn new(reader: R) -> Self {
        Self {
            input: Input::new(reader),
            blocks: Blocks::new(),
            output: Output::new(),
            part: Part::Header,
            crc: libdeflater::Crc::new(),
            length: 0,
            yielded: 0,
            members: Vec::new(),
        }
    }

    /// Where the members begin that were met so far, and how many bytes of the blob were read.
    pub(in crate::layer) fn into_members(self) -> (Vec<Member>, u64) {
        let read = self.input.position();
        (self.members, read)
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
        let member = Member {
            tar_offset: self.yielded,
            blob_offset: start,
            made: None,
        };
        record(&mut self.members, member);
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
