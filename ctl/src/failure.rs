//! What a person is told when something did not work: what failed and on what,
//! why, and what to do next.

use std::{
    error::Error as _,
    io::{self, Write as _},
};

use tonic::{Code, Status};

use crate::output::{self, text::printable_lines};

/// The request failed.
pub(crate) const EXIT_FAILED: u8 = 1;
/// The command line was wrong; the code that clap uses, too.
pub(crate) const EXIT_USAGE: u8 = 2;
/// `run` could not make or start the container.
pub(crate) const EXIT_NOT_RUN: u8 = 125;
/// The command exists in the container and cannot be executed.
pub(crate) const EXIT_NOT_EXECUTABLE: u8 = 126;
/// The command does not exist in the container.
pub(crate) const EXIT_NOT_FOUND: u8 = 127;
/// Whoever read our output went away: 128 + SIGPIPE, as a shell reports it.
const EXIT_BROKEN_PIPE: u8 = 141;

/// The result of a verb or of a part of it.
pub(crate) type Outcome<T> = Result<T, Failure>;

/// A failed verb.
#[derive(Debug)]
pub(crate) struct Failure {
    /// Exit code of the program.
    pub(crate) exit: u8,
    /// What failed, and on what: "cannot stop container web". Empty if there is nothing to say.
    what: String,
    why: String,
    next: Option<String>,
}

impl Failure {
    /// A request that failed.
    pub(crate) fn new(what: impl Into<String>, why: impl Into<String>) -> Self {
        Self {
            exit: EXIT_FAILED,
            what: what.into(),
            why: why.into(),
            next: None,
        }
    }

    /// A command line that cannot be carried out.
    pub(crate) fn usage(what: impl Into<String>, why: impl Into<String>) -> Self {
        Self::new(what, why).exit(EXIT_USAGE)
    }

    /// A failure whose parts were told already.
    pub(crate) fn told() -> Self {
        Self::new("", "")
    }

    /// With what to do next.
    pub(crate) fn next(mut self, next: impl Into<String>) -> Self {
        self.next = Some(next.into());
        self
    }

    /// With another exit code.
    pub(crate) fn exit(mut self, exit: u8) -> Self {
        self.exit = exit;
        self
    }

    /// What the other side answered instead of doing it.
    pub(crate) fn refused(what: impl Into<String>, status: &Status) -> Self {
        // A registry may be unavailable too; that is the agent's answer then.
        let lost = status.source();
        let why = match status.code() {
            Code::DeadlineExceeded => format!("no answer in time: {}", status.message()),
            // What tonic's own timer answers when the limit passes here.
            Code::Cancelled if status.message() == "Timeout expired" => {
                "no answer in time".to_owned()
            }
            Code::Unimplemented => format!("this runtime cannot do that: {}", status.message()),
            _ if let Some(source) = lost => format!("the connection was lost: {source}"),
            code if status.message().is_empty() => code.description().to_owned(),
            Code::Ok
            | Code::Cancelled
            | Code::Unknown
            | Code::InvalidArgument
            | Code::NotFound
            | Code::AlreadyExists
            | Code::PermissionDenied
            | Code::ResourceExhausted
            | Code::FailedPrecondition
            | Code::Aborted
            | Code::OutOfRange
            | Code::Unavailable
            | Code::Internal
            | Code::DataLoss
            | Code::Unauthenticated => status.message().to_owned(),
        };
        let failure = Self::new(what, why);
        match status.code() {
            Code::DeadlineExceeded | Code::Cancelled => failure.next(
                "`berthctl ops` shows what is being waited for; `berthctl --timeout 5m ...` waits longer",
            ),
            _ if lost.is_some() => {
                failure.next("containers keep running; try again when the agent is back")
            }
            Code::Ok
            | Code::Unknown
            | Code::InvalidArgument
            | Code::NotFound
            | Code::AlreadyExists
            | Code::PermissionDenied
            | Code::ResourceExhausted
            | Code::FailedPrecondition
            | Code::Aborted
            | Code::OutOfRange
            | Code::Unimplemented
            | Code::Unavailable
            | Code::Internal
            | Code::DataLoss
            | Code::Unauthenticated => failure,
        }
    }

    /// Writes it to standard error as something that does not end the verb.
    pub(crate) fn warn(&self) {
        output::note(&format!("warning: {}: {}", self.what, self.why));
    }

    /// Writes it to standard error. What comes from images, containers and
    /// registries may be in it, so nothing in it can steer the terminal.
    pub(crate) fn print(&self) {
        if self.what.is_empty() {
            return;
        }
        let mut text = format!("\x1b[1;31merror:\x1b[0m {}", printable_lines(&self.what));
        if !self.why.is_empty() {
            text.push_str(": ");
            text.push_str(&printable_lines(&self.why));
        }
        text.push('\n');
        if let Some(next) = &self.next {
            text.push_str("\x1b[1mtry:\x1b[0m ");
            text.push_str(&printable_lines(next));
            text.push('\n');
        }
        // anstream drops the colours where NO_COLOR or a pipe asks for it. A
        // standard error that cannot be written to leaves only the exit code.
        drop(anstream::stderr().write_all(text.as_bytes()));
    }
}

/// Whether the connection is what failed: a status with a source did not come
/// from the other side.
pub(crate) fn is_lost(status: &Status) -> bool {
    status.code() == Code::Unavailable || status.source().is_some()
}

impl From<io::Error> for Failure {
    /// Standard output could not be written.
    fn from(error: io::Error) -> Self {
        if error.kind() == io::ErrorKind::BrokenPipe {
            return Self::told().exit(EXIT_BROKEN_PIPE);
        }
        Self::new("cannot write the output", error.to_string())
    }
}
