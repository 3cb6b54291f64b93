//! Private keys: reading their files, and signing.
//!
//! Files are PEM: OpenSSH's own form (`PROTOCOL.key`), PKCS #1 and `EC PRIVATE KEY`, and PKCS #8. Kinds are those that `ring`
//! signs with: Ed25519, ECDSA on P-256 and P-384, RSA of 2048 bits and more with SHA-2.

use std::fmt::{self, Debug, Formatter};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use ring::{
    rand::SystemRandom,
    rsa::{KeyPairComponents, PublicKeyComponents},
    signature::{
        ECDSA_P256_SHA256_FIXED_SIGNING, ECDSA_P384_SHA384_FIXED_SIGNING, EcdsaKeyPair,
        Ed25519KeyPair, KeyPair as _, RSA_PKCS1_SHA256, RSA_PKCS1_SHA512, RsaKeyPair,
    },
};

use super::{
    der,
    wire::{self, Reader, trimmed},
};

/// Why a file is no key that can be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum KeyError {
    /// It is something else.
    #[error("it is no private key")]
    NoKey,
    /// It has a passphrase.
    #[error("the key has a passphrase")]
    Encrypted,
    /// It is of a kind that is not signed with here.
    #[error("keys of the kind {0} are not supported")]
    Kind(String),
    /// It says that it is a key and is none.
    #[error("the key is damaged, or of a size that is not supported")]
    Damaged,
}

/// A private key.
pub(super) struct Key {
    /// Its public half, as SSH writes it.
    public: Vec<u8>,
    comment: Vec<u8>,
    secret: Secret,
}

enum Secret {
    Ed25519(Ed25519KeyPair),
    Ecdsa(Curve, EcdsaKeyPair),
    Rsa(Box<RsaKeyPair>),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Curve {
    P256,
    P384,
}

impl Curve {
    fn name(self) -> &'static str {
        match self {
            Self::P256 => "nistp256",
            Self::P384 => "nistp384",
        }
    }

    fn signing(self) -> &'static ring::signature::EcdsaSigningAlgorithm {
        match self {
            Self::P256 => &ECDSA_P256_SHA256_FIXED_SIGNING,
            Self::P384 => &ECDSA_P384_SHA384_FIXED_SIGNING,
        }
    }

    /// How many bytes a coordinate has.
    fn size(self) -> usize {
        match self {
            Self::P256 => 32,
            Self::P384 => 48,
        }
    }
}

impl Debug for Key {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        f.debug_struct("Key").finish_non_exhaustive()
    }
}

const ED25519: &str = "ssh-ed25519";
const RSA: &str = "ssh-rsa";
const SHA2_256: u32 = 2;
const SHA2_512: u32 = 4;

impl Key {
    /// Reads a key file.
    pub(super) fn parse(file: &[u8]) -> Result<Self, KeyError> {
        let text = std::str::from_utf8(file).map_err(|_not_text| KeyError::NoKey)?;
        let (label, rest) = text
            .split_once("-----BEGIN ")
            .and_then(|(_, rest)| rest.split_once("-----"))
            .ok_or(KeyError::NoKey)?;
        let body = rest.split_once("-----END ").ok_or(KeyError::NoKey)?.0;
        if label == "ENCRYPTED PRIVATE KEY" || body.contains("ENCRYPTED") {
            return Err(KeyError::Encrypted);
        }
        let body: String = body.split_ascii_whitespace().collect();
        let bytes = STANDARD
            .decode(body)
            .map_err(|_no_base64| KeyError::Damaged)?;
        match label {
            "OPENSSH PRIVATE KEY" => openssh(&bytes),
            "RSA PRIVATE KEY" => rsa(RsaKeyPair::from_der(&bytes).ok()),
            "EC PRIVATE KEY" => pkcs8(&der::ec_as_pkcs8(&bytes).ok_or(KeyError::Damaged)?),
            "PRIVATE KEY" => pkcs8(&bytes),
            other => match other.strip_suffix(" PRIVATE KEY") {
                Some(kind) => Err(KeyError::Kind(kind.to_owned())),
                None => Err(KeyError::NoKey),
            },
        }
    }

    /// The public half, as SSH writes it.
    pub(super) fn public(&self) -> &[u8] {
        &self.public
    }

    /// What its file says of it.
    pub(super) fn comment(&self) -> &[u8] {
        &self.comment
    }

