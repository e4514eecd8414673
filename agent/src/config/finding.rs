//! What is wrong with a configuration.

use std::{error::Error, fmt, path::PathBuf};

/// One mistake.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Finding {
    /// The file, or none for a flag.
    pub(crate) file: Option<PathBuf>,
    /// Counted from 1; none if it concerns the whole file.
    pub(crate) line: Option<usize>,
    /// What is wrong, and what is allowed.
    pub(crate) message: String,
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(file) = &self.file {
            write!(f, "{}:", file.display())?;
            if let Some(line) = self.line {
                write!(f, "{line}:")?;
            }
            f.write_str(" ")?;
        }
        f.write_str(&self.message)
    }
}

/// Every mistake of a configuration; never empty.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Findings(pub(crate) Vec<Finding>);

impl fmt::Display for Findings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (n, finding) in self.0.iter().enumerate() {
            if n > 0 {
                f.write_str("\n")?;
            }
            finding.fmt(f)?;
        }
        Ok(())
    }
}

impl Error for Findings {}
