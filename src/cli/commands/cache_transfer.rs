//! `cache export` and `cache import`: the cache of all builds, between the store and a directory or an archive.

use std::{
    ffi::OsString,
    fs::{self, File},
    io::{self, IsTerminal as _, Read},
    path::{Path, PathBuf},
    time::SystemTime,
};

use rbuild::{
    cache::remote::{
        self, ArchivePlace, ArchiveSink, LayoutPlace, Lost, MountChoice, MountError, MountPacker,
        Place, PlaceError, WholeExported, WholeImported,
    },
    oci::Descriptor,
    output::{is_written_in_place, open_in_place},
    snapshot::Style,
    store::{CacheMountId, Store, TempDir},
};
use serde_json::json;

use crate::cli::{
    args::DataFormat,
    cache_args::{Age, CacheExportArgs, CacheImportArgs},
    cache_spec::MountIds,
    classify,
    count::counted,
    diagnostics::{self, Failure, Kind},
    environment::Environment,
    progress::bytes,
    stdout, terminal,
};

/// Where an export goes.
enum Dest<'a> {
    Dir(&'a Path),
    Archive(&'a Path),
    Stdout,
}

impl<'a> Dest<'a> {
    /// An archive is recognised by its name, or because it is a file already.
    fn of(path: &'a Path) -> Self {
        if path.as_os_str() == "-" {
            return Self::Stdout;
        }
        let is_archive = path.is_file() || path.extension().is_some_and(|end| end == "tar");
        if is_archive && !path.is_dir() {
            Self::Archive(path)
        } else {
            Self::Dir(path)
        }
    }
}

/// `rbuild cache export`.
pub(super) fn export(
    (store, style): (&Store, Style),
    args: &CacheExportArgs,
    env: &Environment,
) -> Result<(), Failure> {
    let since = args
        .used_within
        .map(|Age(age)| SystemTime::now().checked_sub(age))
        .map(|since| since.unwrap_or(SystemTime::UNIX_EPOCH));
    let tag = args.tag.clone();
    let told = |mount: &CacheMountId, error: &MountError| stays("exported", mount, error);
    let packer = MountPacker::new(store, style, &told);
    let choice = choice(args.cache_mounts.as_ref());
    let write = |place: &dyn Place| {
        remote::export_store(store, place, since, (&choice, &packer)).map_err(|e| failure(&e))
    };
    let exported = match Dest::of(&args.dest) {
        Dest::Dir(dir) => write(&LayoutPlace::new(dir.to_owned(), tag, None))?,
        Dest::Archive(path) => {
            let new = NewFile::create(path)?;
            let file = new.file.try_clone().map_err(|e| new.failed(&e))?;
            let exported = write(&ArchiveSink::new(path.to_owned(), tag, buffered(file)))?;
            new.finish()?;
            exported
        }
        Dest::Stdout => {
            env.takes_archive("name a directory or a file")?;
            let name = PathBuf::from("standard output");
            write(&ArchiveSink::new(name, tag, buffered(io::stdout())))?
        }
    };
    if exported.left_out > 0 {
        let n = exported.left_out;
        diagnostics::warn(&format!(
            "warning: there are too many steps and answers: the {n} not used for the longest time are left out\n"
        ));
    }
    report_export(args, &exported)
}

fn choice(ids: Option<&MountIds>) -> MountChoice {
    ids.map_or(MountChoice::None, |ids| ids.0.clone())
}

/// What is said of a cache mount that does not travel.
fn stays(done: &str, mount: &CacheMountId, error: &MountError) {
    let mut said = vec![error.to_string()];
    said.extend(diagnostics::causes(error));
    let said = format!(
        "the cache mount {} is not {done}: {}",
        mount.id,
        said.join(": ")
    );
    diagnostics::warn(&format!("warning: {}\n", terminal::one_line(&said)));
}

fn mounts_text(mounts: usize) -> String {
    match mounts {
        0 => String::new(),
        n => format!(", {}", counted(n, "cache mount")),
    }
}

fn report_export(args: &CacheExportArgs, exported: &WholeExported) -> Result<(), Failure> {
    let WholeExported {
        steps,
        layers,
        bytes: size,
        facts,
        mounts,
        left_out,
    } = exported;
    let to_stdout = matches!(Dest::of(&args.dest), Dest::Stdout);
    if args.format == DataFormat::Json {
        let value = json!({"steps": steps, "layers": layers, "bytes": size, "facts": facts, "mounts": mounts, "leftOut": left_out});
        if to_stdout {
            diagnostics::warn(&format!("{value:#}\n"));
            return Ok(());
        }
        return stdout::print_json(&value);
    }
    let dest = if to_stdout {
        "standard output".to_owned()
    } else {
        terminal::one_line(&args.dest.display().to_string())
    };
    let size = bytes(*size);
    let mounts = mounts_text(*mounts);
    let (steps, layers) = (counted(*steps, "step"), counted(*layers, "layer"));
    let text = format!("{steps} and {layers} of {size}{mounts} written to {dest}\n");
    if to_stdout {
        diagnostics::warn(&text);
        return Ok(());
    }
    stdout::print(&text)
}

fn buffered(file: impl io::Write + Send + 'static) -> Box<dyn io::Write + Send> {
    Box::new(io::BufWriter::with_capacity(256 << 10, file))
}

/// A file that gets its name when it is complete. Dropped before that, it goes.
struct NewFile<'a> {
    path: &'a Path,
    /// Where it is until then; nowhere else where it is written in place.
    temp: Option<PathBuf>,
    file: File,
}

