//! Codes of a block as tables for looking symbols up.
//!
//! An entry tells all that is done with a symbol: bits 0 to 7 how many bits are taken, those for a length or distance included, 8 to
//! 12 how many of these are the code, 16 to 30 a literal, or a length or distance to which the further bits are added. Codes
//! longer than a table's index go on in a second table: there 16 to 30 are where, and 0 to 7 how many further bits its index has.

use super::Fault;

/// Index of the first table of literals and lengths.
pub(super) const LITLEN_BITS: u32 = 11;
/// Index of the first table of distances.
pub(super) const DIST_BITS: u32 = 9;

/// The symbol is a byte.
pub(super) const LITERAL: u32 = 1 << 31;
/// It is the end of the block, in a second table, or not there.
pub(super) const SPECIAL: u32 = 1 << 15;
/// It is in a second table.
pub(super) const FURTHER: u32 = 1 << 14;
/// It is the end of the block.
pub(super) const END: u32 = 1 << 13;

const LENGTHS: [u32; 29] = [
    3, 4, 5, 6, 7, 8, 9, 10, 11, 13, 15, 17, 19, 23, 27, 31, 35, 43, 51, 59, 67, 83, 99, 115, 131,
    163, 195, 227, 258,
];
const LENGTH_BITS: [u32; 29] = [
    0, 0, 0, 0, 0, 0, 0, 0, 1, 1, 1, 1, 2, 2, 2, 2, 3, 3, 3, 3, 4, 4, 4, 4, 5, 5, 5, 5, 0,
];
const DISTANCES: [u32; 30] = [
    1, 2, 3, 4, 5, 7, 9, 13, 17, 25, 33, 49, 65, 97, 129, 193, 257, 385, 513, 769, 1025, 1537,
    2049, 3073, 4097, 6145, 8193, 12289, 16385, 24577,
];

/// Both codes of a block.
pub(super) struct Tables {
    pub(super) litlen: Box<[u32; 1 << LITLEN_BITS]>,
    pub(super) litlen_further: Vec<u32>,
    pub(super) dist: Box<[u32; 1 << DIST_BITS]>,
    pub(super) dist_further: Vec<u32>,
}

impl Tables {
    pub(super) fn new() -> Self {
        Self {
            litlen: Box::new([SPECIAL; 1 << LITLEN_BITS]),
            litlen_further: Vec::new(),
            dist: Box::new([SPECIAL; 1 << DIST_BITS]),
            dist_further: Vec::new(),
        }
    }

    /// Takes the lengths of codes.
    pub(super) fn set(&mut self, litlen: &[u8], dist: &[u8]) -> Result<(), Fault> {
        let further = &mut self.litlen_further;
        fill(
            litlen,
            LITLEN_BITS,
            &mut self.litlen[..],
            further,
            litlen_entry,
        )?;
        let further = &mut self.dist_further;
        fill(dist, DIST_BITS, &mut self.dist[..], further, dist_entry)
    }
}

fn litlen_entry(symbol: usize, bits: u32) -> u32 {
    match symbol {
        0..=255 => LITERAL | (symbol as u32) << 16 | bits << 8 | bits,
        256 => SPECIAL | END | bits << 8 | bits,
        257..=285 => LENGTHS[symbol - 257] << 16 | bits << 8 | (bits + LENGTH_BITS[symbol - 257]),
        _ => SPECIAL,
    }
}

fn dist_entry(symbol: usize, bits: u32) -> u32 {
    DISTANCES.get(symbol).map_or(SPECIAL, |base| {
        let further = (symbol as u32 / 2).saturating_sub(1);
        base << 16 | bits << 8 | (bits + further)
    })
}

