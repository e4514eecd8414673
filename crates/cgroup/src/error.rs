//! What can go wrong with control groups.

use std::{fmt, io, time::Duration};

/// Most pids that an error spells out.
const PIDS_SHOWN: usize = 8;

/// An operation on control groups that failed.
#[derive(Debug)]
pub enum Error {
    /// A value that the kernel or the format would not take; nothing was changed.
    Invalid {
        /// Name of the field, as in the CRI or the cgroup file.
        field: String,
        /// What was given.
        value: String,
        /// What is allowed.
        allowed: String,
    },
    /// A system call on a group or one of its files failed.
    File {
        /// What was tried: "create", "open", "read", "write", "remove".
        op: &'static str,
        /// The group and, below it, the file.
        file: String,
        /// What was written, if anything was.
        value: Option<String>,
        /// The errno.
        source: io::Error,
    },
    /// There is no such group in any hierarchy.
    NotFound {
        /// The group.
        group: String,
    },
    /// A group that was to be created exists and has processes.
    Occupied {
        /// The group.
        group: String,
        /// Processes in it and below it.
        pids: Vec<i32>,
    },
    /// Processes outlived the limit that the caller set.
    Timeout {
        /// What was waited for: "kill", "freeze", "remove", "wait until empty".
        op: &'static str,
        /// The group.
        group: String,
        /// How long was waited.
        limit: Duration,
        /// Processes that are still there.
        pids: Vec<i32>,
    },
    /// The kernel or this layout lacks what a limit needs.
    Unsupported {
        /// The field or file.
        what: String,
        /// What is missing.
        reason: String,
    },
    /// A new memory limit lies below what is in use and cannot be reclaimed.
    BelowUsage {
        /// The group.
        group: String,
        /// The wanted limit in bytes.
        limit: u64,
        /// Bytes in use.
        usage: u64,
    },
    /// The hierarchies could not be understood.
    Layout {
        /// Why.
        reason: String,
    },
    /// The operation failed, and so did a part of undoing it.
    Undo {
        /// Why it failed.
        cause: Box<Error>,
        /// What could not be undone.
        left: Vec<Error>,
    },
}

impl Error {
    pub(crate) fn file(op: &'static str, file: impl Into<String>, source: io::Error) -> Self {
        Self::File {
            op,
            file: file.into(),
            value: None,
            source,
        }
    }

    pub(crate) fn invalid(
        field: impl Into<String>,
        value: impl fmt::Display,
        allowed: impl Into<String>,
    ) -> Self {
        Self::Invalid {
            field: field.into(),
            value: value.to_string(),
            allowed: allowed.into(),
        }
    }

    /// The errno, where a system call failed.
    #[must_use]
    pub fn errno(&self) -> Option<i32> {
        match self {
            Self::File { source, .. } => source.raw_os_error(),
            Self::Undo { cause, .. } => cause.errno(),
            Self::Invalid { .. }
            | Self::NotFound { .. }
            | Self::Occupied { .. }
            | Self::Timeout { .. }
            | Self::Unsupported { .. }
            | Self::BelowUsage { .. }
            | Self::Layout { .. } => None,
        }
    }
}

struct Pids<'a>(&'a [i32]);

impl fmt::Display for Pids<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, pid) in self.0.iter().take(PIDS_SHOWN).enumerate() {
            let comma = if index == 0 { "" } else { ", " };
            write!(f, "{comma}{pid}")?;
        }
        match self.0.len().saturating_sub(PIDS_SHOWN) {
            0 => Ok(()),
            more => write!(f, " and {more} more"),
        }
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Invalid {
                field,
                value,
                allowed,
            } => write!(f, "{field} is {value:?}, allowed is {allowed}"),
            Self::File {
                op,
                file,
                value: Some(value),
                ..
            } => write!(f, "cannot {op} {value:?} to {file}"),
            Self::File { op, file, .. } => write!(f, "cannot {op} {file}"),
            Self::NotFound { group } => write!(f, "no cgroup {group}"),
            Self::Occupied { group, pids } => {
                write!(
                    f,
                    "cgroup {group} exists and holds processes {}",
                    Pids(pids)
                )
            }
            Self::Timeout {
                op,
                group,
                limit,
                pids,
            } => {
                write!(f, "{op} of cgroup {group} is not done after {limit:?}")?;
                if pids.is_empty() {
                    Ok(())
                } else {
                    write!(f, ", processes left: {}", Pids(pids))
                }
            }
            Self::Unsupported { what, reason } => write!(f, "{what} is not possible: {reason}"),
            Self::BelowUsage {
                group,
                limit,
                usage,
            } => write!(
                f,
                "memory limit of {limit} bytes is below the {usage} bytes in use in cgroup {group}"
            ),
            Self::Layout { reason } => write!(f, "cgroup hierarchies: {reason}"),
            Self::Undo { cause, left } => {
                write!(f, "{cause}, and undoing it left {} things", left.len())?;
                for error in left {
                    write!(f, "; {error}")?;
                }
                Ok(())
            }
        }
    }
}

impl std::error::Error for Error {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::File { source, .. } => Some(source),
            Self::Undo { cause, .. } => cause.source(),
            Self::Invalid { .. }
            | Self::NotFound { .. }
            | Self::Occupied { .. }
            | Self::Timeout { .. }
            | Self::Unsupported { .. }
            | Self::BelowUsage { .. }
            | Self::Layout { .. } => None,
        }
    }
}
