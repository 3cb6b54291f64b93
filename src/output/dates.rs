//! The times of a config document that may not be later than `SOURCE_DATE_EPOCH`.

use jiff::Timestamp;

use crate::oci::ConfigFile;

/// Makes no time later than `latest`, and dates what has none, but for the first `kept` entries of the history: they are the base
/// image's, and an image on top of it should tell the same of them.
pub(super) fn clamp(config: &mut ConfigFile, kept: usize, latest: i64) {
    let Ok(latest) = Timestamp::from_second(latest) else {
        return;
    };
    let clamped = |time: &Option<String>| {
        let time = time.as_ref().and_then(|time| time.parse().ok());
        Some(time.unwrap_or(latest).min(latest).to_string())
    };
    let is_base_alone = kept > 0 && config.history.len() <= kept;
    for entry in config.history.iter_mut().skip(kept) {
        entry.created = clamped(&entry.created);
    }
    if !is_base_alone {
        config.created = clamped(&config.created);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::oci::History;

    const EARLY: &str = "1970-01-01T00:00:05Z";
    const LATEST: &str = "1970-01-01T00:00:10Z";
    const LATE: &str = "2023-11-14T22:13:20.5Z";

    fn clamped(times: &[Option<&str>], kept: usize) -> (Vec<String>, String) {
        let mut config = ConfigFile {
            created: times.last().copied().flatten().map(ToOwned::to_owned),
            history: times
                .iter()
                .map(|time| History {
                    created: time.map(ToOwned::to_owned),
                    ..History::default()
                })
                .collect(),
            ..ConfigFile::default()
        };
        clamp(&mut config, kept, 10);
        let history = config.history.into_iter();
        (
            history.map(|entry| entry.created.expect("dated")).collect(),
            config.created.expect("dated"),
        )
    }

    #[test]
    fn entries_of_the_base_keep_their_times_and_all_others_are_no_later() {
        let (history, created) = clamped(&[Some(LATE), Some(EARLY), Some(LATE)], 1);
        assert_eq!(history, [LATE, EARLY, LATEST]);
        assert_eq!(created, LATEST);
    }

    #[test]
    fn entries_without_a_time_get_one() {
        let (history, created) = clamped(&[None], 0);
        assert_eq!(history, [LATEST]);
        assert_eq!(created, LATEST);
    }

    #[test]
    fn an_image_that_is_its_base_keeps_all_times() {
        let (history, created) = clamped(&[Some(LATE)], 1);
        assert_eq!(history, [LATE]);
        assert_eq!(created, LATE);
    }
}
