//! For each place of a piece, the token that would begin there.

use super::{
    PIECE,
    token::{self, BYTE, FARTHEST, INDEX, LENGTH, REST, SEEN, SHORTEST, STEP, SYMBOL},
};

/// How many bits a hash has.
pub(super) const HASH_BITS: u32 = 15;
/// What the first four bytes of a place are multiplied with for their hash.
pub(super) const FACTOR: u32 = 0x9E37_79B1;
/// So many places look into the table before they are put there.
pub(super) const GROUP: usize = 16;
/// So many bytes have to be there for a group: what its last place looks at.
pub(super) const GROUP_BYTES: usize = GROUP + SEEN as usize;

/// The last place of each hash.
pub(super) type Heads = [u32; 1 << HASH_BITS];
/// Tokens.
pub(super) type Map = [u32; PIECE];

/// What does the search on this processor.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Means {
    Portable,
    #[cfg(target_arch = "x86_64")]
    Avx2(super::wide::Avx2),
    #[cfg(target_arch = "x86_64")]
    Avx512(super::wide::Avx512),
}

impl Means {
    /// All that this processor can, the best one first.
    pub(super) fn all() -> Vec<Self> {
        #[cfg(target_arch = "x86_64")]
        let wide = [
            super::wide::Avx512::get().map(Self::Avx512),
            super::wide::Avx2::get().map(Self::Avx2),
        ];
        #[cfg(not(target_arch = "x86_64"))]
        let wide = [None; 0];
        wide.into_iter().flatten().chain([Self::Portable]).collect()
    }
}

/// The search, and what it has seen.
pub(super) struct Search {
    means: Means,
    heads: Box<Heads>,
    /// Where the last search ended: all heads are before it, or the first place.
    end: usize,
    map: Box<Map>,
}

impl Search {
    /// With the best means.
    pub(super) fn new() -> Self {
        Self::by(Means::all()[0])
    }

    pub(super) fn by(means: Means) -> Self {
        Self {
            means,
            heads: boxed(),
            end: 0,
            map: boxed(),
        }
    }

    /// Begins anew: all hashes have the first place.
    pub(super) fn forget(&mut self) {
        self.heads.fill(0);
        self.end = 0;
    }

    /// The tokens of so many bytes from a place on, at most of a piece. The last bytes of all are not searched.
    ///
    /// # Panics
    ///
    /// If the place is before one that was searched since the last [`Self::forget`].
    pub(super) fn piece(&mut self, bytes: &[u8], start: usize, length: usize) -> &Map {
        let seen = (bytes.len() - start).saturating_sub(SEEN as usize);
        let (map, rest) = self.map[..length].split_at_mut(seen.min(length) / GROUP * GROUP);
        let heads = &mut self.heads;
        // What `wide.rs` loads by address lies in `bytes` for this reason.
        assert!(start >= self.end, "places are searched in their order");
        if !map.is_empty() {
            self.end = start + map.len();
            match self.means {
                Means::Portable => portable(heads, map, bytes, start),
                #[cfg(target_arch = "x86_64")]
                Means::Avx2(can) => can.search(heads, map, bytes, start),
                #[cfg(target_arch = "x86_64")]
                Means::Avx512(can) => can.search(heads, map, bytes, start),
            }
        }
        let searched = map.len();
        for (token, &byte) in rest.iter_mut().zip(&bytes[start + searched..]) {
            *token = token::of_byte(byte);
        }
        &self.map
    }
}

fn boxed<const N: usize>() -> Box<[u32; N]> {
    let zeros = vec![0; N].into_boxed_slice();
    zeros.try_into().expect("it is so long")
}

/// The search as plain code. `map` is of whole groups, and [`SEEN`] bytes are behind it.
#[inline(always)]
pub(super) fn portable(heads: &mut Heads, map: &mut [u32], bytes: &[u8], start: usize) {
    let places = &bytes[start..start + map.len() + SEEN as usize];
    look(heads, map, places, bytes, start as u32);
    let places = &places[..map.len()];
    tokens(map, places);
    prefer_next(map, places);
}

/// For each place, how many bits are equal, above 24 bits of distance less 1.
#[inline(always)]
fn look(heads: &mut Heads, map: &mut [u32], places: &[u8], bytes: &[u8], start: u32) {
    let mut first = start;
    let groups = places.windows(GROUP_BYTES).step_by(GROUP);
    for (found, group) in map.chunks_exact_mut(GROUP).zip(groups) {
        let mut hashes = [0; GROUP];
        let mut candidates = [0; GROUP];
        for place in 0..GROUP {
            let four = [
                group[place],
                group[place + 1],
                group[place + 2],
                group[place + 3],
            ];
            let hash = u32::from_le_bytes(four).wrapping_mul(FACTOR) >> (32 - HASH_BITS);
            hashes[place] = hash as u16;
            candidates[place] = heads[hash as usize];
        }
        for place in 0..GROUP {
            heads[usize::from(hashes[place]) % heads.len()] = first + place as u32;
        }
        for place in 0..GROUP {
            let equal =
                (eight(group, place) ^ eight(bytes, candidates[place] as usize)).trailing_zeros();
            let distance = (first + place as u32).wrapping_sub(candidates[place]);
            found[place] = (equal << 24) | (distance.wrapping_sub(1) & 0xff_ffff);
        }
        first += GROUP as u32;
    }
}

/// Makes tokens of what was found.
#[inline(always)]
fn tokens(map: &mut [u32], places: &[u8]) {
    for (token, &byte) in map.iter_mut().zip(places) {
        let distance = *token & 0xff_ffff;
        let length = *token >> 27;
        // As a float, a distance is its power of two and the bit below: two symbols per power.
        let coarse = (distance as i32 as f32).to_bits() & 0xffc0_0000;
        let symbol = ((coarse >> 22) as i32 - 254).max(i32::from(distance != 0)) as u32;
        // As a number again: added to 2²³, it is the float's fraction. A conversion would ask whether it fits.
        let least = (f32::from_bits(coarse) + 8_388_608.0).to_bits() & 0x7f_ffff;
        let rest = distance.wrapping_sub(least);
        let is_match = (distance < FARTHEST) & (length >= SHORTEST);
        let matching = (length + LENGTH) | (symbol << SYMBOL) | (rest << REST) | (length << STEP);
        *token = if is_match {
            matching
        } else {
            u32::from(byte) | BYTE
        };
    }
}

/// Makes a byte of a match where the next place has a longer one.
#[inline(always)]
fn prefer_next(map: &mut [u32], places: &[u8]) {
    for place in 0..map.len().saturating_sub(1) {
        let (token, next) = (map[place], map[place + 1]);
        let byte = u32::from(places[place]) | BYTE;
        map[place] = if next & INDEX > token & INDEX {
            byte
        } else {
            token
        };
    }
}

#[inline(always)]
fn eight(bytes: &[u8], place: usize) -> u64 {
    let word = bytes[place..place + 8].try_into();
    u64::from_le_bytes(word.expect("they are eight"))
}
