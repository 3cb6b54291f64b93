//! Keys, and the encoding that makes them.

use serde::{Deserialize, Serialize};

use crate::{
    context::without_users,
    oci::{Digest, Digester},
};

/// What is hashed before everything else. Changing it, or what is encoded, makes every user's first build after the
/// change run all steps.
const ENCODING: &str = "rbuild step 1";

/// The longest value that is kept as it is for explanations; of a longer one its digest is kept.
const MAX_SHOWN_BYTES: usize = 1024;

/// One named input of a step, for explanations.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Input {
    /// Its name: `argv`, `env.PATH`, `mount 1 target`.
    pub name: String,
    /// Its value, or `sha256:… (N bytes)` of a long one.
    pub value: String,
}

/// The key of a step: equal keys, equal layers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Key {
    digest: Digest,
    definition: Digest,
    inputs: Vec<Input>,
}

impl Key {
    /// The key itself.
    pub fn digest(&self) -> &Digest {
        &self.digest
    }

    /// What the step is asked to do, without what it does it to: all fields but the digests of its inputs.
    pub fn definition(&self) -> &Digest {
        &self.definition
    }

    /// What went into it, and what was noted beside it, in order.
    pub fn inputs(&self) -> &[Input] {
        &self.inputs
    }
}

/// Builds a [`Key`] field by field. The order of fields counts.
///
/// A field is encoded as the length of its name, the name, one byte for its type, and the value: texts (`t`) and
/// digests (`d`) with their length in front, lists (`l`) with the number of their texts in front, `0` for an
/// absent value. Lengths are eight bytes, least significant first.
#[derive(Debug)]
pub struct KeyBuilder {
    digester: Digester,
    definition: Digester,
    inputs: Vec<Input>,
}

impl KeyBuilder {
    /// Begins the key of a kind of step.
    pub fn new(kind: &str) -> Self {
        let builder = Self {
            digester: Digester::new(),
            definition: Digester::new(),
            inputs: Vec::new(),
        };
        builder.text("encoding", ENCODING).text("kind", kind)
    }

    /// A text.
    #[must_use]
    pub fn text(mut self, name: &str, value: &str) -> Self {
        self.tag(name, b't');
        self.bytes(value.as_bytes());
        self.describe(name, value.to_owned());
        self
    }

    /// A text that is not told when the step misses, only that it is another one.
    #[must_use]
    pub fn hidden(mut self, name: &str, value: &str) -> Self {
        self.tag(name, b't');
        self.bytes(value.as_bytes());
        let digest = crate::oci::sha256(value.as_bytes());
        self.describe(name, format!("hidden, {}", digest.short()));
        self
    }

    /// An address, of which users and their passwords are not told.
    #[must_use]
    pub fn address(mut self, name: &str, value: &str) -> Self {
        self.tag(name, b't');
        self.bytes(value.as_bytes());
        let shown = without_users(value);
        let shown = if shown == value {
            shown
        } else {
            // Told apart all the same.
            format!("{shown} ({})", crate::oci::sha256(value.as_bytes()).short())
        };
        self.describe(name, shown);
        self
    }

    /// A text that may be missing, which differs from an empty one.
    #[must_use]
    pub fn optional(mut self, name: &str, value: Option<&str>) -> Self {
        if let Some(value) = value {
            return self.text(name, value);
        }
        self.tag(name, b'0');
        self
    }

    /// A number.
    #[must_use]
    pub fn number(self, name: &str, value: u64) -> Self {
        self.text(name, &value.to_string())
    }

    /// A permission mode, shown in octal.
    #[must_use]
    pub fn mode(self, name: &str, value: u32) -> Self {
        self.text(name, &format!("{value:04o}"))
    }

    /// A yes or no.
    #[must_use]
    pub fn flag(self, name: &str, value: bool) -> Self {
        self.text(name, if value { "true" } else { "false" })
    }

    /// The digest of something that the step starts from; no part of its definition.
    #[must_use]
    pub fn input(mut self, name: &str, value: &Digest) -> Self {
        let definition = self.definition.clone();
        self.tag(name, b'd');
        self.bytes(value.as_bytes());
        self.describe(name, value.to_string());
        self.definition = definition;
        self
    }

    /// Notes that something the step could start from is not there.
    #[must_use]
    pub fn no_input(mut self, name: &str) -> Self {
        let definition = self.definition.clone();
        self.tag(name, b'0');
        self.definition = definition;
        self
    }

