//! Lists of packages (SBOM): a stage behind all others, in which a scanner looks at their files.
//!
//! ```text
//! FROM <scanner>
//! WORKDIR /run/out                                        where the scanner writes NAME.spdx.json
//! RUN --mount=from=<target>,target=/run/src/core/sbom     the image's files
//!     --mount=from=<stage>,target=/run/src/extras/sbom-<stage>    …
//!     --mount=type=tmpfs,target=/tmp  <entrypoint and command of the scanner>
//! ```
//! What scanners are told, and by which variables, is BuildKit's protocol, see `docs/attestations/sbom-protocol.md` there. As a stage it
//! is cached, explained and isolated as any other; it belongs to no image.

use std::{collections::BTreeMap, path::PathBuf};

use super::{
    Base, ImageSource, Mount, MountKind, Network, Op, Origin, Plan, RunOp, Stage, StageId, Step,
    WorkdirOp, env, planner::Planner,
};
use crate::{
    dockerfile::scalar::parse_bool,
    oci::{Config, Platform},
    source::Span,
};

/// What the protocol calls the image's files.
const CORE: &str = "sbom";
const SOURCES: &str = "/run/src";
/// Where a scanner leaves its lists, as a path of the stage's files.
pub const SCAN_RESULTS: &str = "run/out";
const SCAN_CONTEXT: &str = "BUILDKIT_SBOM_SCAN_CONTEXT";
const SCAN_STAGE: &str = "BUILDKIT_SBOM_SCAN_STAGE";

/// The program that lists what an image consists of.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Scanner {
    /// The image that holds it: a reference in full.
    pub image: String,
    /// What else it is told: values of the variables `BUILDKIT_SCAN_` and the name.
    pub parameters: BTreeMap<String, String>,
}

impl Scanner {
    /// The image, as builds look images up: the scanner is a program of this machine.
    pub fn source(&self) -> ImageSource {
        ImageSource {
            name: self.image.clone(),
            named: false,
            platform: Platform::host().normalized(),
        }
    }
}

/// What a scanner sees beside the target's files.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ScanExtras {
    /// Whether it sees the build context.
    pub(super) context: bool,
    /// The stages that it sees, by name.
    pub(super) stages: BTreeMap<String, StageId>,
}

/// A scanner's image names no program.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NoProgram;

impl Plan {
    /// The stage that lists what the target consists of, where there is one.
    pub fn scan(&self) -> Option<&Stage> {
        self.stages.iter().find(|stage| stage.is_scan)
    }

    /// Adds the stage in which `scanner`, whose image has this config, looks at the target.
    pub fn add_scan(&mut self, scanner: &Scanner, config: &Config) -> Result<(), NoProgram> {
        let words = [&config.entrypoint, &config.cmd];
        let argv: Vec<String> = words.into_iter().flatten().flatten().cloned().collect();
        if argv.is_empty() {
            return Err(NoProgram);
        }
        let target = self.stages.iter().find(|stage| stage.id == self.target);
        // No line of the Dockerfile asks for it.
        let span = Span::default();
        let step = |text: String, op: Op| Step {
            number: None,
            span,
            label: format!("[{}] {text}", self.platform),
            created_by: text.clone(),
            text,
            op,
        };
        let steps = vec![
            step(
                format!("making room for what {} finds", scanner.image),
                Op::Workdir(WorkdirOp {
                    path: format!("/{SCAN_RESULTS}"),
                    user: String::new(),
                    time: None,
                }),
            ),
            step(
                format!("generating sbom using {}", scanner.image),
                Op::Run(Box::new(RunOp {
                    argv,
                    scripts: Vec::new(),
                    env: self.environment(scanner, config),
                    args: Vec::new(),
                    proxy_env: Vec::new(),
                    user: String::new(),
                    workdir: PathBuf::from(match config.working_dir.as_str() {
                        "" => "/",
                        dir => dir,
                    }),
                    mounts: self.mounts(),
                    network: Some(Network::Default),
                    insecure: false,
                    devices: Vec::new(),
                })),
            ),
        ];
        let last = self.stages.iter().map(|stage| stage.id.0).max();
        let scan = Stage {
            id: StageId(last.map_or(0, |last| last + 1)),
            // Who wants the target to be built anew wants it to be looked at anew.
            alias: target.and_then(|target| target.alias.clone()),
            name: CORE.to_owned(),
            platform: scanner.source().platform,
            base: Base::Image(scanner.source()),
            from_label: Some(format!("docker-image://{}", scanner.image)),
            span,
            steps,
            config: None,
            image_platform: scanner.source().platform,
            author: None,
            is_scan: true,
        };
        self.stages.push(scan);
        Ok(())
    }

