//! Secrets: read when something needs them, never printed, never part of a key or a layer.

use super::{error::StepError, request::SecretSource, session::Session};

/// A secret larger than this is refused, as in BuildKit.
const MAX_SECRET_BYTES: usize = 500 << 10;

/// The value of a secret; `None` when it was not given.
pub(super) fn value(
    session: &Session<'_>,
    id: &str,
    required: bool,
) -> Result<Option<Vec<u8>>, StepError> {
    let value = match session.request.secrets.get(id) {
        None if required => return Err(StepError::SecretMissing(id.to_owned())),
        None => return Ok(None),
        Some(SecretSource::Value(value)) => value.clone(),
        Some(SecretSource::File(path)) => {
            std::fs::read(path).map_err(|source| StepError::SecretUnreadable {
                id: id.to_owned(),
                source,
            })?
        }
    };
    if value.len() > MAX_SECRET_BYTES {
        let reason = format!("secret {id} is larger than {} KiB", MAX_SECRET_BYTES >> 10);
        return Err(StepError::Unsupported(reason));
    }
    Ok(Some(value))
}

/// The text of the first secret of these that was given.
pub(super) fn text(session: &Session<'_>, ids: &[String]) -> Result<Option<String>, StepError> {
    for id in ids {
        if let Some(value) = value(session, id, false)? {
            return Ok(Some(String::from_utf8_lossy(&value).trim_end().to_owned()));
        }
    }
    Ok(None)
}