    /// A list of texts, whose order counts.
    #[must_use]
    pub fn list<S: AsRef<str>>(mut self, name: &str, values: &[S]) -> Self {
        self.tag(name, b'l');
        self.length(values.len());
        for value in values {
            self.bytes(value.as_ref().as_bytes());
        }
        let texts: Vec<_> = values.iter().map(AsRef::as_ref).collect();
        self.describe(name, serde_json::Value::from(texts).to_string());
        self
    }

    /// Something that is no part of the key, but worth telling when the step misses: the base image's name.
    #[must_use]
    pub fn note(mut self, name: &str, value: &str) -> Self {
        self.describe(name, value.to_owned());
        self
    }

    /// The key.
    pub fn finish(self) -> Key {
        Key {
            digest: self.digester.finish(),
            definition: self.definition.finish(),
            inputs: self.inputs,
        }
    }

    fn tag(&mut self, name: &str, kind: u8) {
        self.bytes(name.as_bytes());
        self.update(&[kind]);
    }

    fn bytes(&mut self, bytes: &[u8]) {
        self.length(bytes.len());
        self.update(bytes);
    }

    fn length(&mut self, length: usize) {
        self.update(&(length as u64).to_le_bytes());
    }

    fn update(&mut self, bytes: &[u8]) {
        self.digester.update(bytes);
        self.definition.update(bytes);
    }

    fn describe(&mut self, name: &str, value: String) {
        let value = if value.len() > MAX_SHOWN_BYTES {
            let digest = crate::oci::sha256(value.as_bytes());
            format!("{digest} ({} bytes)", value.len())
        } else {
            value
        };
        self.inputs.push(Input {
            name: name.to_owned(),
            value,
        });
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn key(build: impl FnOnce(KeyBuilder) -> KeyBuilder) -> Digest {
        *build(KeyBuilder::new("test")).finish().digest()
    }

    #[test]
    fn borders_between_fields_count() {
        let keys = [
            key(|k| k.text("a", "bc")),
            key(|k| k.text("ab", "c")),
            key(|k| k.text("a", "b").text("c", "")),
            key(|k| k.list("a", &["bc"])),
            key(|k| k.list("a", &["b", "c"])),
            key(|k| k.list("a", &["b"]).list("c", &[""; 0])),
            key(|k| k.optional("a", None)),
            key(|k| k.text("a", "")),
            key(|k| k),
            *KeyBuilder::new("other").finish().digest(),
        ];
        for (i, a) in keys.iter().enumerate() {
            assert!(!keys[i + 1..].contains(a), "key {i} is there twice");
        }
    }

    #[test]
    fn inputs_are_no_part_of_the_definition() {
        let build = |argv: &str, parent: &[u8]| {
            KeyBuilder::new("test")
                .input("parent", &crate::oci::sha256(parent))
                .text("argv", argv)
                .finish()
        };
        let (a, b) = (build("make", b"one"), build("make", b"two"));
        assert_ne!(a.digest(), b.digest());
        assert_eq!(a.definition(), b.definition());
        assert_ne!(a.definition(), build("make all", b"one").definition());
    }

    #[test]
    fn notes_are_told_and_not_hashed() {
        let with = KeyBuilder::new("test").note("base", "alpine").finish();
        let without = KeyBuilder::new("test").finish();
        assert_eq!(with.digest(), without.digest());
        assert_ne!(with.inputs(), without.inputs());
    }

    /// Changing this makes every step of every user run once more; say so in the change log.
    #[test]
    fn the_encoding_stays() {
        let key = key(|k| {
            k.text("argv", "x")
                .optional("none", None)
                .list("env", &["A=1", "B=2"])
                .input("parent", &crate::oci::sha256(b""))
        });
        assert_eq!(
            key.to_string(),
            "sha256:e1eca5a9bb71b64731c0a4b94c96c8b0f739e5bb256e9dbd4da651a495c65037"
        );
    }

    /// Short texts of few letters, so that joined texts are often equal.
    fn fields() -> impl Strategy<Value = Vec<(String, Vec<String>)>> {
        let values = proptest::collection::vec("[ab]{0,2}", 0..3);
        proptest::collection::vec(("[ab]{0,2}", values), 0..3)
    }

    proptest! {
        #[test]
        fn different_fields_have_different_keys(a in fields(), b in fields()) {
            let build = |fields: &[(String, Vec<String>)]| {
                key(|k| fields.iter().fold(k, |k, (name, values)| k.list(name, values)))
            };
            prop_assert_eq!(a == b, build(&a) == build(&b));
        }
    }
}