/// The code that lengths of codes are written in, by its next seven bits: symbol and number of bits. It has to be complete.
pub(super) fn code_lengths(lengths: &[u8; 19]) -> Result<[(u8, u8); 128], Fault> {
    let mut table = [(0, 0); 128];
    let (mut code, mut used) = (0_u32, 0);
    for bits in 1..=7_u8 {
        for (symbol, _) in (0..).zip(lengths).filter(|(_, length)| **length == bits) {
            used += 128_usize >> bits;
            if used > 128 {
                return Err(Fault::Corrupt);
            }
            let mut index = (code.reverse_bits() >> (32 - bits)) as usize;
            while index < 128 {
                table[index] = (symbol, bits);
                index += 1 << bits;
            }
            code += 1;
        }
        code <<= 1;
    }
    if used == 128 {
        Ok(table)
    } else {
        Err(Fault::Corrupt)
    }
}

/// Makes tables of a code. As in zlib, it has to be complete unless it has a single symbol, of one bit, or none.
fn fill(
    lengths: &[u8],
    bits: u32,
    table: &mut [u32],
    further: &mut Vec<u32>,
    entry: fn(usize, u32) -> u32,
) -> Result<(), Fault> {
    let mut counts = [0_u16; 16];
    for &length in lengths {
        counts[usize::from(length)] += 1;
    }
    counts[0] = 0;
    let longest = (1..16)
        .rev()
        .find(|&length| counts[length] > 0)
        .unwrap_or(0);
    let mut room = 1_i32;
    for &count in &counts[1..] {
        room = 2 * room - i32::from(count);
        if room < 0 {
            return Err(Fault::Corrupt);
        }
    }
    further.clear();
    if room > 0 && longest > 1 {
        return Err(Fault::Corrupt);
    }
    let mut places = [0_u16; 17];
    for length in 1..16 {
        places[length + 1] = places[length] + counts[length];
    }
    let n_symbols = usize::from(places[16]);
    let mut sorted = [0_u16; 288];
    for (symbol, &length) in (0..).zip(lengths).filter(|(_, length)| **length > 0) {
        let place = &mut places[usize::from(length)];
        sorted[usize::from(*place)] = symbol;
        *place += 1;
    }
    let (mut code, mut code_bits) = (0_u32, 0);
    // As long as codes are shorter than an index, what is here of the table repeats. What no code has been put to is put to by a
    // longer one, unless there is none.
    let mut filled = 1;
    table[0] = SPECIAL;
    let mut double_up_to = |table: &mut [u32], length: u32| {
        while filled < 1 << length {
            table.copy_within(..filled, filled);
            filled *= 2;
        }
    };
    let (mut prefix, mut start, mut index_bits) = (usize::MAX, 0, 0);
    for place in 0..n_symbols {
        let symbol = usize::from(sorted[place]);
        let length = u32::from(lengths[symbol]);
        code <<= length - code_bits;
        code_bits = length;
        let reversed = (code.reverse_bits() >> (32 - length)) as usize;
        code += 1;
        let value = entry(symbol, length);
        double_up_to(table, length.min(bits));
        if length <= bits {
            table[reversed] = value;
            continue;
        }
        if reversed & ((1 << bits) - 1) != prefix {
            prefix = reversed & ((1 << bits) - 1);
            // As large as the codes with this prefix need, of which this is the shortest.
            index_bits = length - bits;
            let mut longer = length as usize;
            let same = sorted[place..n_symbols].iter();
            let same =
                same.take_while(|&&symbol| u32::from(lengths[usize::from(symbol)]) == length);
            let mut room = (1 << index_bits) - i32::try_from(same.count()).unwrap_or(i32::MAX);
            while room > 0 && longer < longest {
                longer += 1;
                index_bits += 1;
                room = 2 * room - i32::from(counts[longer]);
            }
            start = further.len();
            further.resize(start + (1 << index_bits), SPECIAL);
            table[prefix] = SPECIAL | FURTHER | (start as u32) << 16 | index_bits;
        }
        let slots = &mut further[start..start + (1 << index_bits)];
        for slot in slots[reversed >> bits..]
            .iter_mut()
            .step_by(1 << (length - bits))
        {
            *slot = value;
        }
    }
    double_up_to(table, bits);
    Ok(())
}
