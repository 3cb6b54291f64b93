//! From [`Dockerfile`] back to text, and to a form that shows the tree.

use std::fmt;

use super::{
    CommandLine, Dockerfile, HealthCommand, Healthcheck, Heredoc, Instruction, InstructionKind,
    Pair, Run, Source, Transfer, Word,
    lines::without_continuation,
    quote::{quoted, quoted_list},
};

/// Lines are broken when they get longer; far below what a reader takes.
const LONG_LINE: usize = 30_000;

impl fmt::Display for Dockerfile {
    /// Prints the file: directives, then each instruction on one line with its comments above and its heredocs below.
    /// Parsing the print of a file without errors gives the same tree, spans aside.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let directives = &self.directives;
        if let Some(syntax) = &directives.syntax {
            writeln!(f, "# syntax={}", syntax.value)?;
        }
        if let Some(escape) = &directives.escape {
            writeln!(f, "# escape={}", escape.value)?;
        }
        if let Some(check) = &directives.check {
            writeln!(f, "# check={}", check.value)?;
        }
        // Whatever follows is no directive.
        writeln!(f)?;
        for instruction in &self.instructions {
            for comment in &instruction.comments {
                writeln!(f, "# {}", comment.value)?;
            }
            write_line(f, instruction, self.escape())?;
            for heredoc in &instruction.heredocs {
                writeln!(f, "{}{}", heredoc.content, heredoc.name)?;
            }
        }
        Ok(())
    }
}

fn write_line(f: &mut fmt::Formatter<'_>, instruction: &Instruction, escape: char) -> fmt::Result {
    let blanks = trailing_blanks(instruction);
    let text = format!("{}{blanks}", instruction.text);
    let mut rest = text.as_str();
    while rest.len() > LONG_LINE {
        let breaks = rest.char_indices().take_while(|(at, _)| *at <= LONG_LINE);
        let can_break = |(at, c): &(usize, char)| {
            *at > 0 && !c.is_whitespace() && *c != '#' && !rest[..*at].ends_with(escape)
        };
        let Some((at, _)) = breaks.filter(can_break).last() else {
            break;
        };
        writeln!(f, "{}{escape}", &rest[..at])?;
        rest = &rest[at..];
    }
    let is_misread = without_continuation(rest, escape).is_some() || rest.ends_with('\r');
    if is_misread && !blanks.is_empty() {
        // Such a line comes from a continuation that the end of the file cut off.
        return writeln!(f, "{rest}{escape}");
    }
    // A vertical tab is a blank that is trimmed, but none that may stand behind an escape character that continues.
    let end = if is_misread { "\u{b}" } else { "" };
    writeln!(f, "{rest}{end}")
}

/// The blanks at the end of the line, if they mean something: in a trigger, which is stored as it is written.
fn trailing_blanks(instruction: &Instruction) -> &str {
    let InstructionKind::Onbuild(onbuild) = &instruction.kind else {
        return "";
    };
    let below: usize = instruction
        .heredocs
        .iter()
        .map(|h| 1 + h.content.len() + h.name.len())
        .sum();
    let trigger = onbuild.trigger.value.as_str();
    let line = &trigger[..trigger.len() - below];
    &line[line.trim_end().len()..]
}

impl Dockerfile {
    /// The tree as text, for tests and for people: a line for each instruction, with its lines in the file, its words
    /// quoted.
    pub fn tree(&self) -> String {
        let mut out = String::new();
        let directives = &self.directives;
        let mut directive = |name: &str, value: Option<String>| {
            out.extend(value.map(|value| format!("# {name} {value}\n")));
        };
        directive(
            "syntax",
            directives.syntax.as_ref().map(|w| quoted(&w.value)),
        );
        directive(
            "escape",
            directives.escape.as_ref().map(|c| c.value.to_string()),
        );
        directive("check", directives.check.as_ref().map(|w| quoted(&w.value)));
        for instruction in &self.instructions {
            let (first, last) = instruction.span.lines(&self.text);
            let lines = if first == last {
                first.to_string()
            } else {
                format!("{first}-{last}")
            };
            let facts = facts(instruction).join(" ");
            let line = format!("{lines:<5} {} {facts}", instruction.name());
            out += line.trim_end();
            out.push('\n');
            for comment in &instruction.comments {
                out.extend(["      comment ", &quoted(&comment.value), "\n"]);
            }
            for heredoc in &instruction.heredocs {
                out.extend(["      ", &heredoc_facts(heredoc), "\n"]);
            }
            if instruction.empty_continuation.is_some() {
                out += "      has an empty continuation line\n";
            }
        }
        out
    }
}

fn heredoc_facts(heredoc: &Heredoc) -> String {
    let fd = if heredoc.fd == 0 {
        String::new()
    } else {
        heredoc.fd.to_string()
    };
    let arrow = if heredoc.chomp { "<<-" } else { "<<" };
    let expand = if heredoc.expand { " expand" } else { "" };
    format!(
        "heredoc {fd}{arrow}{}{expand} {}",
        quoted(&heredoc.name),
        quoted(&heredoc.content)
    )
}

/// `name "value"`, if there is one.
fn fact(name: &str, word: Option<&Word>) -> Option<String> {
    word.map(|w| format!("{name}={}", quoted(&w.value)))
}