    fn environment(&self, scanner: &Scanner, config: &Config) -> Vec<(String, String)> {
        let mut vars = env::Env::default();
        for variable in &config.env {
            let (name, value) = env::split(variable);
            vars.set(name, value);
        }
        vars.set("BUILDKIT_SCAN_DESTINATION", format!("/{SCAN_RESULTS}/"));
        vars.set("BUILDKIT_SCAN_SOURCE", format!("{SOURCES}/core/{CORE}"));
        if self.extras.context || !self.extras.stages.is_empty() {
            vars.set("BUILDKIT_SCAN_SOURCE_EXTRAS", format!("{SOURCES}/extras"));
        }
        for (name, value) in &scanner.parameters {
            vars.set(format!("BUILDKIT_SCAN_{name}"), value);
        }
        vars.to_vec()
    }

    fn mounts(&self) -> Vec<Mount> {
        let mount = |target: String, kind: MountKind| Mount {
            target: Some(target.into()),
            kind,
            span: Span::default(),
        };
        let files = |from: Origin| MountKind::Bind {
            from,
            source: "/".to_owned(),
            writable: false,
        };
        let extra = |name: &str| format!("{SOURCES}/extras/{CORE}-{name}");
        let mut mounts = vec![
            mount(
                "/tmp".to_owned(),
                MountKind::Tmpfs {
                    size: None,
                    writable: true,
                },
            ),
            mount(
                format!("{SOURCES}/core/{CORE}"),
                files(Origin::Stage(self.target)),
            ),
        ];
        for (name, id) in &self.extras.stages {
            mounts.push(mount(extra(name), files(Origin::Stage(*id))));
        }
        if self.extras.context {
            mounts.push(mount(extra("context"), files(Origin::Context)));
        }
        mounts
    }
}

/// What the arguments of a stage say of what is looked at besides the target.
#[derive(Debug, Clone, Copy)]
pub(super) struct Scanned {
    /// The stage.
    stage: bool,
    /// The build context, where the stage is the target.
    context: bool,
}

