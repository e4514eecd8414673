//! What the streams belong to.

use std::future::Future;

use tokio::net::TcpStream;

use crate::{Attach, Exec, Session, Verdict};

/// How a session ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The command ended with this code, 0 to 255.
    Exited(i32),
    /// The client left, or the container ended.
    Ended,
    /// It could not be done; the text is for the client's user.
    Failed(String),
}

impl From<Outcome> for Verdict {
    fn from(outcome: Outcome) -> Self {
        match outcome {
            Outcome::Exited(0) | Outcome::Ended => Self::Success,
            Outcome::Exited(code) => Self::ExitCode(code),
            Outcome::Failed(why) => Self::Failure(why),
        }
    }
}

/// Runs what clients ask for. Its futures must end soon after [`Session::gone`];
/// they are dropped before their end only with the server.
pub trait Backend: Send + Sync + 'static {
    /// Runs a command and returns when it has ended and its output was sent.
    fn exec(&self, request: Exec, session: Session) -> impl Future<Output = Outcome> + Send;

    /// Connects the streams of a container's process until one side ends.
    fn attach(&self, request: Attach, session: Session) -> impl Future<Output = Outcome> + Send;

    /// A connection to `port` on the loopback address in the network of `pod`.
    ///
    /// # Errors
    /// A text for the client's user.
    fn connect(
        &self,
        pod: &str,
        port: u16,
    ) -> impl Future<Output = Result<TcpStream, String>> + Send;
}
