//! Where log lines go: standard error or a file, UTC with fractions of a second, as text or as JSON.
//!
//! Not here: what is logged; each part logs its own.

use std::fs::File;
use std::sync::Mutex;

use tracing_subscriber::EnvFilter;
use tracing_subscriber::fmt::MakeWriter;
use tracing_subscriber::fmt::time::SystemTime;

/// Form of a log line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    /// `key=value`.
    Text,
    /// One JSON object.
    Json,
}

/// A level or filter that cannot be used.
#[derive(Debug, thiserror::Error)]
#[error(
    "`log.level = \"{level}\"` is neither a level (error, warn, info, debug, trace) nor a filter"
)]
pub struct LevelError {
    level: String,
    source: tracing_subscriber::filter::ParseError,
}

/// Starts logging to standard error for this process; a second call changes nothing.
pub fn start(form: Form, level: &str) -> Result<(), LevelError> {
    start_with(form, level, std::io::stderr)
}

/// The same, to a file.
pub fn start_to(file: File, form: Form, level: &str) -> Result<(), LevelError> {
    start_with(form, level, Mutex::new(file))
}

fn start_with<W>(form: Form, level: &str, writer: W) -> Result<(), LevelError>
where
    W: for<'a> MakeWriter<'a> + Send + Sync + 'static,
{
    let filter = EnvFilter::builder()
        .parse(level)
        .map_err(|source| LevelError { level: level.to_owned(), source })?;
    let lines = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_timer(SystemTime)
        .with_writer(writer);
    // A second subscriber is refused; the first goes on.
    match form {
        Form::Text => lines.with_ansi(false).try_init().ok(),
        Form::Json => lines.json().flatten_event(true).try_init().ok(),
    };
    Ok(())
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn a_nonsensical_level_is_named() {
        let error = start(Form::Text, "lou=d=er").unwrap_err();
        assert!(error.to_string().contains("lou=d=er"), "{error}");
    }
}
