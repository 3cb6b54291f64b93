//! Lengths of Huffman codes, and the codes.

use super::bits::Code;

/// As many symbols as any alphabet here has.
const MOST_SYMBOLS: usize = 288;
const SYMBOL_BITS: u32 = 16;

/// Lengths of codes for symbols that occur so often, none above `most`; 0 for a symbol that does not occur. At least two symbols have a
/// code: readers disagree about codes with fewer.
pub(super) fn lengths<const N: usize>(counts: &[u32; N], most: usize) -> [u8; N] {
    let mut lengths = [0; N];
    // A count, and below it the symbol, so that equal counts have an order.
    let mut leaves = [0; N];
    let mut n = 0;
    for (symbol, &count) in counts.iter().enumerate() {
        if count > 0 {
            leaves[n] = u64::from(count) << SYMBOL_BITS | symbol as u64;
            n += 1;
        }
    }
    let leaves = &mut leaves[..n];
    if n < 2 {
        let symbol = leaves.first().map_or(0, |&leaf| symbol_of(leaf));
        lengths[symbol] = 1;
        lengths[usize::from(symbol == 0)] = 1;
        return lengths;
    }
    leaves.sort_unstable();

    let mut per_length = depths(leaves);
    limit(&mut per_length, most);
    let mut rarest = leaves.iter();
    for length in (1..=most).rev() {
        for &leaf in rarest.by_ref().take(per_length[length] as usize) {
            lengths[symbol_of(leaf)] = length as u8;
        }
    }
    lengths
}

const fn symbol_of(leaf: u64) -> usize {
    (leaf % (1 << SYMBOL_BITS)) as usize
}

/// How many leaves of the Huffman tree are at each depth.
fn depths(leaves: &[u64]) -> [u32; MOST_SYMBOLS] {
    // The leaves, then the nodes in the order in which they are made, which is that of their weights.
    let mut weights = [0; 2 * MOST_SYMBOLS];
    let mut parents = [0_u16; 2 * MOST_SYMBOLS];
    let n = leaves.len();
    for (weight, &leaf) in weights.iter_mut().zip(leaves) {
        *weight = (leaf >> SYMBOL_BITS) as u32;
    }
    let (mut leaf, mut node) = (0, n);
    for made in n..2 * n - 1 {
        for _ in 0..2 {
            let is_leaf = leaf < n && (node == made || weights[leaf] <= weights[node]);
            let lightest = if is_leaf { &mut leaf } else { &mut node };
            weights[made] += weights[*lightest];
            parents[*lightest] = made as u16;
            *lightest += 1;
        }
    }
    let mut depth = [0_u8; 2 * MOST_SYMBOLS];
    let mut per_length = [0; MOST_SYMBOLS];
    for node in (0..2 * n - 2).rev() {
        depth[node] = depth[usize::from(parents[node])] + 1;
        if node < n {
            per_length[usize::from(depth[node])] += 1;
        }
    }
    per_length
}

/// Moves leaves that are deeper than `most` up to there, and others down until the code is one again.
fn limit(per_length: &mut [u32; MOST_SYMBOLS], most: usize) {
    let too_deep: u32 = per_length[most + 1..].iter().sum();
    per_length[most] += too_deep;
    // In units of the longest codes.
    let mut used: u32 = (1..=most).map(|l| per_length[l] << (most - l)).sum();
    while used > 1 << most {
        let shorter = (1..most).rev().find(|&l| per_length[l] > 0);
        let shorter = shorter.expect("all codes of the longest length would be few enough");
        // One of the longest becomes the sibling of a shorter one, which goes a step down.
        per_length[most] -= 1;
        per_length[shorter] -= 1;
        per_length[shorter + 1] += 2;
        used -= 1;
    }
}

/// The canonical codes (RFC 1951, 3.2.2), first bit lowest.
pub(super) fn codes<const N: usize>(lengths: &[u8; N]) -> [Code; N] {
    let mut next = [0_u32; 17];
    for &length in lengths {
        next[usize::from(length) + 1] += u32::from(length > 0);
    }
    for length in 1..16 {
        next[length + 1] = (next[length + 1] + next[length]) << 1;
    }
    lengths.map(|length| {
        if length == 0 {
            return Code::default();
        }
        let next = &mut next[usize::from(length)];
        let bits = next.reverse_bits() >> (32 - u32::from(length));
        *next += 1;
        Code::new(bits, u32::from(length))
    })
}
