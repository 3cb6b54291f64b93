//! Members one after the other, by both threads.

use std::{
    collections::VecDeque,
    io::{self, Read},
    sync::Arc,
};

use super::{
    super::{decode::record, toc::Member},
    Fault,
    blocks::{Blocks, Room, SLACK, Stop, WINDOW},
    helper::{Helper, Run},
    pieces::{PIECE, Pieces},
};

/// How many bytes are decoded before they are given out.
const ROOM: usize = 256 << 10;
/// How many pieces of a member are decoded before the second thread is asked for help.
const ALONE: u64 = 2;
/// How many pieces are read ahead for it.
const AHEAD: usize = 5;

/// Reads what is in a gzip file.
pub(in crate::layer) struct Gunzip<R> {
    input: Pieces<R>,
    blocks: Blocks,
    /// A window, and what was decoded since.
    room: Vec<u8>,
    at: usize,
    oldest: usize,
    /// How much of `room` was given out.
    given: usize,
    /// Bytes of a run, to be given out before what is decoded next.
    run: Vec<u8>,
    run_given: usize,
    part: Part,
    crc: libdeflater::Crc,
    /// Length of the member so far, as its end says it.
    length: u32,
    yielded: u64,
    members: Vec<Member>,
    help: Help,
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

/// What there is of the second thread.
struct Help {
    helper: Option<Helper>,
    is_possible: bool,
    /// The first piece of the member.
    member: u64,
    /// The next piece to ask for.
    next: u64,
    /// The pieces that were asked for, in order, and what came of the first.
    asked: VecDeque<u64>,
    offer: Option<(u64, Run)>,
}

impl<R: Read> Gunzip<R> {
    /// Of a reader whose first byte is that of a member.
    pub(in crate::layer) fn new(reader: R) -> Self {
        let has_cores = std::thread::available_parallelism().is_ok_and(|n| n.get() > 1);
        Self::with(reader, PIECE, has_cores)
    }

    pub(in crate::layer) fn with(reader: R, piece: usize, is_possible: bool) -> Self {
        Self {
            input: Pieces::new(reader, piece),
            blocks: Blocks::new(),
            room: vec![0; WINDOW + ROOM + SLACK],
            at: WINDOW,
            oldest: WINDOW,
            given: WINDOW,
            run: Vec::new(),
            run_given: 0,
            part: Part::Header,
            crc: libdeflater::Crc::new(),
            length: 0,
            yielded: 0,
            members: Vec::new(),
            help: Help {
                helper: None,
                is_possible,
                member: 0,
                next: 0,
                asked: VecDeque::new(),
                offer: None,
            },
        }
    }

    /// Where the members begin that were met so far, and how many bytes of the blob were read.
    pub(in crate::layer) fn into_members(self) -> (Vec<Member>, u64) {
        let read = self.position();
        (self.members, read)
    }

    /// Offset in the input of the next byte.
    fn position(&self) -> u64 {
        self.input.offset() + self.blocks.position().div_ceil(8) as u64
    }

    /// The next byte, which is not part of a block.
    fn byte(&mut self) -> io::Result<Option<u8>> {
        loop {
            let at = self.blocks.position().div_ceil(8);
            let piece = self.input.current()?;
            if at < piece.length {
                let (byte, piece) = (piece.bytes[at], Arc::clone(piece));
                self.blocks.seek(&piece, (at + 1) * 8);
                return Ok(Some(byte));
            }
            if piece.is_last {
                return Ok(None);
            }
            let length = piece.length;
            self.input.advance();
            let piece = Arc::clone(self.input.current()?);
            self.blocks.seek(&piece, (at - length) * 8);
        }
    }

