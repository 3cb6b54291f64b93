//! `save` and `load`: images between the store and archives.

use std::{
    fs::File,
    io::{self, IsTerminal as _},
};

use rbuild::{
    output::{self, Dest, SavedImage},
    reference::Reference,
    store::Store,
};

use super::images;
use crate::cli::{
    args::{ArchiveFormat, LoadArgs, SaveArgs},
    classify,
    diagnostics::{Failure, Kind},
    environment::Environment,
    stdout,
};

/// `rbuild save`.
pub(crate) fn save(store: &Store, args: &SaveArgs, env: &Environment) -> Result<(), Failure> {
    let mut saved: Vec<SavedImage> = Vec::new();
    for text in &args.images {
        let image = images::find(store, text)?;
        let by_name = Reference::parse(text)
            .is_ok_and(|reference| reference.with_default_tag() == image.reference);
        let names = if by_name {
            vec![image.reference]
        } else {
            Vec::new()
        };
        match saved
            .iter_mut()
            .find(|other| other.descriptor.digest == image.descriptor.digest)
        {
            Some(same) => same.names.extend(names),
            None => saved.push(SavedImage {
                descriptor: image.descriptor,
                names,
            }),
        }
    }
    let dest = match &args.output {
        Some(path) if path.as_os_str() != "-" => Dest::Path(path.clone()),
        _ => Dest::Stdout,
    };
    if dest == Dest::Stdout {
        env.takes_archive("give a file with --output")?;
    }
    let format = match args.format {
        ArchiveFormat::Docker => output::ArchiveFormat::Docker,
        ArchiveFormat::Oci => output::ArchiveFormat::Oci,
    };
    let now = jiff::Timestamp::now().as_second();
    let mut out = io::stdout().lock();
    output::save(store, &saved, format, &dest, now, &mut out).map_err(|e| classify::failure(&e))
}

/// `rbuild load`: prints the names of what it loaded.
pub(crate) fn load(store: &Store, args: &LoadArgs) -> Result<(), Failure> {
    let input = args.input.as_deref().filter(|path| *path != "-");
    let failed = |e: output::LoadError| {
        let failure = classify::failure_or(Kind::Build, &e);
        match input {
            Some(path) => failure.during(format!("cannot load images from `{}`", path.display())),
            None => failure,
        }
    };
    let loaded = match input {
        Some(path) if path.is_dir() => output::load_dir(path, store).map_err(failed)?,
        Some(path) => {
            let file = File::open(path)
                .map_err(|e| Failure::usage(format!("cannot read {}: {e}", path.display())))?;
            output::load(file, store).map_err(failed)?
        }
        None => {
            let stdin = io::stdin().lock();
            if stdin.is_terminal() {
                return Err(Failure::usage("there is no archive on standard input")
                    .with_hint("name one with --input"));
            }
            output::load(stdin, store).map_err(failed)?
        }
    };
    if args.quiet {
        return Ok(());
    }
    for image in loaded {
        if image.names.is_empty() {
            stdout::print(&format!("Loaded image: {}\n", image.descriptor.digest))?;
        }
        for name in &image.names {
            stdout::print(&format!("Loaded image: {}\n", name.familiar()))?;
        }
    }
    Ok(())
}
