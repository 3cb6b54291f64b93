//! Programs in C for steps: they make system calls that no shell makes.

use std::{
    path::{Path, PathBuf},
    process::Command,
};

/// The static program made of `tests/programs/NAME.c`, in `dir`; the reason when there is no compiler for it.
pub(crate) fn compile(name: &str, dir: &Path) -> Result<PathBuf, String> {
    let source = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("tests/programs")
        .join(name)
        .with_extension("c");
    let program = dir.join(name);
    // At low addresses, for the system calls of 32-bit programs.
    let compiled = Command::new("cc")
        .args(["-O1", "-static", "-no-pie", "-o"])
        .arg(&program)
        .arg(source)
        .output();
    match compiled {
        Ok(output) if output.status.success() => Ok(program),
        Ok(output) => Err(String::from_utf8_lossy(&output.stderr).into_owned()),
        Err(error) => Err(error.to_string()),
    }
}
