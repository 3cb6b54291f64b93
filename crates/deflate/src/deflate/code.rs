//! Codes by use (RFC 1951, 3.2.2).

/// The most symbols that a code has.
const MOST: usize = 288;
/// The longest code word of all codes.
const LONGEST: usize = 15;

/// How long the code word of each symbol is: none for symbols that are not used, and none longer than `limit`. At least two symbols have
/// one, since readers differ in what they make of less.
///
/// `counts` are below 2¹⁶.
pub(super) fn lengths(counts: &[u32], limit: usize, lengths: &mut [u8]) {
    lengths.fill(0);
    let mut used = [(0, 0); MOST];
    let used = sorted(counts, &mut used);
    let mut number = depths(used);
    // Words that are too long become as long as they may be. That is too many words, and for each one that is too many
    // a shorter word becomes longer.
    let too_long: usize = number[limit + 1..].iter().sum();
    number[limit + 1..].fill(0);
    number[limit] += too_long;
    let room = 1_usize << limit;
    let mut taken: usize = (1..=limit)
        .map(|length| number[length] << (limit - length))
        .sum();
    while taken > room {
        let shorter = (1..limit).rev().find(|&length| number[length] > 0);
        let shorter = shorter.expect("not all words are of the greatest length");
        number[shorter] -= 1;
        number[shorter + 1] += 2;
        number[limit] -= 1;
        taken -= 1;
    }
    let mut rarest = used.iter();
    for length in (1..=limit).rev() {
        for &(_, symbol) in rarest.by_ref().take(number[length]) {
            lengths[usize::from(symbol)] = length as u8;
        }
    }
}

/// The code words for their lengths, first bit lowest.
pub(super) fn words<const N: usize>(lengths: &[u8; N]) -> [u16; N] {
    let mut number = [0_u16; LONGEST + 1];
    for &length in lengths {
        number[usize::from(length)] += 1;
    }
    number[0] = 0;
    let mut next = [0_u16; LONGEST + 1];
    for length in 1..=LONGEST {
        next[length] = (next[length - 1] + number[length - 1]) << 1;
    }
    lengths.map(|length| {
        if length == 0 {
            return 0;
        }
        let word = next[usize::from(length)];
        next[usize::from(length)] += 1;
        word.reverse_bits() >> (16 - u16::from(length))
    })
}

/// The symbols that are used, with their counts, the rarest first, and among equals by their number.
fn sorted<'a>(counts: &[u32], room: &'a mut [(u32, u16); MOST]) -> &'a [(u32, u16)] {
    let mut other = [(0, 0); MOST];
    let mut length = 0;
    let missing = 2_usize.saturating_sub(counts.iter().filter(|&&count| count > 0).count());
    let mut added = 0;
    for (symbol, &count) in counts.iter().enumerate() {
        let stands_in = count == 0 && added < missing;
        added += usize::from(stands_in);
        room[length] = (count.max(u32::from(stands_in)), symbol as u16);
        length += usize::from(count > 0 || stands_in);
    }
    by_byte(&room[..length], &mut other, 0);
    by_byte(&other[..length], room, 8);
    &room[..length]
}

/// Sorts by one byte of the count, and leaves equals in their order.
fn by_byte(from: &[(u32, u16)], to: &mut [(u32, u16); MOST], shift: u32) {
    let mut place = [0_usize; 256];
    let byte = |count: u32| ((count >> shift) & 0xff) as usize;
    for &(count, _) in from {
        place[byte(count)] += 1;
    }
    let mut sum = 0;
    for place in &mut place {
        (*place, sum) = (sum, sum + *place);
    }
    for &item in from {
        let place = &mut place[byte(item.0)];
        to[*place] = item;
        *place += 1;
    }
}

/// How many words there are of each length, in the code that is best without a limit. There are at least two symbols.
fn depths(used: &[(u32, u16)]) -> [usize; 64] {
    const NODES: usize = 2 * MOST;
    let leaves = used.len();
    // Nodes are made with ever greater weights: the lightest one is the first of those left, or the first leaf left.
    let mut weights = [u32::MAX; NODES];
    let mut parents = [0_u16; NODES];
    let (mut leaf, mut inner) = (0, leaves);
    for (weight, &(count, _)) in weights.iter_mut().zip(used) {
        *weight = count;
    }
    let nodes = 2 * leaves - 1;
    for node in leaves..nodes {
        let mut weight = 0;
        for _ in 0..2 {
            let leaf_weight = if leaf < leaves {
                weights[leaf]
            } else {
                u32::MAX
            };
            let takes_leaf = leaf_weight <= weights[inner];
            let child = if takes_leaf { leaf } else { inner };
            weight += weights[child];
            parents[child] = node as u16;
            leaf += usize::from(takes_leaf);
            inner += usize::from(!takes_leaf);
        }
        weights[node] = weight;
    }
    let mut depths = [0_u8; NODES];
    let mut number = [0; 64];
    for node in (0..nodes - 1).rev() {
        let depth = depths[usize::from(parents[node])] + 1;
        depths[node] = depth;
        number[usize::from(depth)] += usize::from(node < leaves);
    }
    number
}
