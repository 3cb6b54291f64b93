//! The data types of SSH (RFC 4251, section 5).

/// Reads one value after the other; nothing where there is no such value.
pub(super) struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    pub(super) fn new(bytes: &'a [u8]) -> Self {
        Self(bytes)
    }

    fn take(&mut self, length: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(length)?;
        self.0 = rest;
        Some(taken)
    }

    /// A `uint32`.
    pub(super) fn number(&mut self) -> Option<u32> {
        Some(u32::from_be_bytes(self.take(4)?.try_into().ok()?))
    }

    /// A `string`, which is any bytes.
    pub(super) fn bytes(&mut self) -> Option<&'a [u8]> {
        let length = usize::try_from(self.number()?).ok()?;
        self.take(length)
    }

    /// An `mpint` that is not negative, without zeros in front.
    pub(super) fn positive(&mut self) -> Option<&'a [u8]> {
        let bytes = self.bytes()?;
        let is_negative = bytes.first().is_some_and(|first| first & 0x80 != 0);
        (!is_negative).then(|| trimmed(bytes))
    }
}

/// A number without zeros in front.
pub(super) fn trimmed(bytes: &[u8]) -> &[u8] {
    let start = bytes.iter().position(|byte| *byte != 0);
    &bytes[start.unwrap_or(bytes.len())..]
}

/// Appends a `string`. It has to be shorter than four gigabytes.
pub(super) fn put(out: &mut Vec<u8>, bytes: &[u8]) {
    let length = u32::try_from(bytes.len()).expect("what is sent to an agent's client is short");
    out.extend(length.to_be_bytes());
    out.extend(bytes);
}

/// Appends an `mpint` that is not negative.
pub(super) fn put_positive(out: &mut Vec<u8>, bytes: &[u8]) {
    let mut number = trimmed(bytes).to_vec();
    if number.first().is_some_and(|first| first & 0x80 != 0) {
        number.insert(0, 0);
    }
    put(out, &number);
}
