//! `cache ls`, `du`, `prune`, `verify`: the upkeep of the store. And what happens to it after a build, when it may have so
//! much room only.

use std::{
    collections::BTreeMap,
    process::ExitCode,
    time::{Duration, SystemTime},
};

use rbuild::{
    snapshot::Style,
    store::Store,
    upkeep::{self, Inventory, Item, PartKind, Policy, UpkeepError, Verified},
};
use serde_json::{Value, json};

use super::cache_transfer;
use crate::cli::{
    args::DataFormat,
    cache_args::{
        CacheArgs, CacheCommand, CacheDuArgs, CacheLsArgs, CachePruneArgs, CacheVerifyArgs, narrow,
    },
    classify,
    count::counted,
    diagnostics::{self, Failure, Kind},
    environment::Environment,
    progress::bytes,
    stdout, terminal,
};

/// As much of an instruction fits into a list.
const MAX_DESCRIPTION: usize = 60;

/// `rbuild cache`.
pub(crate) fn run(
    (store, style): (&Store, Style),
    args: &CacheArgs,
    env: &Environment,
) -> Result<ExitCode, Failure> {
    match &args.command {
        CacheCommand::Ls(args) => list(store, args),
        CacheCommand::Du(args) => usage(store, args),
        CacheCommand::Prune(args) => prune(store, args),
        CacheCommand::Verify(args) => return verify(store, args),
        CacheCommand::Export(args) => cache_transfer::export((store, style), args, env),
        CacheCommand::Import(args) => cache_transfer::import((store, style), args),
    }
    .map(|()| ExitCode::SUCCESS)
}

fn failure(error: &UpkeepError) -> Failure {
    classify::failure(error)
}

fn take(store: &Store) -> Result<Inventory, Failure> {
    Inventory::take(store).map_err(|e| failure(&e))
}

fn list(store: &Store, args: &CacheLsArgs) -> Result<(), Failure> {
    let inventory = take(store)?;
    let policy = narrow(Policy::default(), &args.filter);
    let now = SystemTime::now();
    let mut items: Vec<&Item> = inventory.items.iter().collect();
    items.retain(|item| {
        let kind = policy.kinds.as_ref();
        let age = now.duration_since(item.last_used).unwrap_or_default();
        kind.is_none_or(|kinds| kinds.contains(&item.kind))
            && policy.older_than.is_none_or(|least| age >= least)
    });
    items.sort_by(|a, b| b.last_used.cmp(&a.last_used).then(a.id.cmp(&b.id)));
    if args.format == DataFormat::Json {
        let values: Vec<Value> = items.iter().map(|item| in_json(item)).collect();
        return stdout::print_json(&values);
    }
    let heading = ["ID", "TYPE", "SIZE", "LAST USED", "USE", "WHAT"];
    let mut table = vec![heading.map(ToOwned::to_owned)];
    table.extend(items.iter().map(|item| {
        [
            id(item, args.no_trunc),
            item.kind.name().to_owned(),
            bytes(item.parts.iter().map(|part| part.size).sum()),
            ago(now, item.last_used),
            used_by(item).to_owned(),
            description(item, args.no_trunc),
        ]
    }));
    stdout::print(&stdout::table(&table))
}

fn id(item: &Item, whole: bool) -> String {
    let id = terminal::one_line(&item.id);
    if whole {
        return id;
    }
    let short = id.strip_prefix("sha256:").unwrap_or(&id);
    let (hex, rest) = short.split_once('-').unwrap_or((short, ""));
    let end = hex.char_indices().nth(12).map_or(hex.len(), |(at, _)| at);
    let dash = if rest.is_empty() { "" } else { "-" };
    format!("{}{dash}{rest}", &hex[..end])
}

fn description(item: &Item, whole: bool) -> String {
    let text = terminal::one_line(&item.description);
    if whole || text.chars().count() <= MAX_DESCRIPTION {
        return text;
    }
    let mut short: String = text.chars().take(MAX_DESCRIPTION - 1).collect();
    short.push('…');
    short
}

fn used_by(item: &Item) -> &'static str {
    match (item.in_use, item.shared) {
        (true, _) => "build",
        (false, true) => "image",
        (false, false) => "-",
    }
}

/// How long ago, in the largest unit of which there are two.
fn ago(now: SystemTime, then: SystemTime) -> String {
    let seconds = now.duration_since(then).unwrap_or(Duration::ZERO).as_secs();
    for (unit, length) in [("day", 86_400), ("hour", 3600), ("minute", 60)] {
        if seconds >= 2 * length {
            return format!("{} ago", counted(seconds / length, unit));
        }
    }
    format!("{} ago", counted(seconds, "second"))
}

fn in_json(item: &Item) -> Value {
    let last_used = jiff::Timestamp::try_from(item.last_used).map(|time| time.to_string());
    json!({
        "id": item.id,
        "type": item.kind.name(),
        "description": item.description,
        "size": item.parts.iter().map(|part| part.size).sum::<u64>(),
        "reclaimable": if item.in_use { 0 } else { item.size() },
        "lastUsed": last_used.ok(),
        "inUse": item.in_use,
        "shared": item.shared,
    })
}

/// Bytes of one sort of parts.
#[derive(Default)]
struct Sum {
    total: u64,
    images: u64,
    shared: u64,
    in_use: u64,
    reclaimable: u64,
}

