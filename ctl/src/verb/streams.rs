//! What exec, attach and run share: flags for standard input and terminals, and
//! what the end of a session means.

use std::path::PathBuf;

use berth_streaming::{
    Verdict,
    client::{ClientError, Remote, Trust, TrustFiles, Wanted},
};

use super::exec::exit_byte;
use crate::{
    failure::{EXIT_FAILED, EXIT_NOT_EXECUTABLE, EXIT_NOT_FOUND, Failure, Outcome},
    terminal::{self, DEFAULT_DETACH_KEYS, DetachKeys, End, Streams},
};

/// Flags for streaming URLs that begin with https.
#[derive(Debug, Clone, Default, clap::Args)]
pub(crate) struct TlsFlags {
    /// Authorities to believe for https streaming URLs, or the server's own certificate
    #[arg(long, value_name = "FILE", help_heading = "Streaming over TLS")]
    tls_ca: Option<PathBuf>,
    /// Certificate to show
    #[arg(
        long,
        value_name = "FILE",
        requires = "tls_key",
        help_heading = "Streaming over TLS"
    )]
    tls_cert: Option<PathBuf>,
    /// Its key
    #[arg(
        long,
        value_name = "FILE",
        requires = "tls_cert",
        help_heading = "Streaming over TLS"
    )]
    tls_key: Option<PathBuf>,
    /// Believe any server: whoever is in between can read and type
    #[arg(long, conflicts_with = "tls_ca", help_heading = "Streaming over TLS")]
    tls_insecure: bool,
}

impl TlsFlags {
    /// Whom to believe to be behind `url`; files are read only where they are needed.
    ///
    /// # Errors
    /// If one cannot be used.
    pub(super) fn trust(&self, what: &str, url: &str) -> Outcome<Trust> {
        if !url.starts_with("https:") {
            return Ok(Trust::default());
        }
        let files = TrustFiles {
            authorities: self.tls_ca.clone(),
            own: self.tls_cert.clone().zip(self.tls_key.clone()),
            insecure: self.tls_insecure,
        };
        Trust::read(&files).map_err(|error| Failure::new(what, whole(&error)))
    }
}

/// Flags for standard input and terminals.
#[derive(Debug, Clone, clap::Args)]
pub(crate) struct Flags {
    /// Pass standard input on
    #[arg(short, long)]
    pub(crate) interactive: bool,
    /// Give it a terminal
    #[arg(short, long)]
    pub(crate) tty: bool,
    /// Keys that leave it alone: characters or ctrl-X
    #[arg(long, value_name = "KEYS", default_value = DEFAULT_DETACH_KEYS)]
    pub(crate) detach_keys: DetachKeys,
    #[command(flatten)]
    pub(crate) tls: TlsFlags,
}

impl Flags {
    /// Checks that what they ask for is possible here.
    ///
    /// # Errors
    /// Wrong usage.
    pub(super) fn check(&self, verb: &str) -> Outcome<()> {
        if self.interactive && self.tty {
            terminal::required(verb)
        } else {
            Ok(())
        }
    }

    /// Which streams they mean.
    pub(super) fn wanted(&self) -> Wanted {
        Wanted {
            stdin: self.interactive,
            stdout: true,
            stderr: !self.tty,
            tty: self.tty,
        }
    }
}

/// Opens `url` and connects the user with what is behind it.
///
/// # Errors
/// If it cannot be opened, or the other side failed.
pub(super) async fn converse(
    what: &str,
    url: &str,
    wanted: Wanted,
    detach: &DetachKeys,
    tls: &TlsFlags,
) -> Outcome<u8> {
    let remote = open(what, url, wanted, tls).await?;
    match attend(what, remote, wanted, detach).await? {
        Ended::Detached => Ok(0),
        Ended::Code(code) => Ok(code),
    }
}

/// How a session ended for its user.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Ended {
    /// By the detach keys.
    Detached,
    /// With this code of an exec, or of a signal; 0 of an attach.
    Code(u8),
}

/// Opens `url`.
///
/// # Errors
/// If nobody answers there.
pub(super) async fn open(what: &str, url: &str, wanted: Wanted, tls: &TlsFlags) -> Outcome<Remote> {
    let trust = tls.trust(what, url)?;
    let mut remote = Remote::open_trusting(&trust, url, wanted)
        .await
        .map_err(|error| unopened(what, &error))?;
    if wanted.stdin {
        terminal::tell_size(&mut remote).await;
    }
    Ok(remote)
}

/// What a URL that does not open means.
pub(super) fn unopened(what: &str, error: &ClientError) -> Failure {
    let failure = Failure::new(what, whole(error));
    match error {
        ClientError::Tls { .. } => failure.next(
            "--tls-ca FILE with the authority that has signed it, or with the certificate itself",
        ),
        ClientError::Connect { .. } => failure.next(
            "the runtime serves streams on an address of its own; where that is loopback, \
             run this on the node itself",
        ),
        _ => failure,
    }
}

fn whole(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(source) = cause {
        text = format!("{text}: {source}");
        cause = source.source();
    }
    text
}

/// Connects the user with `remote` to its end.
///
/// # Errors
/// If the other side failed, or was lost.
pub(super) async fn attend(
    what: &str,
    remote: Remote,
    wanted: Wanted,
    detach: &DetachKeys,
) -> Outcome<Ended> {
    let streams = Streams {
        stdin: wanted.stdin,
        tty: wanted.tty && wanted.stdin,
        detach: detach.clone(),
    };
    match terminal::talk(remote, &streams).await? {
        End::Detached => {
            // The line that the container was on is not this one's.
            eprint_newline();
            Ok(Ended::Detached)
        }
        End::Told(Verdict::Success) => Ok(Ended::Code(0)),
        End::Told(Verdict::ExitCode(code)) => Ok(Ended::Code(exit_byte(code))),
        End::Told(Verdict::Failure(why)) => {
            let why = why
                .strip_prefix("Internal error occurred: ")
                .unwrap_or(&why)
                .to_owned();
            Err(Failure::new(what, why.clone()).exit(failed(&why)))
        }
        End::Lost => Err(Failure::new(
            what,
            "the connection ended without a word: the runtime has died or was replaced",
        )),
        // As a shell says it.
        End::Signal(signal) => Ok(Ended::Code(exit_byte(128 + signal))),
    }
}

#[expect(clippy::print_stderr, reason = "ends the line of a terminal")]
fn eprint_newline() {
    eprintln!();
}

/// 126 or 127 if the command itself was at fault.
fn failed(why: &str) -> u8 {
    let why = why.to_lowercase();
    if why.contains("no such file or directory") || why.contains("executable file not found") {
        EXIT_NOT_FOUND
    } else if why.contains("permission denied") || why.contains("exec format error") {
        EXIT_NOT_EXECUTABLE
    } else {
        EXIT_FAILED
    }
}