fn switch(name: &str, on: bool) -> Option<String> {
    on.then(|| name.to_owned())
}

fn command(command: &CommandLine) -> String {
    match command {
        CommandLine::Shell(line) => format!("shell {}", quoted(&line.value)),
        CommandLine::Exec(argv) => format!("exec {}", quoted_list(argv)),
    }
}

fn pairs(pairs: &[Pair], legacy: bool) -> Vec<String> {
    let pair = |p: &Pair| format!("{}={}", quoted(&p.key.value), quoted(&p.value.value));
    switch("legacy", legacy)
        .into_iter()
        .chain(pairs.iter().map(pair))
        .collect()
}

fn words(words: &[Word]) -> Vec<String> {
    words.iter().map(|w| quoted(&w.value)).collect()
}

fn transfer(transfer: &Transfer) -> Vec<String> {
    let source = |source: &Source| match source {
        Source::Path(path) => quoted(&path.value),
        Source::Heredoc(heredoc) => format!("<<{}", quoted(&heredoc.name)),
    };
    let mut facts: Vec<String> = transfer.sources.iter().map(source).collect();
    facts.push(format!("to {}", quoted(&transfer.dest.value)));
    facts.extend(switch("json", transfer.json));
    facts.extend(fact("chown", transfer.chown.as_ref()));
    facts.extend(fact("chmod", transfer.chmod.as_ref()));
    facts.extend(switch("link", transfer.link));
    facts.extend(
        transfer
            .exclude
            .iter()
            .filter_map(|e| fact("exclude", Some(e))),
    );
    facts
}

fn run(run: &Run) -> Vec<String> {
    let mut facts = vec![command(&run.command)];
    facts.extend(run.mounts.iter().filter_map(|m| fact("mount", Some(m))));
    facts.extend(
        run.network
            .as_ref()
            .map(|n| format!("network={:?}", n.value)),
    );
    facts.extend(
        run.security
            .as_ref()
            .map(|s| format!("security={:?}", s.value)),
    );
    for device in &run.devices {
        facts.push(format!("device={}", quoted(&device.value.name)));
        facts.extend(switch("required", device.value.required));
    }
    facts
}

fn health(check: &HealthCommand) -> Vec<String> {
    let durations = [
        ("interval", check.interval),
        ("timeout", check.timeout),
        ("start-period", check.start_period),
        ("start-interval", check.start_interval),
    ];
    let given = durations.iter().filter(|(_, d)| !d.is_zero());
    let mut facts = vec![command(&check.command)];
    facts.extend(given.map(|(name, duration)| format!("{name}={duration:?}")));
    facts.extend((check.retries > 0).then(|| format!("retries={}", check.retries)));
    facts
}

fn facts(instruction: &Instruction) -> Vec<String> {
    match &instruction.kind {
        InstructionKind::Add(add) => {
            let mut facts = transfer(&add.transfer);
            facts.extend(fact("checksum", add.checksum.as_ref()));
            facts.extend(add.keep_git_dir.map(|on| format!("keep-git-dir={on}")));
            facts.extend(add.unpack.map(|on| format!("unpack={on}")));
            facts
        }
        InstructionKind::Arg(arg) => arg
            .args
            .iter()
            .map(|a| match &a.value {
                Some(value) => format!("{}={}", quoted(&a.name.value), quoted(&value.value)),
                None => quoted(&a.name.value),
            })
            .collect(),
        InstructionKind::Cmd(cmd) => vec![command(&cmd.command)],
        InstructionKind::Copy(copy) => {
            let mut facts = transfer(&copy.transfer);
            facts.extend(fact("from", copy.from.as_ref()));
            facts.extend(switch("parents", copy.parents));
            facts
        }
        InstructionKind::Entrypoint(entrypoint) => vec![command(&entrypoint.command)],
        InstructionKind::Env(env) => pairs(&env.pairs, env.legacy),
        InstructionKind::Expose(expose) => words(&expose.ports),
        InstructionKind::From(from) => {
            let mut facts = vec![quoted(&from.image.value)];
            facts.extend(fact("as", from.alias.as_ref().map(|a| &a.name)));
            facts.extend(fact("platform", from.platform.as_ref()));
            facts
        }
        InstructionKind::Healthcheck(Healthcheck::None) => vec!["none".to_owned()],
        InstructionKind::Healthcheck(Healthcheck::Check(check)) => health(check),
        InstructionKind::Label(label) => pairs(&label.pairs, label.legacy),
        InstructionKind::Maintainer(maintainer) => vec![quoted(&maintainer.name.value)],
        InstructionKind::Onbuild(onbuild) => vec![quoted(&onbuild.trigger.value)],
        InstructionKind::Run(r) => run(r),
        InstructionKind::Shell(shell) => vec![quoted_list(&shell.argv)],
        InstructionKind::Stopsignal(stopsignal) => vec![quoted(&stopsignal.signal.value)],
        InstructionKind::User(user) => vec![quoted(&user.user.value)],
        InstructionKind::Volume(volume) => {
            let mut facts = words(&volume.paths);
            facts.extend(switch("json", volume.json));
            facts
        }
        InstructionKind::Workdir(workdir) => vec![quoted(&workdir.path.value)],
    }
}
