//! As much of DER (X.690) as it takes to give the key of an old EC file the form that is read, PKCS #8.

/// One value: its tag, what is in it, and what follows.
pub(super) fn value(bytes: &[u8]) -> Option<(u8, &[u8], &[u8])> {
    let (&[tag, first], rest) = bytes.split_first_chunk::<2>()?;
    let (length, rest) = match first {
        0..=0x7f => (usize::from(first), rest),
        0x81 => (usize::from(*rest.first()?), &rest[1..]),
        0x82 => {
            let (length, rest) = rest.split_first_chunk::<2>()?;
            (usize::from(u16::from_be_bytes(*length)), rest)
        }
        _ => return None,
    };
    let (content, rest) = rest.split_at_checked(length)?;
    Some((tag, content, rest))
}

/// A value of less than 64 kilobytes.
pub(super) fn put(out: &mut Vec<u8>, tag: u8, content: &[u8]) {
    out.push(tag);
    let length = u16::try_from(content.len()).expect("a key is short");
    let [high, low] = length.to_be_bytes();
    match (high, low) {
        (0, 0..=0x7f) => out.push(low),
        (0, _) => out.extend([0x81, low]),
        _ => out.extend([0x82, high, low]),
    }
    out.extend(content);
}

const INTEGER: u8 = 0x02;
const OCTETS: u8 = 0x04;
const OBJECT: u8 = 0x06;
const SEQUENCE: u8 = 0x30;
/// The curve in an EC key of its own: `[0]`.
const PARAMETERS: u8 = 0xa0;
/// `id-ecPublicKey`.
const EC: [u8; 7] = [0x2a, 0x86, 0x48, 0xce, 0x3d, 0x02, 0x01];

/// The same key as PKCS #8 (RFC 5958), of an `ECPrivateKey` (RFC 5915) that names its curve.
pub(super) fn ec_as_pkcs8(key: &[u8]) -> Option<Vec<u8>> {
    let (SEQUENCE, mut rest, _) = value(key)? else {
        return None;
    };
    let curve = loop {
        match value(rest)? {
            (PARAMETERS, curve, _) => break curve,
            (.., after) => rest = after,
        }
    };
    let mut algorithm = Vec::new();
    put(&mut algorithm, OBJECT, &EC);
    algorithm.extend(curve);
    // The curve stands outside now; the one that reads it wants it there alone.
    let mut inner = Vec::new();
    let mut rest = value(key)?.1;
    while !rest.is_empty() {
        let (tag, content, after) = value(rest)?;
        if tag != PARAMETERS {
            put(&mut inner, tag, content);
        }
        rest = after;
    }
    let mut private = Vec::new();
    put(&mut private, SEQUENCE, &inner);
    let mut all = Vec::new();
    put(&mut all, INTEGER, &[0]);
    put(&mut all, SEQUENCE, &algorithm);
    put(&mut all, OCTETS, &private);
    let mut out = Vec::new();
    put(&mut out, SEQUENCE, &all);
    Some(out)
}
