//! The walk over a map: which of its tokens the stream has.

use super::{
    PIECE, PIECES,
    search::{Map, Search},
    token::{self, LONGEST, SEEN, SHORTEST, STEP},
};

/// Half a piece, for which a walk of its own is made.
const HALF: usize = PIECE / 2;
/// The shortest match that a stream can have.
const LEAST: usize = 3;

/// The tokens of a block, and how often each of them is used.
pub(super) struct Tokens {
    halves: Vec<Half>,
    in_use: usize,
    pub(super) counts: Counts,
}

/// The tokens of one walk: at most one for each place, and two where the last one was cut.
struct Half {
    tokens: Box<[u32; HALF + LEAST]>,
    length: usize,
}

/// How often the values of the fields are used.
pub(super) struct Counts {
    /// Of bytes and lengths.
    pub(super) indices: [u32; 512],
    /// Of distance symbols.
    pub(super) distances: [u32; 32],
}

impl Counts {
    fn add(&mut self, token: u32) {
        self.indices[token::index(token)] += 1;
        self.distances[token::symbol(token)] += 1;
    }

    fn remove(&mut self, token: u32) {
        self.indices[token::index(token)] -= 1;
        self.distances[token::symbol(token)] -= 1;
    }
}

impl Tokens {
    pub(super) fn new() -> Self {
        let half = || {
            let tokens = vec![0; HALF + LEAST].into_boxed_slice();
            Half {
                tokens: tokens.try_into().expect("it is so long"),
                length: 0,
            }
        };
        Self {
            halves: (0..2 * PIECES).map(|_| half()).collect(),
            in_use: 0,
            counts: Counts {
                indices: [0; 512],
                distances: [0; 32],
            },
        }
    }

    /// Takes the tokens of the block that begins at `start`, and returns where it ends.
    pub(super) fn take_block(&mut self, bytes: &[u8], start: usize, search: &mut Search) -> usize {
        self.counts.indices.fill(0);
        self.counts.distances.fill(0);
        self.in_use = 0;
        let mut place = start;
        for halves in self.halves.chunks_exact_mut(2) {
            let length = PIECE.min(bytes.len() - place);
            if length == 0 {
                break;
            }
            let [first, second] = halves else {
                unreachable!("there are two halves of each piece")
            };
            let map = search.piece(bytes, place, length);
            let piece = Piece {
                bytes,
                start: place,
                map,
            };
            place += walk(&piece, length, first, second, &mut self.counts);
            self.in_use += 2;
        }
        place
    }

    /// The block's tokens, in their order.
    pub(super) fn runs(&self) -> impl Iterator<Item = &[u32]> {
        let halves = self.halves[..self.in_use].iter();
        halves.map(|half| &half.tokens[..half.length])
    }
}

/// What a walk goes over.
struct Piece<'a> {
    bytes: &'a [u8],
    start: usize,
    map: &'a Map,
}

impl Piece<'_> {
    /// The token at a place, and how many bytes it stands for.
    #[inline(always)]
    fn at(&self, place: usize) -> (u32, usize) {
        let found = self.map[place % PIECE];
        let step = found >> STEP;
        if step < SEEN {
            return (found, step as usize);
        }
        let length = extended(self.bytes, self.start + place, token::distance(found));
        (token::with_length(found, length), length)
    }
}

/// Walks over the first so many bytes of a piece, its halves at the same time, and returns where the walk has ended: there, or
/// behind it, where the last match goes on.
fn walk(
    piece: &Piece<'_>,
    length: usize,
    first: &mut Half,
    second: &mut Half,
    counts: &mut Counts,
) -> usize {
    let middle = HALF.min(length);
    let (mut left, mut left_count) = (0, 0);
    let (mut right, mut right_count) = (middle, 0);
    let mut step = |place: &mut usize, half: &mut Half, count: &mut usize| {
        let (token, step) = piece.at(*place);
        half.tokens[*count] = token;
        *count += 1;
        *place += step;
        counts.add(token);
    };
    while left < middle && right < length {
        step(&mut left, first, &mut left_count);
        step(&mut right, second, &mut right_count);
    }
    while left < middle {
        step(&mut left, first, &mut left_count);
    }
    while right < length {
        step(&mut right, second, &mut right_count);
    }
    first.length = left_count;
    second.length = right_count;
    if left > middle {
        let end = piece.start + middle;
        cut(first, left - middle, &piece.bytes[..end], counts);
    }
    right
}

/// Cuts a half's last match, which is so many bytes too long. `bytes` are those up to where it has to end.
fn cut(half: &mut Half, excess: usize, bytes: &[u8], counts: &mut Counts) {
    half.length -= 1;
    let token = half.tokens[half.length];
    counts.remove(token);
    let length = token::index(token) - token::LENGTH as usize - excess;
    let mut push = |token| {
        half.tokens[half.length] = token;
        half.length += 1;
        counts.add(token);
    };
    if length >= LEAST {
        push(token::with_length(token, length));
    } else {
        for &byte in &bytes[bytes.len() - length..] {
            push(token::of_byte(byte));
        }
    }
}

/// The length of a match of which eight bytes are known to be equal.
fn extended(bytes: &[u8], place: usize, distance: usize) -> usize {
    let most = LONGEST.min(bytes.len() - place);
    let here = &bytes[place..place + most];
    let then = &bytes[place - distance..place - distance + most];
    let mut length = SEEN as usize;
    let (here_words, here_rest) = here[length..].as_chunks::<8>();
    let (then_words, then_rest) = then[length..].as_chunks::<8>();
    for (&here, &then) in here_words.iter().zip(then_words) {
        let different = u64::from_le_bytes(here) ^ u64::from_le_bytes(then);
        if different != 0 {
            return length + different.trailing_zeros() as usize / 8;
        }
        length += 8;
    }
    let rest = here_rest.iter().zip(then_rest);
    length + rest.take_while(|(here, then)| here == then).count()
}

const _: () = assert!(SHORTEST as usize >= LEAST && SEEN > SHORTEST);
