//! Where errors go: a line on standard error, and the log file if one is named.

use std::{
    fs::File,
    io::{self, Write as _},
};

use anyhow::{Context as _, Result};
use serde_json::json;

use crate::cli::{Cli, LogFormat};

pub(crate) struct Log {
    file: Option<File>,
    format: LogFormat,
    debug: bool,
}

impl Log {
    pub(crate) fn open(cli: &Cli) -> Result<Self> {
        let open = |path: &std::path::PathBuf| {
            File::options()
                .create(true)
                .append(true)
                .open(path)
                .with_context(|| format!("opening the log {}", path.display()))
        };
        Ok(Self {
            file: cli.log.as_ref().map(open).transpose()?,
            ..Self::stderr(cli)
        })
    }

    pub(crate) fn stderr(cli: &Cli) -> Self {
        Self {
            file: None,
            format: cli.log_format,
            debug: cli.debug,
        }
    }

    /// The one line that says why a command failed.
    pub(crate) fn error(&self, message: &str) {
        let line = self.line("error", message);
        if let Some(mut file) = self.file.as_ref() {
            // The line on standard error says the same.
            file.write_all(line.as_bytes()).ok();
            io::stderr()
                .write_all(format!("{message}\n").as_bytes())
                .ok();
        } else {
            io::stderr().write_all(line.as_bytes()).ok();
        }
    }

    /// Something that its caller goes on without.
    pub(crate) fn warn(&self, message: &str) {
        if let Some(mut file) = self.file.as_ref() {
            let line = self.line("warning", message);
            file.write_all(line.as_bytes()).ok();
        }
    }

    /// Steps, where they are asked for.
    pub(crate) fn debug(&self, message: &str) {
        if !self.debug {
            return;
        }
        let line = self.line("debug", message);
        match self.file.as_ref() {
            Some(mut file) => file.write_all(line.as_bytes()).ok(),
            None => io::stderr().write_all(line.as_bytes()).ok(),
        };
    }

    fn line(&self, level: &str, message: &str) -> String {
        let time = jiff::Timestamp::now()
            .round(jiff::Unit::Second)
            .unwrap_or_default();
        match self.format {
            LogFormat::Json => {
                let line = json!({ "level": level, "msg": message, "time": time.to_string() });
                format!("{line}\n")
            }
            // As callers parse it: the message is a quoted string.
            LogFormat::Text => format!("time=\"{time}\" level={level} msg={message:?}\n"),
        }
    }
}
