//! The same for several objects, at the same time: grace periods do not add
//! up, and one failure does not stop the rest.

use std::{
    future::poll_fn,
    pin::Pin,
    task::{Context, Poll},
};

use tokio::sync::Semaphore;

use crate::{
    failure::{EXIT_FAILED, Failure, Outcome},
    output,
};

/// Requests at the same time. More would only wait in the agent, with their
/// limits running.
const AT_ONCE: usize = 16;

/// Acts on each name, tells each that is done and each failure as they come,
/// and returns the exit code for all.
pub(super) async fn each(names: &[String], act: impl AsyncFn(&str) -> Outcome<()>) -> Outcome<u8> {
    each_telling(names, async |name| {
        act(name).await?;
        Ok(vec![name.to_owned()])
    })
    .await
}

/// The same where there is more to tell than the name: a line each.
pub(super) async fn each_telling(
    names: &[String],
    act: impl AsyncFn(&str) -> Outcome<Vec<String>>,
) -> Outcome<u8> {
    let gate = Semaphore::new(AT_ONCE);
    let (gate, act) = (&gate, &act);
    let one = |name: &'_ String| {
        let name = name.clone();
        async move {
            // The gate is never closed.
            let _permit = gate.acquire().await.ok();
            match act(&name).await {
                Ok(lines) => lines
                    .iter()
                    .try_for_each(|line| output::line(line))
                    .map(|()| 0),
                Err(failure) => {
                    failure.print();
                    Ok(EXIT_FAILED)
                }
            }
        }
    };
    let mut exit = 0;
    for result in all(names.iter().map(one)).await {
        exit = exit.max(result?);
    }
    Ok(exit)
}

/// The results of all futures, which run side by side.
async fn all<F: Future>(futures: impl Iterator<Item = F>) -> Vec<F::Output> {
    let mut running: Vec<Option<Pin<Box<F>>>> = futures.map(Box::pin).map(Some).collect();
    let mut results = Vec::with_capacity(running.len());
    let poll = |context: &mut Context<'_>| {
        for slot in &mut running {
            if let Some(future) = slot
                && let Poll::Ready(result) = future.as_mut().poll(context)
            {
                results.push(result);
                *slot = None;
            }
        }
        if running.iter().all(Option::is_none) {
            Poll::Ready(())
        } else {
            Poll::Pending
        }
    };
    poll_fn(poll).await;
    results
}

/// The names that were given, or all; exactly one of the two.
pub(super) fn chosen(given: &[String], all: Option<Vec<String>>) -> Outcome<Vec<String>> {
    match all {
        Some(_) if !given.is_empty() => Err(Failure::usage(
            "cannot choose",
            "--all and names exclude each other",
        )),
        Some(all) => Ok(all),
        None if given.is_empty() => Err(Failure::usage(
            "nothing to do",
            "name something, or use --all",
        )),
        None => Ok(given.to_vec()),
    }
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, Instant};

    use super::*;

    #[tokio::test]
    async fn waits_do_not_add_up() {
        let begun = Instant::now();
        let waits = [60, 20, 40].map(|millis| async move {
            tokio::time::sleep(Duration::from_millis(millis)).await;
            millis
        });
        assert_eq!(all(waits.into_iter()).await, [20, 40, 60]);
        assert!(begun.elapsed() < Duration::from_millis(115));
    }
}
