//! `rbuild doctor`.

use std::{fmt::Write as _, path::Path};

use rbuild::sandbox::{Ability, IdMap, Identity, Probe, Rung, Sandbox, Verdict};
use serde_json::{Value, json};

use crate::cli::{
    args::{DataFormat, DoctorArgs},
    classify,
    count::counted,
    diagnostics::Failure,
    stdout,
};

/// Tries what builds with their store in `root` need, and prints what was found. Leaves nothing behind.
pub(crate) fn run(args: &DoctorArgs, root: &Path) -> Result<(), Failure> {
    // The store itself is made by the first build; it will be on the file system of what is there.
    let place = root.ancestors().find(|dir| dir.is_dir());
    let place = place.unwrap_or(Path::new("/"));
    let probe = Sandbox::new()
        .probe(place)
        .map_err(|error| classify::failure(&error))?;
    let verdict = probe.verdict();
    if args.json || args.format == DataFormat::Json {
        return stdout::print_json(&document(root, &probe, &verdict));
    }
    stdout::print(&text(root, &probe, &verdict))
}

/// What a rung is, in few words.
fn describe(rung: Option<Rung>, ids: Option<IdMap>) -> String {
    let amount = match ids {
        Some(IdMap::Ranges { uids, gids }) => {
            format!("{}, owners are real", counted(uids.min(gids), "id"))
        }
        Some(IdMap::Single) => "one id, other owners are recorded".to_owned(),
        Some(IdMap::Full) | None => "all ids, owners are real".to_owned(),
    };
    match rung {
        Some(Rung::Native) => "namespaces, with the privilege of root".to_owned(),
        Some(Rung::Userns) => format!("namespaces, in a user namespace; {amount}"),
        Some(Rung::Chroot) => {
            "a root directory of its own, /proc and mounts served by a supervisor; owners are real"
                .to_owned()
        }
        Some(Rung::Emulate) => {
            "system calls that name files are answered by a server; owners are recorded".to_owned()
        }
        None => "RUN steps cannot be run here; builds whose steps need none, or are cached, can"
            .to_owned(),
    }
}

fn text(root: &Path, probe: &Probe, verdict: &Verdict) -> String {
    let rung = verdict.rung.map_or("none", Rung::name);
    let mut out = format!(
        "isolation   {rung}: {}\nstore       {}{}\nprocess     {}\n\n",
        describe(verdict.rung, probe.ids),
        root.display(),
        probe
            .filesystem
            .as_ref()
            .map_or(String::new(), |name| format!(" ({name})")),
        process(&probe.identity),
    );
    let mut rows = vec![["PROBE".to_owned(), "FOUND".to_owned()]];
    if probe.check(Ability::UserNamespace).is_none() {
        let name = Ability::UserNamespace.name().to_owned();
        rows.push([name, "not needed".to_owned()]);
    }
    for check in &probe.checks {
        let found = match &check.failure {
            None => "yes".to_owned(),
            Some(failure) => match probe.obstacle {
                Some(obstacle) if check.ability == Ability::UserNamespace => {
                    format!("no: {failure}: {obstacle}")
                }
                _ => format!("no: {failure}"),
            },
        };
        rows.push([check.ability.name().to_owned(), found]);
    }
    out.push_str(&stdout::table(&rows));
    out.push('\n');
    if verdict.advice.is_empty() {
        out.push_str("Nothing to change.\n");
    }
    for advice in &verdict.advice {
        let (gain, change) = (advice.gain.text(), &advice.change);
        // Writing to a string cannot fail.
        let _fits = writeln!(out, "for {gain}:\n  {change}");
    }
    out
}

fn process(identity: &Identity) -> String {
    let mut words = vec![
        format!("user {}, group {}", identity.uid, identity.gid),
        match identity.capabilities.count_ones() {
            0 => "no capabilities".to_owned(),
            1 => "1 capability".to_owned(),
            n => format!("{n} capabilities"),
        },
        match identity.ids {
            IdMap::Full => "all ids".to_owned(),
            IdMap::Ranges { uids, gids } => format!(
                "{} and {} exist",
                counted(uids, "user"),
                counted(gids, "group")
            ),
            IdMap::Single => "one user exists".to_owned(),
        },
    ];
    if identity.filtered {
        words.push("system calls are filtered".to_owned());
    }
    if identity.no_new_privileges {
        words.push("no new privileges".to_owned());
    }
    if identity.uid != 0 {
        let (users, groups) = identity.subordinate;
        let helpers = if identity.map_helpers { "" } else { "no " };
        words.push(format!(
            "{} and {}, {helpers}newuidmap",
            counted(users, "subordinate user"),
            counted(groups, "group")
        ));
    }
    words.join(", ")
}

/// The findings for programs. Names are stable; there may be more of them.
fn document(root: &Path, probe: &Probe, verdict: &Verdict) -> Value {
    let checks: Vec<Value> = probe
        .checks
        .iter()
        .map(|check| {
            json!({
                "probe": check.ability.name(),
                "works": check.failure.is_none(),
                "error": check.failure.as_ref().map(ToString::to_string),
            })
        })
        .collect();
    let advice: Vec<Value> = verdict
        .advice
        .iter()
        .map(|advice| json!({"for": advice.gain.text(), "change": advice.change}))
        .collect();
    json!({
        "isolation": verdict.rung.map(Rung::name),
        "description": describe(verdict.rung, probe.ids),
        "ids": probe.ids.map(ids),
        "store": root.to_string_lossy(),
        "filesystem": probe.filesystem,
        "process": {
            "uid": probe.identity.uid,
            "gid": probe.identity.gid,
            "capabilities": format!("{:016x}", probe.identity.capabilities),
            "noNewPrivileges": probe.identity.no_new_privileges,
            "filtered": probe.identity.filtered,
            "ids": ids(probe.identity.ids),
            "subordinateUsers": probe.identity.subordinate.0,
            "subordinateGroups": probe.identity.subordinate.1,
            "mapHelpers": probe.identity.map_helpers,
        },
        "probes": checks,
        "obstacle": probe.obstacle.map(|obstacle| obstacle.to_string()),
        "advice": advice,
    })
}

fn ids(ids: IdMap) -> Value {
    match ids {
        IdMap::Full => json!("all"),
        IdMap::Ranges { uids, gids } => json!({"users": uids, "groups": gids}),
        IdMap::Single => json!("one"),
    }
}
