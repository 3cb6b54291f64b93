//! What a stream says: a byte, or where to copy some from.
//!
//! A token is a word. From its lowest bit:
//!
//! | bits | what |
//! |---|---|
//! | 9 | a byte, or 253 more than the length of a match, which is 3 to 258 |
//! | 5 | the match's distance symbol; 31 for a byte |
//! | 13 | how far the distance is beyond the symbol's least |
//! | 4 | how many bytes it stands for, as far as the search has looked: 1 for a byte, 4 to 8 for a match |

/// What is added to a match's length.
pub(super) const LENGTH: u32 = 253;
/// Where the distance symbol is.
pub(super) const SYMBOL: u32 = 9;
/// Where the rest of the distance is.
pub(super) const REST: u32 = 14;
/// Where the number of bytes is.
pub(super) const STEP: u32 = 27;
/// The mask of the lowest field.
pub(super) const INDEX: u32 = (1 << SYMBOL) - 1;
/// What tokens of bytes have in common.
pub(super) const BYTE: u32 = (31 << SYMBOL) | (1 << STEP);
/// How many bytes the search looks at.
pub(super) const SEEN: u32 = 8;
/// The shortest match.
pub(super) const SHORTEST: u32 = 4;
/// The longest one.
pub(super) const LONGEST: usize = 258;
/// The farthest distance.
pub(super) const FARTHEST: u32 = 32 << 10;

/// The least distance of each distance symbol, less 1 (RFC 1951, 3.2.5). The last two are not in use.
pub(super) const DISTANCES: [u16; 32] = [
    0, 1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64, 96, 128, 192, 256, 384, 512, 768, 1024, 1536,
    2048, 3072, 4096, 6144, 8192, 12288, 16384, 24576, 0, 0,
];

/// The token of a byte.
pub(super) const fn of_byte(byte: u8) -> u32 {
    byte as u32 | BYTE
}

/// The lowest field: what the code of bytes and lengths is about.
pub(super) const fn index(token: u32) -> usize {
    (token & INDEX) as usize
}

/// The distance symbol.
pub(super) const fn symbol(token: u32) -> usize {
    ((token >> SYMBOL) & 31) as usize
}

/// How far the distance is beyond the symbol's least.
pub(super) const fn rest(token: u32) -> u32 {
    (token >> REST) & ((1 << (STEP - REST)) - 1)
}

/// The distance of a match.
pub(super) const fn distance(token: u32) -> usize {
    DISTANCES[symbol(token)] as usize + rest(token) as usize + 1
}

/// The same match with another length.
pub(super) const fn with_length(token: u32, length: usize) -> u32 {
    (token & !INDEX) | (length as u32 + LENGTH)
}
