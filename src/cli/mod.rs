//! The program around the library: command line, settings, progress, error messages, exit codes.
//!
//! ```text
//! arguments ─args─→ typed options ─settings (environment, files)→ requests ─commands→ library
//!                                                       progress ←─ events      errors ─→ diagnostics
//! ```
//! This is the only place that prints, reads the environment, or knows exit codes.

mod advice;
mod ago;
mod ahead;
mod args;
mod build_args;
mod cache;
mod cache_args;
mod cache_spec;
mod call;
mod classify;
mod commands;
mod count;
mod diagnostics;
mod engine;
mod environment;
mod explain;
mod export;
mod inputs;
mod namespace;
mod other_builders;
mod ports;
mod progress;
mod provenance;
mod refused;
mod registry_args;
mod remote;
mod request;
mod run_args;
mod sbom;
mod secret;
mod settings;
mod signals;
mod stdout;
mod switches;
mod sys;
mod terminal;
mod transfer;
mod values;

use std::process::ExitCode;

use diagnostics::{Failure, Kind};
use environment::Environment;

/// Runs the program: arguments and environment of the process in, exit status out.
pub(crate) fn run() -> ExitCode {
    sys::share_arenas();
    sys::tell_of_large_files();
    std::panic::set_hook(Box::new(report_panic));
    let env = Environment::of_process();
    let arguments = args::with_default_command(std::env::args_os());
    let cli = match args::parse(&arguments) {
        Ok(cli) => cli,
        Err(mut error) => {
            refused::drop_tips(&mut error);
            // Help goes to standard output; a reader that has gone away has read enough.
            error.print().ok();
            return ExitCode::from(
                u8::try_from(error.exit_code()).unwrap_or(Kind::Usage.exit_code()),
            );
        }
    };
    match commands::run(cli, &env) {
        Ok(status) => status,
        Err(failure) => {
            let report = failure.render(settings::colour(&env));
            diagnostics::warn(&report);
            ExitCode::from(failure.kind.exit_code())
        }
    }
}

/// Says what went wrong in rbuild itself and ends the process; a release build would abort without an exit status.
#[expect(
    clippy::exit,
    clippy::disallowed_methods,
    reason = "after a panic there is nothing left whose destructor should run"
)]
fn report_panic(panic: &std::panic::PanicHookInfo<'_>) {
    let message = panic
        .payload_as_str()
        .unwrap_or("a panic without a message");
    let place = panic
        .location()
        .map(|place| format!(" ({}:{})", place.file(), place.line()))
        .unwrap_or_default();
    let failure = if is_no_thread(message) {
        Failure::new(Kind::Machine, "the system gives no more threads").with_hint(
            "allow more of them: `ulimit -u`, and `pids.max` of the cgroup (a pod's pid limit)",
        )
    } else {
        Failure::new(Kind::Bug, format!("{message}{place}"))
    };
    let report = failure.render(terminal::Colour::Off);
    diagnostics::warn(&report);
    std::process::exit(i32::from(failure.kind.exit_code()));
}

/// Whether a panic says that no thread could be started. That is the machine's fault, but hardly any way to start one has another
/// answer to it: that of scopes has none, nor that of the network's runtime.
fn is_no_thread(message: &str) -> bool {
    let starts = [
        "failed to spawn thread",
        "OS can't spawn worker thread",
        "OS can't spawn thread",
    ];
    starts.iter().any(|start| message.starts_with(start))
}