    /// A signature with its algorithm, as SSH writes it; nothing where the algorithm that `flags` asks for is not had: SHA-1.
    pub(super) fn sign(&self, data: &[u8], flags: u32) -> Option<Vec<u8>> {
        let random = SystemRandom::new();
        let (name, signature) = match &self.secret {
            Secret::Ed25519(pair) => (ED25519.to_owned(), pair.sign(data).as_ref().to_vec()),
            Secret::Ecdsa(curve, pair) => {
                let signature = pair.sign(&random, data).ok()?;
                let (r, s) = signature.as_ref().split_at_checked(curve.size())?;
                let mut both = Vec::new();
                wire::put_positive(&mut both, r);
                wire::put_positive(&mut both, s);
                (format!("ecdsa-sha2-{}", curve.name()), both)
            }
            Secret::Rsa(pair) => {
                let (name, padding): (_, &dyn ring::signature::RsaEncoding) = match flags {
                    f if f & SHA2_512 != 0 => ("rsa-sha2-512", &RSA_PKCS1_SHA512),
                    f if f & SHA2_256 != 0 => ("rsa-sha2-256", &RSA_PKCS1_SHA256),
                    _ => return None,
                };
                let mut signature = vec![0; pair.public().modulus_len()];
                pair.sign(padding, &random, data, &mut signature).ok()?;
                (name.to_owned(), signature)
            }
        };
        let mut out = Vec::new();
        wire::put(&mut out, name.as_bytes());
        wire::put(&mut out, &signature);
        Some(out)
    }
}

fn pkcs8(bytes: &[u8]) -> Result<Key, KeyError> {
    if let Ok(pair) = Ed25519KeyPair::from_pkcs8_maybe_unchecked(bytes) {
        return Ok(ed25519(pair));
    }
    for curve in [Curve::P256, Curve::P384] {
        if let Ok(pair) = EcdsaKeyPair::from_pkcs8(curve.signing(), bytes, &SystemRandom::new()) {
            return Ok(ecdsa(curve, pair));
        }
    }
    rsa(RsaKeyPair::from_pkcs8(bytes).ok())
}

fn ed25519(pair: Ed25519KeyPair) -> Key {
    let mut public = Vec::new();
    wire::put(&mut public, ED25519.as_bytes());
    wire::put(&mut public, pair.public_key().as_ref());
    Key {
        public,
        comment: Vec::new(),
        secret: Secret::Ed25519(pair),
    }
}

fn ecdsa(curve: Curve, pair: EcdsaKeyPair) -> Key {
    let mut public = Vec::new();
    wire::put(
        &mut public,
        format!("ecdsa-sha2-{}", curve.name()).as_bytes(),
    );
    wire::put(&mut public, curve.name().as_bytes());
    wire::put(&mut public, pair.public_key().as_ref());
    Key {
        public,
        comment: Vec::new(),
        secret: Secret::Ecdsa(curve, pair),
    }
}

fn rsa(pair: Option<RsaKeyPair>) -> Result<Key, KeyError> {
    let pair = pair.ok_or(KeyError::Damaged)?;
    let PublicKeyComponents::<Vec<u8>> { n, e } = pair.public().into();
    let mut public = Vec::new();
    wire::put(&mut public, RSA.as_bytes());
    wire::put_positive(&mut public, &e);
    wire::put_positive(&mut public, &n);
    Ok(Key {
        public,
        comment: Vec::new(),
        secret: Secret::Rsa(Box::new(pair)),
    })
}

/// Reads `openssh-key-v1`.
fn openssh(bytes: &[u8]) -> Result<Key, KeyError> {
    let bytes = bytes.strip_prefix(b"openssh-key-v1\0");
    let mut reader = Reader::new(bytes.ok_or(KeyError::Damaged)?);
    let cipher = reader.bytes().ok_or(KeyError::Damaged)?;
    if cipher != b"none" {
        return Err(KeyError::Encrypted);
    }
    let private = openssh_private(&mut reader).ok_or(KeyError::Damaged)?;
    let mut reader = Reader::new(private);
    let kind = checked_kind(&mut reader).ok_or(KeyError::Damaged)?;
    let key = match kind {
        b"ssh-ed25519" => openssh_ed25519(&mut reader),
        b"ecdsa-sha2-nistp256" => openssh_ecdsa(Curve::P256, &mut reader),
        b"ecdsa-sha2-nistp384" => openssh_ecdsa(Curve::P384, &mut reader),
        b"ssh-rsa" => openssh_rsa(&mut reader),
        other => return Err(KeyError::Kind(String::from_utf8_lossy(other).into_owned())),
    };
    let mut key = key.ok_or(KeyError::Damaged)?;
    key.comment = reader.bytes().unwrap_or_default().to_vec();
    Ok(key)
}

/// The part with the secrets, behind what is about encryption and the public keys.
fn openssh_private<'a>(reader: &mut Reader<'a>) -> Option<&'a [u8]> {
    let (_derivation, _its_options) = (reader.bytes()?, reader.bytes()?);
    if reader.number()? != 1 {
        return None;
    }
    let _public = reader.bytes()?;
    reader.bytes()
}

/// The kind of a key, behind the two numbers that tell whether it was decrypted with the right passphrase.
fn checked_kind<'a>(reader: &mut Reader<'a>) -> Option<&'a [u8]> {
    (reader.number()? == reader.number()?).then(|| reader.bytes())?
}

fn openssh_ed25519(reader: &mut Reader<'_>) -> Option<Key> {
    let (public, both) = (reader.bytes()?, reader.bytes()?);
    let seed = both.get(..32)?;
    let pair = Ed25519KeyPair::from_seed_and_public_key(seed, public).ok()?;
    Some(ed25519(pair))
}

