//! The keys of every type that writes an image: names, forms of layers and documents, annotations.

use super::{Options, unsupported, wrong};
use crate::{
    layer::Compression,
    oci::{Platform, PlatformError},
    output::spec::{Annotation, AnnotationPlace, ImageOptions, LayerOptions, SpecProblem},
    reference::Reference,
};

/// The keys of images, for every type that writes one.
pub(super) const IMAGE_KEYS: [&str; 12] = [
    "name",
    "compression",
    "compression-level",
    "force-compression",
    "rewrite-timestamp",
    "oci-mediatypes",
    "source-date-epoch",
    "annotation",
    "annotation-manifest",
    "annotation-index",
    "attestation-inline",
    "oci-artifact",
];

impl Options {
    /// What goes for every type that writes an image.
    pub(super) fn image_options(&mut self) -> Result<ImageOptions, SpecProblem> {
        let mut options = ImageOptions::new();
        if let Some(names) = self.take("name") {
            for name in names.split(',').filter(|name| !name.is_empty()) {
                let reference = Reference::parse(name)
                    .map_err(|error| wrong("name", name, &error.to_string()))?;
                options.names.push(reference.with_default_tag());
            }
        }
        if let Some(oci) = self.flag("oci-mediatypes")? {
            options.oci_media_types = oci;
        }
        options.layers = self.layer_options()?;
        if !options.oci_media_types
            && matches!(options.layers.compression, Some(Compression::Zstd { .. }))
        {
            let reason = "Docker's media types have no zstd; leave out `oci-mediatypes=false`";
            return Err(unsupported("compression", "zstd", reason));
        }
        // As in BuildKit: what makes a layer eStargz for its readers are annotations, which Docker's types do not have.
        options.oci_media_types |= options.layers.estargz;
        options.inline_attestations = self.flag("attestation-inline")?;
        if let Some(artifacts) = self.flag("oci-artifact")? {
            options.artifacts = artifacts;
            if artifacts && !options.oci_media_types {
                let reason =
                    "Docker's media types have no artifacts; leave out `oci-mediatypes=false`";
                return Err(unsupported("oci-artifact", "true", reason));
            }
        }
        options.epoch = self.epoch()?;
        options.annotations = self.annotations()?;
        Ok(options)
    }

    fn layer_options(&mut self) -> Result<LayerOptions, SpecProblem> {
        let name = self.take("compression");
        let level = self.take("compression-level");
        let level =
            match &level {
                None => None,
                Some(text) => Some(text.parse::<i32>().map_err(|_not_a_number| {
                    wrong("compression-level", text, "expected a number")
                })?),
            };
        let within = |low: i32, high: i32| match level {
            Some(n) if n < low || n > high => Err(wrong(
                "compression-level",
                &n.to_string(),
                &format!("expected {low} to {high}"),
            )),
            _ => Ok(()),
        };
        let compression = match name.as_deref() {
            None if level.is_none() => None,
            None | Some("gzip" | "estargz") => {
                within(0, 9)?;
                Some(match level {
                    Some(level) => Compression::Gzip { level },
                    None => Compression::default(),
                })
            }
            Some("zstd") => {
                within(0, 22)?;
                // 0 is zstd's word for its default, 3.
                let level = level.filter(|n| *n != 0).unwrap_or(3);
                Some(Compression::Zstd { level })
            }
            Some("uncompressed") => match level {
                None => Some(Compression::Uncompressed),
                Some(level) => {
                    return Err(wrong(
                        "compression-level",
                        &level.to_string(),
                        "`compression=uncompressed` has no levels",
                    ));
                }
            },
            Some(other) => {
                return Err(wrong(
                    "compression",
                    other,
                    "expected gzip, estargz, zstd or uncompressed",
                ));
            }
        };
        Ok(LayerOptions {
            compression,
            estargz: name.as_deref() == Some("estargz"),
            force: self.flag("force-compression")?.unwrap_or(false),
            rewrite_timestamp: self.flag("rewrite-timestamp")?.unwrap_or(false),
        })
    }

    /// `annotation[-PLACE][[PLATFORM]].KEY=VALUE`.
    fn annotations(&mut self) -> Result<Vec<Annotation>, SpecProblem> {
        let mut annotations = Vec::new();
        let mut rest = Vec::new();
        for (name, value) in std::mem::take(&mut self.pairs) {
            let Some(tail) = name.strip_prefix("annotation") else {
                rest.push((name, value));
                continue;
            };
            let form = "expected annotation[-manifest|-index|-manifest-descriptor|-index-descriptor][[PLATFORM]].KEY";
            let (head, platform, key) = match (tail.find('['), tail.find('.')) {
                (Some(open), Some(dot)) if open < dot => {
                    let (platform, key) = tail[open + 1..]
                        .split_once("].")
                        .ok_or_else(|| wrong(&name, &value, form))?;
                    let platform: Platform = platform
                        .parse()
                        .map_err(|error: PlatformError| wrong(&name, &value, &error.to_string()))?;
                    (&tail[..open], Some(platform), key)
                }
                (_, Some(dot)) => (&tail[..dot], None, &tail[dot + 1..]),
                (_, None) => return Err(wrong(&name, &value, form)),
            };
            let place = match head {
                "" => Some(AnnotationPlace::Manifest),
                _ => AnnotationPlace::ALL
                    .into_iter()
                    .find(|place| head.strip_prefix('-') == Some(place.name())),
            };
            let place = place.ok_or_else(|| wrong(&name, &value, form))?;
            let for_one = matches!(
                place,
                AnnotationPlace::Manifest | AnnotationPlace::ManifestDescriptor
            );
            if key.is_empty() {
                return Err(wrong(&name, &value, form));
            }
            // There is one index for all.
            let platform = platform.filter(|_| for_one);
            annotations.push(Annotation {
                place,
                platform,
                key: key.to_owned(),
                value,
            });
        }
        self.pairs = rest;
        Ok(annotations)
    }
}