    fn expect(&mut self) -> io::Result<u8> {
        self.byte()?.ok_or_else(|| fault(Fault::Truncated))
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
        let start = self.position();
        let Some(first) = self.byte()? else {
            return if start == 0 {
                Err(fault(Fault::Truncated))
            } else {
                Ok(false)
            };
        };
        let second = if first == 0x1f { self.byte()? } else { None };
        if second != Some(0x8b) {
            // Tapes and block devices leave zeros behind; gzip ignores them too.
            let mut is_zeros = start > 0 && first == 0;
            while is_zeros && let Some(byte) = self.byte()? {
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
        self.oldest = self.at;
        self.help.member = self.input.number();
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

    /// Decodes some more of a member, or takes a run.
    fn decode(&mut self) -> io::Result<()> {
        self.ask_for_help();
        if self.blocks.is_between_blocks() && self.take_run()? {
            return Ok(());
        }
        if self.at >= self.room.len() - SLACK {
            self.room.copy_within(self.at - WINDOW..self.at, 0);
            self.oldest = self.oldest.saturating_sub(self.at - WINDOW);
            (self.at, self.given) = (WINDOW, WINDOW);
        }
        let piece = Arc::clone(self.input.current()?);
        let mut room = Room {
            symbols: &mut self.room[..],
            at: self.at,
            oldest: self.oldest,
        };
        let stop = self.blocks.run(&piece, &mut room);
        self.at = room.at;
        match stop.map_err(fault)? {
            Stop::Input => {
                self.input.advance();
                self.input.current()?;
                self.blocks.next_piece(piece.length);
            }
            Stop::Stream => {
                self.part = Part::End;
                self.forget_help();
            }
            Stop::Block | Stop::Room => {}
        }
        Ok(())
    }

    /// At the end of a block: takes a run that begins here, if there is one.
    fn take_run(&mut self) -> io::Result<bool> {
        let here = self.blocks.position();
        let length = self.input.current()?.length;
        // Decoding may be some bytes into the piece after the current one.
        let number = self.input.number() + u64::from(here >= length * 8);
        let bit = if here < length * 8 {
            here
        } else {
            here - length * 8
        };
        let Some(helper) = &self.help.helper else {
            return Ok(false);
        };
        while let Some(&asked) = self.help.asked.front()
            && asked <= number
        {
            self.help.asked.pop_front();
            let taken = helper.take(asked);
            if let Some((_, old)) = self.help.offer.take() {
                helper.give_back(old);
            }
            self.help.offer = taken.map(|run| (asked, run));
        }
        match &self.help.offer {
            Some((of, run)) if *of == number && run.start > bit => return Ok(false),
            Some((of, run)) if *of == number && run.start == bit => {
                // Before the beginning of the member there is nothing to copy from.
                let known = self.at - self.oldest;
                if known < WINDOW && run.reaches_back() > known {
                    return Err(fault(Fault::Corrupt));
                }
            }
            Some(_) | None => {
                if let Some((_, run)) = self.help.offer.take() {
                    helper.give_back(run);
                }
                return Ok(false);
            }
        }
        let Some((_, run)) = self.help.offer.take() else {
            return Ok(false);
        };
        let known = self.at.saturating_sub(self.oldest).min(WINDOW);
        self.run.clear();
        self.run_given = 0;
        run.resolve(&self.room[self.at - known..self.at], &mut self.run);
        let end = run.end;
        helper.give_back(run);
        // The window moves on.
        let new = self.run.len().min(WINDOW);
        self.room.copy_within(self.at - (WINDOW - new)..self.at, 0);
        self.room[WINDOW - new..WINDOW].copy_from_slice(&self.run[self.run.len() - new..]);
        self.oldest = WINDOW - (known + new).min(WINDOW);
        (self.at, self.given) = (WINDOW, WINDOW);
        if number > self.input.number() {
            self.input.advance();
        }
        let mut bit = end;
        let mut piece = Arc::clone(self.input.current()?);
        if bit >= piece.length * 8 && !piece.is_last {
            bit -= piece.length * 8;
            self.input.advance();
            piece = Arc::clone(self.input.current()?);
        }
        self.blocks.seek(&piece, bit);
        Ok(true)
    }

    /// Has further pieces decoded, if the member is a long one.
    fn ask_for_help(&mut self) {
        let help = &mut self.help;
        let now = self.input.number();
        if !help.is_possible || now < help.member + ALONE {
            return;
        }
        if help.helper.is_none() {
            help.helper = Helper::start();
            help.is_possible = help.helper.is_some();
            help.next = now + 1;
        }
        let Some(helper) = &help.helper else {
            return;
        };
        self.input.read_up_to(AHEAD);
        help.next = help.next.max(now + 1);
        while help.next < now + AHEAD as u64 - 1
            && let Some(pieces) = self.input.pair(help.next)
        {
            helper.ask(help.next, pieces);
            help.asked.push_back(help.next);
            help.next += 2;
        }
    }

    /// What was asked for is of no use any longer.
    fn forget_help(&mut self) {
        let Some(helper) = &self.help.helper else {
            return;
        };
        while let Some(asked) = self.help.asked.pop_front() {
            if let Some(run) = helper.take(asked) {
                helper.give_back(run);
            }
        }
        if let Some((_, run)) = self.help.offer.take() {
            helper.give_back(run);
        }
        self.help.next = 0;
    }
}

impl<R: Read> Read for Gunzip<R> {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        if out.is_empty() {
            return Ok(0);
        }
        loop {
            let is_run = self.run_given < self.run.len();
            let there = if is_run {
                &self.run[self.run_given..]
            } else {
                &self.room[self.given..self.at]
            };
            if !there.is_empty() {
                let length = there.len().min(out.len());
                out[..length].copy_from_slice(&there[..length]);
                self.crc.update(&out[..length]);
                self.length = self.length.wrapping_add(length as u32);
                self.yielded += length as u64;
                if is_run {
                    self.run_given += length;
                } else {
                    self.given += length;
                }
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
