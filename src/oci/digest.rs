//! Content addresses. Only SHA-256 is written; a digest of another algorithm is refused when parsed,
//! so every [`Digest`] in the program can be verified.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256, digest::common::hazmat::SerializableState as _};

/// The digest of exact stored bytes, `sha256:<64 lower-case hex digits>`.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Digest([u8; 32]);

/// The algorithm in front of the digits.
const PREFIX: &[u8] = b"sha256:";

/// Why a text is not a digest.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DigestError {
    /// The text has another algorithm than SHA-256.
    #[error("digest `{0}` does not use sha256, the only supported algorithm")]
    Algorithm(String),
    /// What follows the algorithm is not 64 lower-case hexadecimal digits.
    #[error("digest `{0}` does not have 64 lower-case hexadecimal digits")]
    Hex(String),
}

impl Digest {
    /// Wraps a computed SHA-256.
    pub const fn from_bytes(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }

    /// The raw 32 bytes.
    pub const fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }

    /// The 64 hexadecimal digits, as used for file names.
    pub fn hex(&self) -> String {
        String::from_utf8_lossy(&self.text()[PREFIX.len()..]).into_owned()
    }

    /// The whole text, without an allocation: keys hold two of them for each file.
    pub const fn text(&self) -> [u8; PREFIX.len() + 64] {
        const DIGITS: &[u8; 16] = b"0123456789abcdef";
        let mut text = [0; PREFIX.len() + 64];
        let mut i = 0;
        while i < PREFIX.len() {
            text[i] = PREFIX[i];
            i += 1;
        }
        let mut i = 0;
        while i < 32 {
            let byte = self.0[i];
            text[PREFIX.len() + 2 * i] = DIGITS[(byte >> 4) as usize];
            text[PREFIX.len() + 2 * i + 1] = DIGITS[(byte & 15) as usize];
            i += 1;
        }
        text
    }

    /// The first twelve digits, for people.
    pub fn short(&self) -> String {
        self.hex()[..12].to_owned()
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(std::str::from_utf8(&self.text()).map_err(|_never| fmt::Error)?)
    }
}

impl fmt::Debug for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for Digest {
    type Err = DigestError;

    fn from_str(text: &str) -> Result<Self, DigestError> {
        let hex = text
            .strip_prefix("sha256:")
            .ok_or_else(|| DigestError::Algorithm(text.to_owned()))?;
        let bad = || DigestError::Hex(text.to_owned());
        if hex.len() != 64 || !hex.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f')) {
            return Err(bad());
        }
        let mut bytes = [0; 32];
        for (i, byte) in bytes.iter_mut().enumerate() {
            *byte = u8::from_str_radix(&hex[2 * i..2 * i + 2], 16)
                .map_err(|_digits_were_checked| bad())?;
        }
        Ok(Self(bytes))
    }
}

impl TryFrom<String> for Digest {
    type Error = DigestError;

    fn try_from(text: String) -> Result<Self, DigestError> {
        text.parse()
    }
}

impl From<Digest> for String {
    fn from(digest: Digest) -> Self {
        digest.to_string()
    }
}

/// The digest of these bytes.
pub fn sha256(bytes: &[u8]) -> Digest {
    Digest(Sha256::digest(bytes).into())
}

/// Computes a digest piece by piece; also a sink for [`std::io::copy`].
#[derive(Clone, Default)]
pub struct Digester(Sha256);

impl Digester {
    /// A digester that has seen nothing.
    pub fn new() -> Self {
        Self::default()
    }

    /// Takes in more bytes.
    pub fn update(&mut self, bytes: &[u8]) {
        self.0.update(bytes);
    }

    /// The digest of all that was taken in.
    pub fn finish(self) -> Digest {
        Digest(self.0.finalize().into())
    }

    /// How far it is, for going on later without the bytes so far.
    pub fn state(&self) -> DigestState {
        DigestState(self.0.serialize().into())
    }

    /// A digester that has seen what another one had; `None` when no digester ever has this state.
    pub fn resume(state: &DigestState) -> Option<Self> {
        Sha256::deserialize(&state.0.into()).ok().map(Self)
    }
}

/// How far a [`Digester`] is.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct DigestState([u8; Self::LEN]);

impl DigestState {
    /// How many bytes a state has: the words, the count of blocks, and what does not fill a block yet.
    pub const LEN: usize = 32 + 8 + 64;

    /// The bytes of the state.
    pub const fn as_bytes(&self) -> &[u8; Self::LEN] {
        &self.0
    }

    /// The state that these bytes are.
    pub const fn from_bytes(bytes: [u8; Self::LEN]) -> Self {
        Self(bytes)
    }
}

impl fmt::Debug for DigestState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("DigestState")
    }
}

impl fmt::Debug for Digester {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Digester")
    }
}

impl std::io::Write for Digester {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.update(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

/// The digest of a layer's uncompressed tar.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct DiffId(pub Digest);

impl fmt::Display for DiffId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// The name of a file system state: a stack of layers, base first (image-spec, config.md, "Layer `ChainID`").
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct ChainId(pub Digest);

impl ChainId {
    /// The state after one more layer; `None` is the empty root.
    pub fn after(parent: Option<Self>, diff_id: DiffId) -> Self {
        match parent {
            None => Self(diff_id.0),
            Some(parent) => Self(sha256(format!("{} {}", parent.0, diff_id.0).as_bytes())),
        }
    }

    /// The state that a whole stack makes; `None` when the stack is empty.
    pub fn of(diff_ids: impl IntoIterator<Item = DiffId>) -> Option<Self> {
        diff_ids
            .into_iter()
            .fold(None, |parent, diff_id| Some(Self::after(parent, diff_id)))
    }
}

impl fmt::Display for ChainId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn digests_round_trip_and_refuse_other_forms() {
        let empty = "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";
        assert_eq!(sha256(b"").to_string(), empty);
        assert_eq!(empty.parse::<Digest>(), Ok(sha256(b"")));
        assert!(matches!(
            "sha512:00".parse::<Digest>(),
            Err(DigestError::Algorithm(_))
        ));
        assert!(matches!(
            "sha256:E3".parse::<Digest>(),
            Err(DigestError::Hex(_))
        ));
    }

    #[test]
    fn a_digester_goes_on_where_another_one_was() {
        let bytes: Vec<u8> = (0..=255).cycle().take(1000).collect();
        for middle in [0, 1, 63, 64, 65, 512, 1000] {
            let mut first = Digester::new();
            first.update(&bytes[..middle]);
            let mut second = Digester::resume(&first.state()).unwrap();
            second.update(&bytes[middle..]);
            assert_eq!(second.finish(), sha256(&bytes), "{middle} bytes before");
        }
    }

    #[test]
    fn chain_id_of_one_layer_is_its_diff_id() {
        let (a, b) = (DiffId(sha256(b"a")), DiffId(sha256(b"b")));
        assert_eq!(ChainId::of([a]), Some(ChainId(a.0)));
        assert_eq!(
            ChainId::of([a, b]),
            Some(ChainId(sha256(format!("{a} {b}").as_bytes())))
        );
        assert_eq!(ChainId::of([]), None);
    }
}
