//! `/debug/pprof/profile?seconds=N`: what the agent spends processor time on.

use std::{
    io,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use berth_profile::Recording;
use http::{Response, StatusCode};

use super::pages::{Page, respond, text};

/// When no length is asked for; pprof's own default.
const DEFAULT: Duration = Duration::from_secs(30);

/// Longest: well within the life of a connection.
const LONGEST: Duration = Duration::from_secs(120);

/// Answers with a profile of the next seconds. One is made at a time.
pub(super) async fn answer(query: &str) -> Response<Page> {
    let Some(length) = length(query) else {
        return text(StatusCode::BAD_REQUEST, "seconds must be 1 to 120\n");
    };
    match record(length).await {
        Ok(profile) => {
            tracing::info!(?length, bytes = profile.len(), "a profile was made");
            respond(StatusCode::OK, "application/octet-stream", profile)
        }
        Err(error) if error.raw_os_error() == Some(nix::libc::EBUSY) => text(
            StatusCode::CONFLICT,
            "a profile is being made already; try again when it is done\n",
        ),
        Err(error) => {
            tracing::warn!(%error, "a profile could not be made");
            respond(
                StatusCode::INTERNAL_SERVER_ERROR,
                "text/plain; charset=utf-8",
                format!("making a profile: {error}\n"),
            )
        }
    }
}

fn length(query: &str) -> Option<Duration> {
    let given = query
        .split('&')
        .find_map(|part| part.strip_prefix("seconds="));
    let Some(given) = given else {
        return Some(DEFAULT);
    };
    let length = Duration::from_secs(given.parse().ok()?);
    (!length.is_zero() && length <= LONGEST).then_some(length)
}

/// Sets the flag when the client goes away, which ends the recording.
struct Gone(Arc<AtomicBool>);

impl Drop for Gone {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

async fn record(length: Duration) -> io::Result<Vec<u8>> {
    let gone = Gone(Arc::default());
    let stop = gone.0.clone();
    let (done, recorded) = tokio::sync::oneshot::channel();
    // A thread of its own: it runs for long, and the runtime's are what is looked at.
    std::thread::Builder::new()
        .name("profile".to_owned())
        .spawn(move || {
            // Nobody listens if the client is gone.
            done.send(record_until(Instant::now() + length, &stop)).ok();
        })?;
    recorded
        .await
        .map_err(|_gone| io::Error::other("the recording thread died"))?
}

fn record_until(end: Instant, stop: &AtomicBool) -> io::Result<Vec<u8>> {
    let mut recording = Recording::start()?;
    while Instant::now() < end && !stop.load(Ordering::Relaxed) {
        std::thread::sleep(berth_profile::COLLECT);
        recording.collect();
    }
    recording.finish(concat!("berth-agent ", env!("CARGO_PKG_VERSION")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_length_is_whole_seconds_within_limits() {
        assert_eq!(length(""), Some(DEFAULT));
        assert_eq!(length("debug=1&seconds=5"), Some(Duration::from_secs(5)));
        for bad in [
            "seconds=",
            "seconds=0",
            "seconds=121",
            "seconds=-1",
            "seconds=x",
        ] {
            assert_eq!(length(bad), None, "{bad}");
        }
    }
}
