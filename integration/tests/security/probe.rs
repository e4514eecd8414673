//! The program that says what a container really has, and what it said.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
    process::Command,
    sync::OnceLock,
};

use anyhow::{Context as _, Result, anyhow, ensure};

/// Compiles it once for all tests of this program.
pub fn program() -> Result<PathBuf> {
    static PROGRAM: OnceLock<Result<PathBuf, String>> = OnceLock::new();
    let program = PROGRAM.get_or_init(|| compile().map_err(|error| format!("{error:#}")));
    program.clone().map_err(|error| anyhow!(error))
}

fn compile() -> Result<PathBuf> {
    let own = Path::new(env!("CARGO_MANIFEST_DIR"));
    let program = Path::new(env!("CARGO_TARGET_TMPDIR")).join("probe");
    let sources = ["main.c", "process.c", "files.c", "seccomp.c"];
    let status = Command::new("cc")
        .args(["-O2", "-static", "-s", "-Wall", "-o"])
        .arg(&program)
        .args(sources.map(|name| own.join("probe").join(name)))
        .status()
        .context("run cc (package gcc)")?;
    ensure!(status.success(), "cc could not compile the probe: {status}");
    Ok(program)
}

/// Sections and their lines.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Findings(pub BTreeMap<String, Vec<String>>);

impl Findings {
    pub fn read(path: &Path) -> Result<Self> {
        let text = fs::read(path).with_context(|| path.display().to_string())?;
        Ok(Self::parse(&String::from_utf8_lossy(&text)))
    }

    pub fn parse(text: &str) -> Self {
        let mut sections = BTreeMap::<String, Vec<String>>::new();
        let mut at = String::new();
        for line in text.lines() {
            match line
                .strip_prefix('[')
                .and_then(|rest| rest.strip_suffix(']'))
            {
                Some(section) if !section.contains(':') => section.clone_into(&mut at),
                _ => sections
                    .entry(at.clone())
                    .or_default()
                    .push(line.to_owned()),
            }
        }
        Self(sections)
    }

    /// Of this very process, outside of any container.
    pub fn outside() -> Result<Self> {
        let file = tempfile::NamedTempFile::new()?;
        let status = Command::new(program()?).arg(file.path()).status()?;
        ensure!(status.success(), "the probe ended with {status}");
        Self::read(file.path())
    }

    pub fn section(&self, name: &str) -> &[String] {
        self.0.get(name).map_or(&[], Vec::as_slice)
    }

    /// What follows `key` in a section.
    pub fn value(&self, section: &str, key: &str) -> &str {
        let line = self
            .section(section)
            .iter()
            .find_map(|line| line.strip_prefix(key));
        line.unwrap_or_default().trim_start_matches(':').trim()
    }

    /// The filter's word on a native call.
    pub fn call(&self, name: &str) -> Result<&str> {
        let number = name
            .parse::<syscalls::Sysno>()
            .map_err(|()| anyhow!("{name} is no system call"))?;
        Ok(self.value("seccomp", &format!("native {} ", number.id())))
    }
}
