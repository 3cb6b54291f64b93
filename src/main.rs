//! The `rbuild` program.

mod cli;

use std::process::ExitCode;

fn main() -> ExitCode {
    // Steps run below a second start of this program under another name; that one must not become a second build.
    if let Some(code) = rbuild::sandbox::maybe_helper(std::env::args_os(), std::env::vars_os()) {
        return code;
    }
    cli::run()
}
