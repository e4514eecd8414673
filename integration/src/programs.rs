//! Where the programs under test lie.

use std::path::{Path, PathBuf};

use anyhow::{Result, ensure};

/// The directory that `make build` fills.
///
/// `BERTH_BIN` names another one, such as `/usr/bin`.
///
/// # Errors
/// If a program is missing there.
pub fn directory() -> Result<PathBuf> {
    let directory = std::env::var_os("BERTH_BIN").map_or_else(
        || Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/berth/bin"),
        PathBuf::from,
    );
    for program in ["berth-agent", "berth-shim", "berthctl"] {
        ensure!(
            directory.join(program).is_file(),
            "{} is missing: run `make build`, or set BERTH_BIN",
            directory.join(program).display()
        );
    }
    Ok(directory.canonicalize()?)
}

/// A tool that `make tools` installs or builds, such as `crictl`.
///
/// # Errors
/// If it is neither there nor on the search path.
pub fn tool(name: &str) -> Result<PathBuf> {
    let own = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../target/tools")
        .join(name);
    if own.is_file() {
        return Ok(own.canonicalize()?);
    }
    let path = std::env::var_os("PATH").unwrap_or_default();
    let found = std::env::split_paths(&path)
        .map(|directory| directory.join(name))
        .find(|candidate| candidate.is_file());
    found.ok_or_else(|| anyhow::anyhow!("{name} is missing: run `make tools`"))
}
