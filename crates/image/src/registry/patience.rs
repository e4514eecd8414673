//! How long a registry may take.

use std::time::Duration;

/// Limits of what is waited for; each is far above any honest registry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Patience {
    /// To the first byte of an answer: storage behind registries takes its time.
    pub headers: Duration,
    /// Between two chunks of an answer. Longer silences are a dead connection, not a slow one.
    pub silence: Duration,
    /// At least so many bytes of a blob must come in each [`Patience::window`]: a server
    /// that feeds single bytes would else hold a pull, and a place in the queue, for ever.
    pub least: u64,
    /// See [`Patience::least`]; time in which the disk was awaited does not count.
    pub window: Duration,
    /// `Retry-After`: a registry that asks for more is reported instead.
    pub retry_after: Duration,
}

impl Default for Patience {
    fn default() -> Self {
        Self {
            headers: Duration::from_secs(30),
            silence: Duration::from_secs(30),
            least: 64 << 10,
            window: Duration::from_secs(60),
            retry_after: Duration::from_secs(10),
        }
    }
}

impl Patience {
    /// For a small answer as a whole, or a trickle of bytes, each within the limit for
    /// silence, would last for ever.
    pub(super) fn document(&self) -> Duration {
        self.silence * 2
    }
}

/// For messages: whole seconds, never none.
pub(super) fn seconds(time: Duration) -> u64 {
    time.as_secs().max(1)
}