fn usage(store: &Store, args: &CacheDuArgs) -> Result<(), Failure> {
    let inventory = take(store)?;
    let mut sums: BTreeMap<PartKind, Sum> = BTreeMap::new();
    for item in &inventory.items {
        for part in &item.parts {
            let sum = sums.entry(part.kind).or_default();
            sum.total += part.size;
            *match (part.pinned, item.in_use, item.shared) {
                (true, _, _) => &mut sum.images,
                (_, true, _) => &mut sum.in_use,
                (_, _, true) => &mut sum.shared,
                _ => &mut sum.reclaimable,
            } += part.size;
        }
    }
    let all = PartKind::ALL.map(|kind| (kind.name(), sums.remove(&kind).unwrap_or_default()));
    let free = upkeep::free_space(store.root()).map_err(|e| failure(&e))?;
    if args.format == DataFormat::Json {
        let kinds: serde_json::Map<String, Value> = all
            .iter()
            .map(|(name, sum)| {
                let value = json!({
                    "total": sum.total,
                    "images": sum.images,
                    "shared": sum.shared,
                    "inUse": sum.in_use,
                    "reclaimable": sum.reclaimable,
                });
                ((*name).to_owned(), value)
            })
            .collect();
        return stdout::print_json(
            &json!({"kinds": kinds, "cache": inventory.size(), "free": free.0}),
        );
    }
    let heading = ["KIND", "TOTAL", "IMAGES", "SHARED", "IN USE", "RECLAIMABLE"];
    let mut table = vec![heading.map(ToOwned::to_owned)];
    let mut whole = Sum::default();
    let row = |name: &str, sum: &Sum| {
        let numbers = [
            sum.total,
            sum.images,
            sum.shared,
            sum.in_use,
            sum.reclaimable,
        ];
        let [total, images, shared, in_use, reclaimable] = numbers.map(bytes);
        [name.to_owned(), total, images, shared, in_use, reclaimable]
    };
    for (name, sum) in &all {
        table.push(row(name, sum));
        whole.total += sum.total;
        whole.images += sum.images;
        whole.shared += sum.shared;
        whole.in_use += sum.in_use;
        whole.reclaimable += sum.reclaimable;
    }
    table.push(row("total", &whole));
    let free = format!("free on disk: {}\n", bytes(free.0));
    stdout::print(&format!("{}{free}", stdout::table(&table)))
}

fn prune(store: &Store, args: &CachePruneArgs) -> Result<(), Failure> {
    let inventory = take(store)?;
    let free = upkeep::free_space(store.root()).map_err(|e| failure(&e))?;
    let chosen = args.policy().choose(&inventory, free, SystemTime::now());
    let as_text = args.format == DataFormat::Text;
    let (mut gone, mut total) = (Vec::new(), 0);
    let mut failed = None;
    for item in chosen {
        if !args.dry_run {
            match upkeep::remove(store, &inventory, item) {
                Ok(true) => {}
                // It came into use since it was looked at.
                Ok(false) => continue,
                Err(error) => {
                    failed.get_or_insert(error);
                    continue;
                }
            }
        }
        total += item.size();
        if as_text {
            let (id, size) = (id(item, true), bytes(item.size()));
            let (kind, what) = (item.kind.name(), description(item, false));
            stdout::print(&format!("{kind:<9}  {id}  {size}  {what}\n"))?;
        } else {
            gone.push(in_json(item));
        }
    }
    if as_text {
        stdout::print(&format!("total: {}\n", bytes(total)))?;
    } else {
        stdout::print_json(&json!({"items": gone, "reclaimed": total, "dryRun": args.dry_run}))?;
    }
    if !args.dry_run {
        upkeep::settle(store).map_err(|e| failure(&e))?;
    }
    failed.map_or(Ok(()), |error| Err(failure(&error)))
}

fn verify(store: &Store, args: &CacheVerifyArgs) -> Result<ExitCode, Failure> {
    let Verified { checked, damage } =
        upkeep::verify(store, !args.dry_run).map_err(|e| failure(&e))?;
    if !args.dry_run {
        upkeep::settle(store).map_err(|e| failure(&e))?;
    }
    if args.format == DataFormat::Json {
        let list: Vec<Value> = damage
            .iter()
            .map(|damage| json!({"place": damage.place, "reason": damage.reason}))
            .collect();
        stdout::print_json(
            &json!({"checked": checked, "damage": list, "repaired": !args.dry_run && !damage.is_empty()}),
        )?;
    } else {
        for damage in &damage {
            let line = format!("{}: {}", damage.place, damage.reason);
            stdout::print(&format!("{}\n", terminal::one_line(&line)))?;
        }
        let counts: Vec<String> = checked
            .iter()
            .map(|(&name, &count)| counted(count, name.trim_end_matches('s')))
            .collect();
        stdout::print(&format!("checked: {}\n", counts.join(", ")))?;
    }
    if damage.is_empty() {
        return Ok(ExitCode::SUCCESS);
    }
    let found = format!("{} damaged", damage.len());
    let failure = Failure::new(Kind::Machine, found);
    Err(if args.dry_run {
        failure
            .with_hint("without --dry-run what is damaged is dropped, and made again when needed")
    } else {
        failure.with_hint("what was damaged has been dropped; it is made again when needed")
    })
}

/// Makes room when the cache has more bytes than it may have. Of what this process uses nothing goes. What cannot be done
/// is a warning: the build is over.
pub(crate) fn collect(store: &Store, budget: u64) {
    let policy = Policy {
        all: true,
        max_used: Some(budget),
        ..Policy::default()
    };
    let collected = Inventory::take(store).and_then(|inventory| {
        let free = upkeep::free_space(store.root())?;
        for item in policy.choose(&inventory, free, SystemTime::now()) {
            upkeep::remove(store, &inventory, item)?;
        }
        Ok(())
    });
    if let Err(error) = collected {
        let mut said = vec![error.to_string()];
        said.extend(diagnostics::causes(&error));
        let said = said.join(": ");
        diagnostics::warn(&format!("warning: the cache was not cleaned: {said}\n"));
    }
}
