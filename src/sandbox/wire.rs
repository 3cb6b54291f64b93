//! Bytes as text. What travels to the helper process is JSON; names, paths and contents need not be UTF-8, so they
//! travel as base64.

use std::{
    ffi::{OsStr, OsString},
    os::unix::ffi::{OsStrExt as _, OsStringExt as _},
    path::{Path, PathBuf},
};

use base64::{Engine as _, engine::general_purpose::STANDARD_NO_PAD};
use serde::{Deserialize, Deserializer, Serialize, Serializer, de::Error as _};

/// A string of bytes, as it travels.
struct Blob<'a>(std::borrow::Cow<'a, [u8]>);

impl Serialize for Blob<'_> {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        to.serialize_str(&STANDARD_NO_PAD.encode(&self.0))
    }
}

impl<'de> Deserialize<'de> for Blob<'_> {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        let text = <std::borrow::Cow<'de, str>>::deserialize(from)?;
        let bytes = STANDARD_NO_PAD
            .decode(text.as_bytes())
            .map_err(D::Error::custom)?;
        Ok(Self(bytes.into()))
    }
}

fn blob(text: &OsStr) -> Blob<'_> {
    Blob(text.as_bytes().into())
}

fn text(blob: Blob<'_>) -> OsString {
    OsString::from_vec(blob.0.into_owned())
}

/// For fields of type `Vec<u8>`.
pub(super) mod bytes {
    use super::{Blob, Deserialize as _, Deserializer, Serialize as _, Serializer};

    pub(in super::super) fn serialize<S: Serializer>(
        bytes: &[u8],
        to: S,
    ) -> Result<S::Ok, S::Error> {
        Blob(bytes.into()).serialize(to)
    }

    pub(in super::super) fn deserialize<'de, D: Deserializer<'de>>(
        from: D,
    ) -> Result<Vec<u8>, D::Error> {
        Ok(Blob::deserialize(from)?.0.into_owned())
    }
}

/// For fields of type `Option<Vec<u8>>`.
pub(super) mod option_bytes {
    use super::{Blob, Deserialize as _, Deserializer, Serialize as _, Serializer};

    #[expect(clippy::ref_option, reason = "the signature that serde calls")]
    pub(in super::super) fn serialize<S: Serializer>(
        bytes: &Option<Vec<u8>>,
        to: S,
    ) -> Result<S::Ok, S::Error> {
        bytes.as_ref().map(|b| Blob(b.into())).serialize(to)
    }

    pub(in super::super) fn deserialize<'de, D: Deserializer<'de>>(
        from: D,
    ) -> Result<Option<Vec<u8>>, D::Error> {
        Ok(Option::<Blob<'_>>::deserialize(from)?.map(|b| b.0.into_owned()))
    }
}

/// For fields of type `PathBuf`.
pub(super) mod path {
    use super::{Blob, Deserialize as _, Deserializer, Path, PathBuf, Serialize as _, Serializer};

    pub(in super::super) fn serialize<S: Serializer>(
        path: &Path,
        to: S,
    ) -> Result<S::Ok, S::Error> {
        super::blob(path.as_os_str()).serialize(to)
    }

    pub(in super::super) fn deserialize<'de, D: Deserializer<'de>>(
        from: D,
    ) -> Result<PathBuf, D::Error> {
        Ok(super::text(Blob::deserialize(from)?).into())
    }
}

/// For fields of type `Vec<PathBuf>`.
pub(super) mod paths {
    use super::{Blob, Deserialize as _, Deserializer, PathBuf, Serializer};

    pub(in super::super) fn serialize<S: Serializer>(
        paths: &[PathBuf],
        to: S,
    ) -> Result<S::Ok, S::Error> {
        to.collect_seq(paths.iter().map(|p| super::blob(p.as_os_str())))
    }

    pub(in super::super) fn deserialize<'de, D: Deserializer<'de>>(
        from: D,
    ) -> Result<Vec<PathBuf>, D::Error> {
        let blobs = Vec::<Blob<'_>>::deserialize(from)?;
        Ok(blobs.into_iter().map(|b| super::text(b).into()).collect())
    }
}

/// For fields of type `Vec<OsString>`.
pub(super) mod strings {
    use super::{Blob, Deserialize as _, Deserializer, OsString, Serializer};

    pub(in super::super) fn serialize<S: Serializer>(
        strings: &[OsString],
        to: S,
    ) -> Result<S::Ok, S::Error> {
        to.collect_seq(strings.iter().map(|s| super::blob(s)))
    }

    pub(in super::super) fn deserialize<'de, D: Deserializer<'de>>(
        from: D,
    ) -> Result<Vec<OsString>, D::Error> {
        let blobs = Vec::<Blob<'_>>::deserialize(from)?;
        Ok(blobs.into_iter().map(super::text).collect())
    }
}

/// For fields of type `Vec<(OsString, OsString)>`.
pub(super) mod pairs {
    use super::{Blob, Deserialize as _, Deserializer, OsString, Serializer};

    pub(in super::super) fn serialize<S: Serializer>(
        pairs: &[(OsString, OsString)],
        to: S,
    ) -> Result<S::Ok, S::Error> {
        to.collect_seq(pairs.iter().map(|(k, v)| (super::blob(k), super::blob(v))))
    }

    pub(in super::super) fn deserialize<'de, D: Deserializer<'de>>(
        from: D,
    ) -> Result<Vec<(OsString, OsString)>, D::Error> {
        let blobs = Vec::<(Blob<'_>, Blob<'_>)>::deserialize(from)?;
        let pair = |(k, v)| (super::text(k), super::text(v));
        Ok(blobs.into_iter().map(pair).collect())
    }
}
