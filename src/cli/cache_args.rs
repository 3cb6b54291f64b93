//! The options of `rbuild cache`, those of `prune` with the names of `docker buildx prune`.

use std::{path::PathBuf, str::FromStr, time::Duration};

use clap::{Args, Subcommand};
use rbuild::{
    source::suggest,
    upkeep::{Kind, Policy},
};

use super::{args::DataFormat, cache_spec::MountIds, values::ByteSize};

#[derive(Debug, Args)]
pub(crate) struct CacheArgs {
    #[command(subcommand)]
    pub(crate) command: CacheCommand,
}

#[derive(Debug, Subcommand)]
pub(crate) enum CacheCommand {
    /// List what the cache holds, what was used last first
    Ls(CacheLsArgs),
    /// Show what takes up how much
    Du(CacheDuArgs),
    /// Remove what is not in use; running builds are not disturbed
    Prune(CachePruneArgs),
    /// Read everything in the store, and drop what is damaged; exit status 3 when something was
    Verify(CacheVerifyArgs),
    /// Write the cache of all builds into a directory or an archive, for another machine
    Export(CacheExportArgs),
    /// Add what another machine exported; what is damaged is left out
    Import(CacheImportArgs),
}

#[derive(Debug, Args)]
pub(crate) struct CacheExportArgs {
    /// Where to: a directory, which --cache-from type=local,src=DIR reads as well, an archive FILE.tar, or - for an archive on
    /// standard output
    #[arg(value_name = "DIR|FILE.tar|-")]
    pub(crate) dest: PathBuf,
    /// Only what was used in this time: 36h, 7d, 1d12h
    #[arg(long, value_name = "DURATION")]
    pub(crate) used_within: Option<Age>,
    /// Also cache mounts (RUN --mount=type=cache): their ids, or all; those in use stay
    #[arg(long, value_name = "ID[,ID]|all")]
    pub(crate) cache_mounts: Option<MountIds>,
    /// The name of the cache in the directory
    #[arg(long, value_name = "NAME", default_value = "latest")]
    pub(crate) tag: String,
    /// How to print
    #[arg(long, value_enum, default_value_t)]
    pub(crate) format: DataFormat,
}

#[derive(Debug, Args)]
pub(crate) struct CacheImportArgs {
    /// Where from: a directory, also of --cache-to type=local,dest=DIR, an archive, or - for an archive on standard input
    #[arg(value_name = "DIR|FILE|-")]
    pub(crate) source: PathBuf,
    /// Also cache mounts that are not here, or were used longer ago and are not in use: their ids, or all
    #[arg(long, value_name = "ID[,ID]|all")]
    pub(crate) cache_mounts: Option<MountIds>,
    /// The name of the cache in the directory or archive
    #[arg(long, value_name = "NAME", default_value = "latest")]
    pub(crate) tag: String,
    /// How to print
    #[arg(long, value_enum, default_value_t)]
    pub(crate) format: DataFormat,
}

#[derive(Debug, Args)]
pub(crate) struct CacheLsArgs {
    /// Only until=DURATION (not used for so long) or type=KIND: step, blob, snapshot, mount, stat, position, fact, temporary
    #[arg(long, value_name = "KEY=VALUE")]
    pub(crate) filter: Vec<Filter>,
    /// Whole digests, whole instructions
    #[arg(long)]
    pub(crate) no_trunc: bool,
    /// How to print
    #[arg(long, value_enum, default_value_t)]
    pub(crate) format: DataFormat,
}

#[derive(Debug, Args)]
pub(crate) struct CacheDuArgs {
    /// How to print
    #[arg(long, value_enum, default_value_t)]
    pub(crate) format: DataFormat,
}

#[derive(Debug, Args)]
pub(crate) struct CachePruneArgs {
    /// Also what named images were made with; the images stay
    #[arg(short, long)]
    pub(crate) all: bool,
    /// Say what would go, and remove nothing
    #[arg(short = 'n', long)]
    pub(crate) dry_run: bool,
    /// Only until=DURATION (not used for so long) or type=KIND: step, blob, snapshot, mount, stat, position, fact, temporary
    #[arg(long, value_name = "KEY=VALUE")]
    pub(crate) filter: Vec<Filter>,
    /// Only what was not used for so long: 36h, 7d, 1d12h
    #[arg(long, value_name = "DURATION")]
    pub(crate) older_than: Option<Age>,
    /// What the cache may always keep
    #[arg(long, visible_alias = "keep-storage", value_name = "BYTES")]
    pub(crate) reserved_space: Option<ByteSize>,
    /// Remove what was not used for the longest time, until the cache has no more than this
    #[arg(long, value_name = "BYTES")]
    pub(crate) max_used_space: Option<ByteSize>,
    /// Remove what was not used for the longest time, until the disk has so much free
    #[arg(long, value_name = "BYTES")]
    pub(crate) min_free_space: Option<ByteSize>,
    /// Taken, and without effect: nobody is asked
    #[arg(short, long)]
    pub(crate) force: bool,
    /// How to print
    #[arg(long, value_enum, default_value_t)]
    pub(crate) format: DataFormat,
}

