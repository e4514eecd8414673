//! Sockets that systemd has opened already (sd_listen_fds(3)).

use std::os::unix::net::UnixListener;

use listenfd::ListenFd;

use super::ListenError;

/// The sockets that were passed to this process; none without `LISTEN_FDS`.
///
/// # Errors
/// If one is not a unix stream socket.
pub(super) fn take() -> Result<Vec<UnixListener>, ListenError> {
    let mut passed = ListenFd::from_env();
    let mut listeners = Vec::new();
    for index in 0..passed.len() {
        let taken = passed
            .take_unix_listener(index)
            .map_err(|source| ListenError::Activation { index, source })?;
        listeners.extend(taken);
    }
    Ok(listeners)
}
