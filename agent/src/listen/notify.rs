//! systemd's readiness and watchdog (sd_notify(3)); nothing without `NOTIFY_SOCKET`.

use std::{future::Future, time::Duration};

use sd_notify::NotifyState;

/// Tells systemd that the agent serves.
pub(crate) fn ready(status: &str) {
    tell(&[NotifyState::Ready, NotifyState::Status(status)]);
}

/// Tells systemd that the agent serves in the place of the one before.
pub(crate) fn took_over(status: &str) {
    let pid = NotifyState::MainPid(std::process::id());
    tell(&[pid, NotifyState::Ready, NotifyState::Status(status)]);
}

/// Tells systemd that another agent is about to take this one's place; [`ready`] or
/// [`took_over`] follows.
pub(crate) fn reloading() {
    match NotifyState::monotonic_usec_now() {
        Ok(now) => tell(&[NotifyState::Reloading, now]),
        Err(error) => tracing::debug!(%error, "the clock cannot be read"),
    }
}

/// Tells systemd what the agent is doing; it is not ready yet.
pub(crate) fn doing(status: &str) {
    tell(&[NotifyState::Status(status)]);
}

/// Tells systemd that the agent is about to end.
pub(crate) fn stopping() {
    tell(&[NotifyState::Stopping]);
}

/// Pings systemd's watchdog, if it wants to be, for as long as `probe` comes
/// back in time: an agent that cannot answer its own probe is not alive,
/// however busily its timers tick. Never returns; meant for a task of its own.
pub(crate) async fn watchdog<F, Fut>(probe: F)
where
    F: Fn() -> Fut,
    Fut: Future<Output = bool>,
{
    let Some(limit) = sd_notify::watchdog_enabled() else {
        return std::future::pending().await;
    };
    // sd_watchdog_enabled(3) asks for a ping at half the time.
    let interval = (limit / 2).max(Duration::from_millis(10));
    loop {
        match tokio::time::timeout(interval, probe()).await {
            Ok(true) => tell(&[NotifyState::Watchdog]),
            Ok(false) => tracing::error!("the agent's own probe failed; not pinging the watchdog"),
            Err(_) => tracing::error!("the agent's own probe hangs; not pinging the watchdog"),
        }
        tokio::time::sleep(interval).await;
    }
}

fn tell(state: &[NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(state) {
        tracing::warn!(%error, "cannot notify systemd");
    }
}
