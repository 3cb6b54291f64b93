//! `--sbom` and `--attest type=sbom`: who is to list the packages of images.
//!
//! ```text
//! --sbom[=true|false|FIELD,…]        --attest type=sbom[,FIELD…]
//! FIELD: generator=IMAGE  disabled=BOOL  NAME=VALUE (the scanner finds it as $BUILDKIT_SCAN_NAME)
//! ```

use rbuild::{plan::Scanner, reference::Reference};

use super::diagnostics::Failure;

/// The scanner that BuildKit takes where none is named.
const DEFAULT: &str = "docker/buildkit-syft-scanner:stable-1";

/// Who lists packages; the last word counts, and `--sbom` is after `--attest`.
pub(super) fn scanner(sbom: &[String], attest: &[String]) -> Result<Option<Scanner>, Failure> {
    let mut scanner = None;
    for text in attest {
        let fields: Vec<&str> = text.split(',').collect();
        if fields.contains(&"type=sbom") {
            let others = fields.into_iter().filter(|field| *field != "type=sbom");
            scanner = read(others)
                .map_err(|reason| Failure::usage(format!("--attest {text}: {reason}")))?;
        }
    }
    for text in sbom {
        scanner = match super::provenance::flag(text) {
            Some(true) => read([].into_iter()),
            Some(false) => Ok(None),
            None => read(text.split(',')),
        }
        .map_err(|reason| Failure::usage(format!("--sbom={text}: {reason}")))?;
    }
    Ok(scanner)
}

/// The scanner that these fields make; `None` when they take it back.
fn read<'a>(fields: impl Iterator<Item = &'a str>) -> Result<Option<Scanner>, String> {
    let mut scanner = Scanner {
        image: DEFAULT.to_owned(),
        parameters: std::collections::BTreeMap::new(),
    };
    let mut is_off = false;
    for field in fields {
        let (key, value) = field
            .split_once('=')
            .ok_or_else(|| format!("`{field}` is not of the form KEY=VALUE"))?;
        match key {
            "generator" => value.clone_into(&mut scanner.image),
            "disabled" => {
                is_off = super::provenance::flag(value)
                    .ok_or_else(|| format!("`{field}` is not true or false"))?;
            }
            "" => return Err(format!("`{field}` has no name")),
            _ => drop(scanner.parameters.insert(key.to_owned(), value.to_owned())),
        }
    }
    if is_off {
        return Ok(None);
    }
    let image = Reference::parse(&scanner.image)
        .map_err(|error| format!("generator={}: {error}", scanner.image))?;
    scanner.image = image.with_default_tag().to_string();
    Ok(Some(scanner))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn told(sbom: &[&str], attest: &[&str]) -> Result<Option<Scanner>, Failure> {
        let owned = |texts: &[&str]| -> Vec<String> {
            texts.iter().map(|text| (*text).to_owned()).collect()
        };
        scanner(&owned(sbom), &owned(attest))
    }

    #[test]
    fn scanners_are_read_as_buildx_spells_them() {
        let image = |sbom: &[&str], attest: &[&str]| {
            let scanner = told(sbom, attest).expect("valid");
            scanner.map(|scanner| scanner.image)
        };
        let default = Some(format!("docker.io/{DEFAULT}"));
        assert_eq!(image(&[], &[]), None);
        assert_eq!(image(&["true"], &[]), default);
        assert_eq!(image(&["false"], &["type=sbom"]), None);
        assert_eq!(image(&[], &["type=sbom"]), default);
        assert_eq!(image(&[], &["type=sbom,disabled=true"]), None);
        assert_eq!(image(&[], &["type=provenance,mode=min"]), None);
        assert_eq!(
            image(&["generator=r.io/scan"], &[]).as_deref(),
            Some("r.io/scan:latest")
        );
        let with_more = told(&[], &["type=sbom,generator=r.io/scan:2,LEVEL=all"]);
        let parameters = with_more.expect("valid").expect("a scanner").parameters;
        assert_eq!(parameters["LEVEL"], "all");
    }

    #[test]
    fn what_makes_no_sense_is_refused() {
        for (text, reason) in [
            ("scan", "not of the form KEY=VALUE"),
            ("generator=A B", "generator=A B: "),
            ("generator=", "generator=: "),
            ("disabled=perhaps", "not true or false"),
        ] {
            let failure = told(&[text], &[]).expect_err(reason);
            let message = failure.message();
            assert!(message.contains(reason), "{message}");
        }
    }
}
