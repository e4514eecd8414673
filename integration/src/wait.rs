//! Waiting for a condition instead of sleeping for a while.

use std::{
    future::Future,
    time::{Duration, Instant},
};

use anyhow::{Result, bail};

/// How often a condition is looked at: short beside everything waited for,
/// long beside a system call.
const INTERVAL: Duration = Duration::from_millis(10);

/// Asks until there is an answer.
///
/// # Errors
/// Those of `ask`, or that `limit` passed; `what` says for what.
pub async fn until<T, F, A>(what: &str, limit: Duration, mut ask: F) -> Result<T>
where
    F: FnMut() -> A,
    A: Future<Output = Result<Option<T>>>,
{
    let end = Instant::now() + limit;
    loop {
        if let Some(found) = ask().await? {
            return Ok(found);
        }
        if Instant::now() > end {
            bail!("{what}: not within {limit:?}");
        }
        tokio::time::sleep(INTERVAL).await;
    }
}

/// As [`until`], for a condition that needs no waiting itself.
///
/// # Errors
/// As [`until`].
pub async fn until_true(
    what: &str,
    limit: Duration,
    mut ask: impl FnMut() -> Result<bool>,
) -> Result<()> {
    until(what, limit, || {
        let answer = ask().map(|yes| yes.then_some(()));
        async move { answer }
    })
    .await
}
