//! Mirrors that did not answer a moment ago.

use std::{
    collections::HashMap,
    sync::{Mutex, PoisonError},
    time::{Duration, Instant},
};

use super::hosts::Host;

/// For so long a mirror that did not answer is asked last: a pull of many layers
/// waits for it once, and one that comes back is soon used again.
const DEAD_FOR: Duration = Duration::from_secs(30);
/// More than a node has mirrors.
const MOST: usize = 64;

#[derive(Debug, Default)]
pub(super) struct Dead(Mutex<HashMap<String, Instant>>);

impl Dead {
    pub(super) fn note(&self, host: &Host) {
        let mut dead = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        dead.retain(|_, since| since.elapsed() < DEAD_FOR);
        if dead.len() < MOST {
            dead.insert(host.base.to_string(), Instant::now());
        }
    }

    pub(super) fn has(&self, host: &Host) -> bool {
        let dead = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        dead.get(host.base.as_str())
            .is_some_and(|since| since.elapsed() < DEAD_FOR)
    }
}
