//! Bits, lowest first, as bytes.

/// How many bytes beyond the last one are written to.
pub(super) const SLACK: usize = 8;
/// How many bits can be added before they have to be flushed.
pub(super) const MOST: u32 = 48;

/// A code: its bits are the highest ones, and the lowest byte says how many they are. So adding one is a shift and an `or`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Code(pub(super) u64);

impl Code {
    /// The lowest `length` bits, at most [`MOST`].
    #[inline(always)]
    pub(super) const fn new(bits: u32, length: u32) -> Self {
        // Two shifts, since one by 64 is none.
        Self((bits as u64) << 1 << (63 - length) | length as u64)
    }

    pub(super) const fn length(self) -> u32 {
        (self.0 & 0xff) as u32
    }

    /// This code, and behind it `more` bits.
    pub(super) const fn and(self, bits: u32, more: u32) -> Self {
        let length = self.length();
        let own = (self.0 >> 8 << 8) >> more;
        Self(own | (bits as u64) << 1 << (63 - more) | (length + more) as u64)
    }

    /// This code if `is_wanted`, otherwise no bits.
    #[inline(always)]
    pub(super) const fn only_if(self, is_wanted: bool) -> Self {
        Self(self.0 & (is_wanted as u64).wrapping_neg())
    }
}

/// Writes bits.
pub(super) struct Bits<'a> {
    room: &'a mut [u8],
    at: usize,
    /// The highest bits are still to be written. What is below is of no meaning.
    waiting: u64,
    /// How many they are, in its lowest six bits.
    count: u64,
}

impl<'a> Bits<'a> {
    pub(super) const fn new(room: &'a mut [u8]) -> Self {
        Self {
            room,
            at: 0,
            waiting: 0,
            count: 0,
        }
    }

    /// Writes by a copy of this that lives in registers.
    #[inline(always)]
    pub(super) fn quickly(&mut self, write: impl FnOnce(&mut Bits<'_>)) {
        let mut copy = Bits {
            room: &mut *self.room,
            ..*self
        };
        write(&mut copy);
        (self.at, self.waiting, self.count) = (copy.at, copy.waiting, copy.count);
    }

    /// Adds a code. At most [`MOST`] bits may be added between two flushes.
    #[inline(always)]
    pub(super) const fn add(&mut self, Code(code): Code) {
        self.waiting = self.waiting >> (code & 63) | code;
        // What the code's bits add to it is above the lowest byte.
        self.count = self.count.wrapping_add(code);
    }

    /// Writes whole bytes; up to seven bits are left.
    #[inline(always)]
    pub(super) fn flush(&mut self) {
        let count = self.count & 63;
        debug_assert!(
            count <= u64::from(MOST) + 7,
            "more than can be added at once"
        );
        let bytes = self.waiting >> 1 >> (63 - count);
        let room = self.room[self.at..].first_chunk_mut();
        *room.expect("the room has some bytes more") = bytes.to_le_bytes();
        self.at += (count >> 3) as usize;
        self.count = count & 7;
    }

    /// Goes on at the next whole byte.
    pub(super) fn align(&mut self) {
        self.flush();
        self.at += usize::from(self.count > 0);
        (self.waiting, self.count) = (0, 0);
    }

    /// Adds bytes, at a whole byte.
    pub(super) fn bytes(&mut self, bytes: &[u8]) {
        self.room[self.at..self.at + bytes.len()].copy_from_slice(bytes);
        self.at += bytes.len();
    }

    /// How many bytes were written, the last one filled up.
    pub(super) fn finish(mut self) -> usize {
        self.align();
        self.at
    }
}
