//! What Docker's command line takes and clap by itself does not: switches with a value (`--pull=true`, `--push=false`), and options that
//! are given once more, of which the last one holds. Scripts put their own before or behind what a caller adds.

use clap::{Arg, ArgAction, ArgMatches, Command, FromArgMatches as _, error::ErrorKind};

use super::refused::Refused;

/// The subcommands whose options are those of `docker buildx build`.
pub(super) const LIKE_DOCKER: [&str; 2] = ["build", "explain"];

/// Takes options again, and switches with values.
pub(super) fn as_docker_takes_them(mut command: Command) -> Command {
    command = command.args_override_self(true);
    for name in LIKE_DOCKER {
        command = command.mut_subcommand(name, |c| c.mut_args(with_value));
    }
    command
}

fn with_value(arg: Arg) -> Arg {
    if !matches!(arg.get_action(), ArgAction::SetTrue) {
        return arg;
    }
    arg.action(ArgAction::Set)
        .num_args(0..=1)
        .require_equals(true)
        .default_value("false")
        .default_missing_value("true")
        .value_parser(truth)
}

/// What Go's flags take for a switch.
fn truth(text: &str) -> Result<bool, String> {
    match text {
        "1" | "t" | "T" | "true" | "TRUE" | "True" => Ok(true),
        "0" | "f" | "F" | "false" | "FALSE" | "False" => Ok(false),
        _ => Err("it is neither true nor false".to_owned()),
    }
}

/// Reads the command line. What is wrong is told, and help given, in the words of `plain`, the command without switches that take
/// values.
pub(super) fn matches(
    plain: &mut Command,
    arguments: &[std::ffi::OsString],
) -> Result<ArgMatches, clap::Error> {
    let mut lenient = as_docker_takes_them(plain.clone());
    let error = match lenient.try_get_matches_from_mut(arguments) {
        Ok(matches) => return Ok(matches),
        Err(error) => error,
    };
    if error.kind() == ErrorKind::MissingRequiredArgument {
        refused(&lenient, arguments).map_err(|error| error.format(plain))?;
    }
    // Both find the same fault; only the words differ.
    let plain = plain.try_get_matches_from_mut(arguments);
    plain.and(Err(error))
}

/// A command line of another builder lacks the context where rbuild has it. Why its options are refused helps more than that.
fn refused(lenient: &Command, arguments: &[std::ffi::OsString]) -> Result<(), clap::Error> {
    let mut command = lenient.clone();
    for name in LIKE_DOCKER {
        command = command.mut_subcommand(name, |c| c.mut_args(|arg| arg.required(false)));
    }
    let matches = command.try_get_matches_from_mut(arguments);
    let of_build = matches.as_ref().ok().and_then(ArgMatches::subcommand);
    match of_build {
        Some((name, matches)) if LIKE_DOCKER.contains(&name) => {
            Refused::from_arg_matches(matches).map(|_fine| ())
        }
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::super::args::{Cli, Command, parse};
    use std::ffi::OsString;

    fn read(line: &str) -> Result<Cli, String> {
        let words = ["rbuild", "build"].into_iter().chain(line.split(' '));
        let words: Vec<OsString> = words.map(OsString::from).collect();
        parse(&words).map_err(|error| error.to_string())
    }

    fn build(line: &str) -> Box<super::super::build_args::BuildArgs> {
        match read(line).map(|cli| cli.command) {
            Ok(Command::Build(build)) => build,
            other => panic!("{line}: {other:?}"),
        }
    }

    #[test]
    fn switches_take_values_as_those_of_docker() {
        let args = build("--pull=true --no-cache=false --push=1 --load=F -qt app --check .");
        assert!(args.pull && !args.no_cache && args.push && !args.load && args.quiet && args.check);
        assert_eq!(args.tag, ["app"]);
        let error = read("--pull=always .").unwrap_err();
        assert!(
            error.contains("unexpected value 'always' for '--pull'"),
            "{error}"
        );
        let error = read("--push true .").unwrap_err();
        assert!(error.contains("unexpected argument '.'"), "{error}");
    }

    #[test]
    fn of_an_option_that_is_given_again_the_last_one_holds() {
        let args = build(
            "-f a --pull --target x --push -f b --pull=false --target= --push --tag 1 --tag 2 .",
        );
        assert_eq!(args.file.as_deref(), Some("b"));
        assert_eq!(args.target.as_deref(), Some(""));
        assert!(!args.pull && args.push);
        assert_eq!(args.tag, ["1", "2"]);
    }

    #[test]
    fn hosts_come_with_commas_between_them() {
        assert_eq!(
            build("--add-host a:10.0.0.1,b=::1 --add-host c=[::2] .")
                .add_host
                .len(),
            3
        );
    }

    #[test]
    fn a_command_line_of_another_builder_is_told_all_it_has_to_change() {
        let error =
            read("--context dir:///w --dockerfile D --destination r/x --cache=true --insecure")
                .unwrap_err();
        for said in [
            "--context=dir:///w is refused: the context is the argument without a dash",
            "--dockerfile=D is refused: it is `--file`",
            "--destination=r/x is refused: name the result with `-t NAME` and add `--push`",
            "--insecure is refused: say `--insecure-registry HOST`",
        ] {
            assert!(error.contains(said), "{error}");
        }
        assert!(!error.contains("--cache"), "{error}");
        let error = read("--pull").unwrap_err();
        assert!(error.contains("<CONTEXT>"), "{error}");
        build("--layers --cache=true --tls-verify=true --compress --rm=true .");
    }
}
