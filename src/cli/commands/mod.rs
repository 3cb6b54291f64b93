//! The commands, one function each: typed arguments in, data on standard output.

mod build;
mod check;
mod images;
mod plan;
mod registry;

use rbuild::store::Store;

use super::{
    args::{Cli, Command, DataFormat, VersionArgs},
    classify,
    diagnostics::Failure,
    environment::Environment,
    settings, stdout,
};

/// Runs a command.
pub(crate) fn run(cli: Cli, env: &Environment) -> Result<(), Failure> {
    let root = cli.root;
    let open = || {
        let root = settings::store_root(root.clone(), env)?;
        Store::open(&root).map_err(|e| classify::failure(&e))
    };
    match cli.command {
        Command::Images(args) => images::list(&open()?, &args),
        Command::Tag(args) => images::tag(&open()?, &args),
        Command::Rmi(args) => images::remove(&open()?, &args),
        Command::Inspect(args) => images::inspect(&open()?, &args),
        Command::Plan(args) => plan::run(&args, env),
        Command::Version(args) => version(&args),
        Command::Push(args) => registry::push(&open()?, &args, env),
        Command::Pull(args) => registry::pull(&open()?, &args, env),
        Command::Login(args) => registry::login(&args, env),
        Command::Logout(args) => registry::logout(&args, env),
        Command::Build(args) => build::run(&args, &settings::store_root(root, env)?, env),
        Command::Save(_) | Command::Load(_) => {
            Err(Failure::usage("this version cannot do that yet"))
        }
    }
}

fn version(args: &VersionArgs) -> Result<(), Failure> {
    let version = env!("CARGO_PKG_VERSION");
    match args.format {
        DataFormat::Text => stdout::print(&format!("rbuild {version}\n")),
        DataFormat::Json => stdout::print_json(&serde_json::json!({"version": version})),
    }
}
