//! `berth-agent config ...`

use std::io::{self, Write};

use super::{Args, ConfigCommand, DEFAULT_FILE, DEFAULT_TEXT, load::load_from};

/// Carries out `command`; returns whether all is well.
///
/// # Errors
/// If nothing can be written to `out`.
pub(crate) fn run(command: &ConfigCommand, args: &Args, out: &mut impl Write) -> io::Result<bool> {
    match command {
        ConfigCommand::Default => {
            out.write_all(DEFAULT_TEXT.as_bytes())?;
            Ok(true)
        }
        ConfigCommand::Check { file } => {
            let file = file.as_deref().or(args.config.as_deref());
            let name = file.map_or(DEFAULT_FILE.to_owned(), |f| f.display().to_string());
            match load_from(file, args) {
                Ok(_) => {
                    writeln!(out, "{name}: ok")?;
                    Ok(true)
                }
                Err(findings) => {
                    writeln!(out, "{findings}")?;
                    Ok(false)
                }
            }
        }
    }
}