#[derive(Debug, Args)]
pub(crate) struct CacheVerifyArgs {
    /// Say what is damaged, and drop nothing
    #[arg(short = 'n', long)]
    pub(crate) dry_run: bool,
    /// How to print
    #[arg(long, value_enum, default_value_t)]
    pub(crate) format: DataFormat,
}

/// What `--filter` lets through.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Filter {
    Until(Age),
    Type(Kind),
}

impl FromStr for Filter {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (key, value) = text
            .split_once('=')
            .ok_or("it is not of the form KEY=VALUE")?;
        match key {
            "until" => Ok(Self::Until(value.parse()?)),
            "type" => {
                let kind = Kind::ALL.into_iter().find(|kind| kind.name() == value);
                kind.map(Self::Type).ok_or_else(|| {
                    match suggest(value, Kind::ALL.iter().map(|kind| kind.name())) {
                        Some(near) => format!("unknown type `{value}`; did you mean `{near}`?"),
                        None => format!("unknown type `{value}`"),
                    }
                })
            }
            _ => Err(format!("unknown filter `{key}`; there are until and type")),
        }
    }
}

/// A time span: `36h`, `7d`, `1d12h`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Age(pub(crate) Duration);

impl FromStr for Age {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || format!("`{text}` is not a duration such as 36h or 7d");
        let mut rest = text;
        let mut total: u64 = 0;
        while !rest.is_empty() {
            let digits = rest.find(|c: char| !c.is_ascii_digit()).ok_or_else(wrong)?;
            let number: u64 = rest[..digits].parse().map_err(|_bad| wrong())?;
            let unit = rest[digits..].chars().next().ok_or_else(wrong)?;
            let seconds = match unit {
                's' => 1,
                'm' => 60,
                'h' => 60 * 60,
                'd' => 24 * 60 * 60,
                'w' => 7 * 24 * 60 * 60,
                _ => return Err(wrong()),
            };
            let span = number.checked_mul(seconds);
            total = span
                .and_then(|span| total.checked_add(span))
                .ok_or_else(wrong)?;
            rest = &rest[digits + unit.len_utf8()..];
        }
        if text.is_empty() {
            return Err(wrong());
        }
        Ok(Self(Duration::from_secs(total)))
    }
}

/// What filters ask for together: the longest time, any of the types.
pub(crate) fn narrow(mut policy: Policy, filters: &[Filter]) -> Policy {
    for filter in filters {
        match filter {
            Filter::Until(Age(age)) => policy.older_than = policy.older_than.max(Some(*age)),
            Filter::Type(kind) => policy.kinds.get_or_insert_default().push(*kind),
        }
    }
    policy
}

impl CachePruneArgs {
    /// What shall go.
    pub(crate) fn policy(&self) -> Policy {
        let policy = Policy {
            all: self.all,
            older_than: self.older_than.map(|Age(age)| age),
            kinds: None,
            reserved: self.reserved_space.map(|ByteSize(bytes)| bytes),
            max_used: self.max_used_space.map(|ByteSize(bytes)| bytes),
            min_free: self.min_free_space.map(|ByteSize(bytes)| bytes),
        };
        narrow(policy, &self.filter)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ages_are_sums_of_numbers_with_units() {
        let age = |text: &str| text.parse::<Age>().map(|Age(age)| age.as_secs());
        for (text, want) in [
            ("90s", 90),
            ("36h", 129_600),
            ("1d12h", 129_600),
            ("2w", 1_209_600),
        ] {
            assert_eq!(age(text), Ok(want), "{text}");
        }
        for text in [
            "",
            "5",
            "h",
            "1y",
            "-1h",
            "1h 2m",
            "99999999999999999999d",
            "1ü",
        ] {
            assert!(age(text).is_err(), "{text}");
        }
    }

    #[test]
    fn filters_name_what_there_is() {
        assert_eq!("type=mount".parse(), Ok(Filter::Type(Kind::Mount)));
        let error = "type=mounts".parse::<Filter>();
        assert_eq!(
            error,
            Err("unknown type `mounts`; did you mean `mount`?".to_owned())
        );
        assert!("label=x".parse::<Filter>().is_err());
    }
}