impl<'a> NewFile<'a> {
    fn create(path: &'a Path) -> Result<Self, Failure> {
        if is_written_in_place(path) {
            let file = open_in_place(path).map_err(|e| cannot_write(path, &e))?;
            return Ok(Self {
                path,
                temp: None,
                file,
            });
        }
        let mut name = OsString::from(".");
        name.push(path.file_name().unwrap_or_default());
        name.push(format!(".{}.tmp", std::process::id()));
        let temp = path.with_file_name(name);
        let file = File::create(&temp).map_err(|e| cannot_write(path, &e))?;
        Ok(Self {
            path,
            temp: Some(temp),
            file,
        })
    }

    fn failed(&self, error: &io::Error) -> Failure {
        cannot_write(self.path, error)
    }

    fn finish(mut self) -> Result<(), Failure> {
        if let Some(temp) = &self.temp {
            fs::rename(temp, self.path).map_err(|e| self.failed(&e))?;
        }
        self.temp = None;
        Ok(())
    }
}

impl Drop for NewFile<'_> {
    fn drop(&mut self) {
        if let Some(temp) = &self.temp {
            fs::remove_file(temp).ok();
        }
    }
}

fn cannot_write(path: &Path, error: &io::Error) -> Failure {
    Failure::new(
        Kind::Machine,
        format!("cannot write {}: {error}", path.display()),
    )
}

/// `rbuild cache import`.
pub(super) fn import(
    (store, style): (&Store, Style),
    args: &CacheImportArgs,
) -> Result<(), Failure> {
    let lost = |blob: &Descriptor, error: &PlaceError| {
        let mut said = vec![error.to_string()];
        said.extend(diagnostics::causes(error));
        let said = terminal::one_line(&said.join(": "));
        diagnostics::warn(&format!(
            "warning: the layer {} is left out: {said}\n",
            blob.digest
        ));
    };
    let source = Source::open(store, args)?;
    let lost = Lost {
        layer: &lost,
        mount: &|mount, error| stays("imported", mount, error),
    };
    let mounts = choice(args.cache_mounts.as_ref());
    let imported =
        remote::import_store(store, &*source.place, (&mounts, style), &lost).map_err(|error| {
            let place = args.source.display();
            failure(&error).during(format!("cannot import a cache from `{place}`"))
        })?;
    let WholeImported {
        steps,
        layers,
        bytes: size,
        mounts,
        without_layer,
    } = imported;
    if args.format == DataFormat::Json {
        return stdout::print_json(
            &json!({"steps": steps, "layers": layers, "bytes": size, "mounts": mounts, "withoutLayer": without_layer}),
        );
    }
    let without = match without_layer {
        0 => String::new(),
        1 => "; 1 step without its layers is left out".to_owned(),
        n => format!("; {n} steps without their layers are left out"),
    };
    let size = bytes(size);
    let mounts = mounts_text(mounts);
    let (steps, layers) = (counted(steps, "step"), counted(layers, "layer"));
    stdout::print(&format!(
        "{steps} and {layers} of {size}{mounts} are new{without}\n"
    ))
}

/// What is imported, and the copy of it, if one had to be made.
struct Source {
    place: Box<dyn Place>,
    _copy: Option<TempDir>,
}

impl Source {
    fn open(store: &Store, args: &CacheImportArgs) -> Result<Self, Failure> {
        let (path, tag) = (&args.source, args.tag.clone());
        if path.is_dir() {
            return Ok(Self {
                place: Box::new(LayoutPlace::new(path.clone(), tag, None)),
                _copy: None,
            });
        }
        let scratch = store.temp_dir().map_err(|e| classify::failure(&e))?;
        let archive = if path.as_os_str() == "-" {
            let stdin = io::stdin().lock();
            if stdin.is_terminal() {
                return Err(Failure::usage("there is no archive on standard input"));
            }
            spool(stdin, scratch.path().join("archive.tar"))?
        } else {
            File::open(path)
                .map_err(|e| Failure::usage(format!("cannot read {}: {e}", path.display())))?;
            path.clone()
        };
        let place = ArchivePlace::open(archive, scratch.path().to_owned(), tag)
            .map_err(|e| classify::failure_or(Kind::Build, &e))?;
        let place = place.ok_or_else(|| {
            let said = format!("{} is no archive", path.display());
            Failure::new(Kind::Build, said)
        })?;
        Ok(Self {
            place: Box::new(place),
            _copy: Some(scratch),
        })
    }
}

/// The index may be at the end, so the archive has to be on disk.
fn spool(mut input: impl Read, path: PathBuf) -> Result<PathBuf, Failure> {
    File::create_new(&path)
        .and_then(|mut file| io::copy(&mut input, &mut file))
        .map_err(|e| Failure::new(Kind::Machine, format!("cannot copy the archive: {e}")))?;
    Ok(path)
}

/// A cache that is refused is the fault of whoever made it, not of a remote.
fn failure(error: &PlaceError) -> Failure {
    match error {
        PlaceError::Absent => Failure::new(Kind::Build, "there is no cache in it"),
        PlaceError::Records(_) | PlaceError::Damaged { .. } => {
            Failure::from_error(Kind::Build, error)
        }
        other => classify::failure(other),
    }
}
