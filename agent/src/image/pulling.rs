//! How far pulls are, for whoever waits for one.

use std::{
    collections::HashMap,
    convert::Infallible,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use berth_image::PullProgress;
use tokio::sync::watch;

/// How often a pull that has not begun is looked for; people do not see less.
const LOOK: Duration = Duration::from_millis(100);

type Table = HashMap<String, watch::Receiver<PullProgress>>;

/// The pulls that run, by the full name of what they pull.
#[derive(Clone, Debug, Default)]
pub(crate) struct Pulling(Arc<Mutex<Table>>);

/// Takes a pull out of the table when it ends.
#[derive(Debug)]
pub(crate) struct Shown {
    pulling: Pulling,
    name: String,
}

impl Drop for Shown {
    fn drop(&mut self) {
        self.pulling.lock().remove(&self.name);
    }
}

impl Pulling {
    fn lock(&self) -> MutexGuard<'_, Table> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Where a pull of `name` reports; the table of operations lets one run at a time.
    pub(crate) fn begin(&self, name: String) -> (watch::Sender<PullProgress>, Shown) {
        let (sender, receiver) = watch::channel(PullProgress::default());
        self.lock().insert(name.clone(), receiver);
        let pulling = self.clone();
        (sender, Shown { pulling, name })
    }

    /// Copies what the pull of `name` reports to `to`, for as long as anybody waits.
    pub(crate) async fn show(&self, name: &str, to: &watch::Sender<PullProgress>) -> Infallible {
        loop {
            let running = self.lock().get(name).cloned();
            let Some(mut running) = running else {
                tokio::time::sleep(LOOK).await;
                continue;
            };
            loop {
                let seen = running.borrow_and_update().clone();
                to.send_replace(seen);
                if running.changed().await.is_err() {
                    break;
                }
            }
            // Over; the next one begins with another sender.
            tokio::time::sleep(LOOK).await;
        }
    }
}
