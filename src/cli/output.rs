//! Printing that survives a closed pipe, and JSON beside it.

use std::fmt::Display;
use std::io::{self, Write};
use std::path::PathBuf;

use serde::Serialize;

use super::args::Common;
use crate::weights::atomic;
use crate::{Error, Result};

/// Writes text to the output stream. When the reader has gone (`deem inspect ... | head`) the process ends quietly.
///
/// # Errors
/// [`Error::Io`], for instance when the output is a file on a full disk.
pub fn print(text: &str) -> Result<()> {
    let mut out = io::stdout().lock();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Err(e) if e.kind() == io::ErrorKind::BrokenPipe => std::process::exit(0),
        other => other.map_err(|e| Error::io("standard output", e)),
    }
}

/// Prints an error once, with what caused it, to the error stream.
pub fn report(error: &dyn std::error::Error) {
    let _ = writeln!(io::stderr(), "{}", chain(error));
}

/// `error: what: why`, leaving out causes that the message before them tells already.
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = format!("error: {error}");
    let mut cause = error.source();
    while let Some(error) = cause {
        let more = error.to_string();
        if !text.contains(&more) {
            text += &format!(": {more}");
        }
        cause = error.source();
    }
    text
}

/// Where the result of a command goes.
pub struct Output {
    quiet: bool,
    json: Option<Option<PathBuf>>,
}

impl Output {
    /// As the options say.
    pub fn new(common: &Common) -> Output {
        let json = common.json.as_ref().map(|file| (file.as_os_str() != "-").then(|| file.clone()));
        Output { quiet: common.quiet, json }
    }

    /// Prints a result as text, or with `--json` as JSON, or with `--json FILE` as text and JSON into the file (atomically). With `--quiet`
    /// there is no text.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub fn result<T: Display + Serialize>(&self, value: &T) -> Result<()> {
        let to_json = || {
            let text = serde_json::to_string_pretty(value).map_err(|e| Error::format("JSON", e.to_string()))?;
            Ok::<_, Error>(text + "\n")
        };
        match &self.json {
            Some(None) => return print(&to_json()?),
            Some(Some(path)) => {
                let text = to_json()?;
                atomic::write_file(path, |out| out.write_all(text.as_bytes()))?;
            }
            None => {}
        }
        if self.quiet {
            return Ok(());
        }
        let text = value.to_string();
        print(&format!("{}\n", text.strip_suffix('\n').unwrap_or(&text)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn causes_are_told_once() {
        let io = Error::io("x.toml", io::Error::from(io::ErrorKind::NotFound));
        let text = chain(&io);
        assert!(text.starts_with("error: x.toml: ") && text.matches("not found").count() == 1, "{text}");
    }

    #[test]
    fn json_goes_to_a_file() {
        #[derive(Serialize)]
        struct Two(u8);
        impl Display for Two {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                write!(f, "{}", self.0)
            }
        }
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("x.json");
        Output { quiet: true, json: Some(Some(path.clone())) }.result(&Two(2)).unwrap();
        assert_eq!(std::fs::read_to_string(path).unwrap(), "2\n");
        Output { quiet: true, json: None }.result(&Two(2)).unwrap();
    }
}
