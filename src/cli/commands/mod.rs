//! The commands, one function each: typed arguments in, data on standard output.

mod archive;
mod build;
mod cache;
mod cache_transfer;
mod check;
mod doctor;
mod explain;
mod images;
mod manifest;
mod plan;
mod registry;
mod run;
mod warm;

use std::{path::Path, process::ExitCode};

use rbuild::store::Store;

use build::Purpose;

use super::{
    args::{Cli, Command, DataFormat, VersionArgs},
    build_args::BuildArgs,
    cache_args::CacheArgs,
    classify,
    diagnostics::Failure,
    environment::Environment,
    namespace::{self, Place},
    run_args::RunArgs,
    settings, stdout,
};

/// Runs a command; gives the exit status of one that went well, or ran elsewhere.
pub(crate) fn run(cli: Cli, env: &Environment) -> Result<ExitCode, Failure> {
    let root = settings::store_root(cli.root, env);
    let open = || Store::open(&root.clone()?).map_err(|e| classify::failure(&e));
    match cli.command {
        Command::Build(args) => return build(&args, &root?, env, Purpose::Build),
        Command::Explain(args) => {
            return build(&args.build, &root?, env, Purpose::Explain(args.format));
        }
        Command::Run(args) => return run_image(&args, &root?, env),
        Command::Cache(args) => return cache(&args, &root?, env),
        Command::Images(args) => images::list(&open()?, &args),
        Command::Tag(args) => images::tag(&open()?, &args),
        Command::Rmi(args) => images::remove(&open()?, &args),
        Command::Push(args) => registry::push(&open()?, &args, env),
        Command::Pull(args) => registry::pull(&open()?, &args, env),
        Command::Warm(args) => warm::run(&open()?, &args, env),
        Command::Manifest(args) => manifest::run(&open()?, &args, env),
        Command::Inspect(args) => images::inspect(&open()?, &args),
        Command::Save(args) => archive::save(&open()?, &args, env),
        Command::Load(args) => archive::load(&open()?, &args),
        Command::Plan(args) => plan::run(&args, env),
        Command::Login(args) => registry::login(&args, env),
        Command::Logout(args) => registry::logout(&args, env),
        Command::Doctor(args) => doctor::run(&args, &root?),
        Command::Version(args) => version(&args),
    }?;
    Ok(ExitCode::SUCCESS)
}

/// Builds in a user namespace where that takes one.
fn build(
    args: &BuildArgs,
    root: &Path,
    env: &Environment,
    purpose: Purpose,
) -> Result<ExitCode, Failure> {
    let isolation = settings::isolation(args.isolation, env)?;
    match namespace::enter(isolation, root, env) {
        Place::Here(rung) => {
            build::run(args, root, env, &rung, purpose).map(|()| ExitCode::SUCCESS)
        }
        Place::Finished(status) => Ok(ExitCode::from(status)),
    }
}

/// Runs a program of an image, in a user namespace where that takes one.
fn run_image(args: &RunArgs, root: &Path, env: &Environment) -> Result<ExitCode, Failure> {
    let isolation = settings::isolation(args.isolation, env)?;
    match namespace::enter(isolation, root, env) {
        Place::Here(rung) => run::run(args, root, env, &rung),
        Place::Finished(status) => Ok(ExitCode::from(status)),
    }
}

/// Looks after the store from where its files' owners can be touched.
fn cache(args: &CacheArgs, root: &Path, env: &Environment) -> Result<ExitCode, Failure> {
    match namespace::enter(settings::isolation(None, env)?, root, env) {
        Place::Here(rung) => {
            let store = Store::open(root).map_err(|e| classify::failure(&e))?;
            let style = build::state_style(rung.ok());
            cache::run((&store, style), args, env)
        }
        Place::Finished(status) => Ok(ExitCode::from(status)),
    }
}

fn version(args: &VersionArgs) -> Result<(), Failure> {
    let version = env!("CARGO_PKG_VERSION");
    match args.format {
        DataFormat::Text => stdout::print(&format!("rbuild {version}\n")),
        DataFormat::Json => stdout::print_json(&serde_json::json!({"version": version})),
    }
}