fn openssh_ecdsa(curve: Curve, reader: &mut Reader<'_>) -> Option<Key> {
    let (_name, point, secret) = (reader.bytes()?, reader.bytes()?, reader.positive()?);
    let secret = padded(secret, curve.size())?;
    let random = SystemRandom::new();
    let signing = curve.signing();
    let pair = EcdsaKeyPair::from_private_key_and_public_key(signing, &secret, point, &random);
    Some(ecdsa(curve, pair.ok()?))
}

fn openssh_rsa(reader: &mut Reader<'_>) -> Option<Key> {
    let [modulus, exponent, private, inverse, p, q] = [(); 6].map(|()| reader.positive());
    let (private, p, q) = (private?, p?, q?);
    let (n, e) = (modulus?, exponent?);
    let components = KeyPairComponents {
        public_key: PublicKeyComponents { n, e },
        d: padded(private, n.len())?,
        p: p.to_vec(),
        q: q.to_vec(),
        dP: padded(&remainder(private, &before(p)?)?, p.len())?,
        dQ: padded(&remainder(private, &before(q)?)?, q.len())?,
        qInv: padded(inverse?, p.len())?,
    };
    rsa(RsaKeyPair::from_components(&components).ok()).ok()
}

/// A number with zeros in front, up to a length.
fn padded(number: &[u8], length: usize) -> Option<Vec<u8>> {
    let mut out = vec![0; length.checked_sub(number.len())?];
    out.extend(number);
    Some(out)
}

/// An odd number less one: a prime.
fn before(prime: &[u8]) -> Option<Vec<u8>> {
    let mut out = prime.to_vec();
    let last = out.last_mut()?;
    (*last & 1 == 1).then(|| *last -= 1)?;
    Some(out)
}

/// `number` modulo `modulus`, bit by bit.
fn remainder(number: &[u8], modulus: &[u8]) -> Option<Vec<u8>> {
    let modulus = trimmed(modulus);
    if modulus.is_empty() {
        return None;
    }
    let modulus = padded(modulus, modulus.len() + 1)?;
    let mut rest = vec![0_u8; modulus.len()];
    for byte in number {
        for bit in (0..8).rev() {
            let mut carry = byte >> bit & 1;
            for digit in rest.iter_mut().rev() {
                (*digit, carry) = (*digit << 1 | carry, *digit >> 7);
            }
            if rest >= modulus {
                let mut borrow = false;
                for (digit, less) in rest.iter_mut().zip(&modulus).rev() {
                    let (first, a) = digit.overflowing_sub(*less);
                    let (second, b) = first.overflowing_sub(u8::from(borrow));
                    (*digit, borrow) = (second, a || b);
                }
            }
        }
    }
    Some(trimmed(&rest).to_vec())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_remainder_is_what_division_leaves() {
        let numbers = [0_u64, 1, 2, 254, 255, 256, 65_537, 1 << 40, u64::MAX];
        for number in numbers {
            for modulus in numbers.into_iter().filter(|modulus| *modulus != 0) {
                let rest = remainder(&number.to_be_bytes(), &modulus.to_be_bytes());
                let expected = (number % modulus).to_be_bytes();
                assert_eq!(rest.as_deref(), Some(trimmed(&expected)));
            }
        }
        assert_eq!(remainder(&[1], &[0]), None);
    }

    #[test]
    fn what_is_no_key_is_refused() {
        let error = |text: &str| Key::parse(text.as_bytes()).map(drop).unwrap_err();
        assert_eq!(error(""), KeyError::NoKey);
        assert_eq!(error("ssh-ed25519 AAAA me"), KeyError::NoKey);
        assert_eq!(
            error("-----BEGIN CERTIFICATE-----\nAA==\n-----END CERTIFICATE-----"),
            KeyError::NoKey
        );
        let pem = |label: &str, body: &str| {
            error(&format!(
                "-----BEGIN {label}-----\n{body}\n-----END {label}-----\n"
            ))
        };
        assert_eq!(
            pem("DSA PRIVATE KEY", "AAAA"),
            KeyError::Kind("DSA".to_owned())
        );
        assert_eq!(pem("ENCRYPTED PRIVATE KEY", "AAAA"), KeyError::Encrypted);
        let headers = "Proc-Type: 4,ENCRYPTED\nDEK-Info: AES-128-CBC,00\n\nAAAA";
        assert_eq!(pem("RSA PRIVATE KEY", headers), KeyError::Encrypted);
        for label in [
            "OPENSSH PRIVATE KEY",
            "RSA PRIVATE KEY",
            "EC PRIVATE KEY",
            "PRIVATE KEY",
        ] {
            assert_eq!(pem(label, "AAAA"), KeyError::Damaged);
            assert_eq!(pem(label, "%"), KeyError::Damaged);
            assert_eq!(pem(label, ""), KeyError::Damaged);
        }
    }
}