impl Planner<'_> {
    /// What the arguments of the stages say of their being looked at.
    pub(super) fn scan_extras(
        &self,
        target: usize,
        reachable: impl IntoIterator<Item = usize>,
    ) -> ScanExtras {
        let scanned = |at: usize| {
            let known = self.states[at].scanned;
            known.unwrap_or_else(|| self.scanned(at))
        };
        ScanExtras {
            context: scanned(target).context,
            stages: reachable
                .into_iter()
                .filter(|&at| at != target && !self.states[at].is_bare())
                .filter(|&at| scanned(at).stage)
                .map(|at| (self.states[at].title.clone(), StageId(at)))
                .collect(),
        }
    }

    pub(super) fn scanned(&self, at: usize) -> Scanned {
        Scanned {
            stage: self.is_scanned(at, SCAN_STAGE),
            context: self.is_scanned(at, SCAN_CONTEXT),
        }
    }

    /// Whether an argument is true for a stage, or names it. The last one counts, which is the stage's own where it has one.
    fn is_scanned(&self, at: usize, argument: &str) -> bool {
        let state = &self.states[at];
        let own = state.args.iter().rev();
        let mut own = own.filter(|(name, _)| name == argument);
        let value = own
            .find_map(|(_, value)| value.as_deref())
            .or_else(|| self.globals.env.get(argument));
        value.is_some_and(|value| match parse_bool(value) {
            Some(is_on) => is_on,
            None => value.split(',').any(|name| name == state.title),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        dockerfile,
        plan::{Options, Planned, plan},
    };

    fn planned(text: &str, args: &[(&str, &str)]) -> Plan {
        let build_args = args.iter();
        let options = Options {
            build_args: build_args
                .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
                .collect(),
            ..Options::default()
        };
        match plan(&dockerfile::parse(text), &options, &BTreeMap::new()) {
            Ok(Planned::Plan(plan)) => *plan,
            other => panic!("no plan: {other:?}"),
        }
    }

    fn scanned(text: &str, args: &[(&str, &str)]) -> (bool, Vec<String>) {
        let extras = planned(text, args).extras;
        (extras.context, extras.stages.into_keys().collect())
    }

    const STAGES: &str = "FROM scratch AS lib\nFROM scratch AS Build\nCOPY --from=lib / /\n\
        FROM scratch\nCOPY --from=build / /\n";

    #[test]
    fn arguments_say_what_else_is_scanned() {
        assert_eq!(scanned(STAGES, &[]), (false, vec![]));
        let all = format!("ARG {SCAN_STAGE}=true\nARG {SCAN_CONTEXT}=1\n{STAGES}");
        let both = vec!["build".to_owned(), "lib".to_owned()];
        assert_eq!(scanned(&all, &[]), (true, both));
        let named = [(SCAN_STAGE, "x,lib"), (SCAN_CONTEXT, "build")];
        assert_eq!(scanned(&all, &named), (false, vec!["lib".to_owned()]));
        let one = STAGES.replace(
            "AS Build\n",
            "AS Build\nARG BUILDKIT_SBOM_SCAN_STAGE=true\n",
        );
        assert_eq!(scanned(&one, &[]), (false, vec!["build".to_owned()]));
        // It takes a declaration, and one without a value says nothing.
        assert_eq!(scanned(STAGES, &[(SCAN_STAGE, "true")]), (false, vec![]));
        let off = one.replace("SCAN_STAGE=true", "SCAN_STAGE=false");
        let off = format!("ARG {SCAN_STAGE}=true\n{off}");
        assert_eq!(scanned(&off, &[]), (false, vec!["lib".to_owned()]));
    }

    #[test]
    fn the_scanner_is_told_where_what_is() {
        let mut plan = planned(&format!("ARG {SCAN_STAGE}=lib\n{STAGES}"), &[]);
        let scanner = Scanner {
            image: "example.com/scan:1".to_owned(),
            parameters: BTreeMap::from([("X".to_owned(), "y".to_owned())]),
        };
        assert_eq!(plan.add_scan(&scanner, &Config::default()), Err(NoProgram));
        assert!(plan.scan().is_none());
        let config = Config {
            entrypoint: Some(vec!["/scan".to_owned()]),
            cmd: Some(vec!["all".to_owned()]),
            env: vec!["PATH=/bin".to_owned()],
            ..Config::default()
        };
        plan.add_scan(&scanner, &config).expect("it has a program");
        let stage = plan.scan().expect("it was added");
        let Op::Run(run) = &stage.steps[1].op else {
            panic!("not a process: {stage:?}");
        };
        assert_eq!(run.argv, ["/scan", "all"]);
        let env: Vec<String> = run.env.iter().map(|(k, v)| format!("{k}={v}")).collect();
        let want = [
            "PATH=/bin",
            "BUILDKIT_SCAN_DESTINATION=/run/out/",
            "BUILDKIT_SCAN_SOURCE=/run/src/core/sbom",
            "BUILDKIT_SCAN_SOURCE_EXTRAS=/run/src/extras",
            "BUILDKIT_SCAN_X=y",
        ];
        assert_eq!(env, want);
        let targets: Vec<_> = run.mounts.iter().filter_map(|m| m.target.clone()).collect();
        let want = ["/tmp", "/run/src/core/sbom", "/run/src/extras/sbom-lib"];
        assert_eq!(targets, want.map(PathBuf::from));
        assert_eq!(
            stage.steps[1].label,
            format!(
                "[{}] generating sbom using example.com/scan:1",
                plan.platform
            )
        );
        assert_ne!(stage.id, plan.target);
    }
}
