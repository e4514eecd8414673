//! Every boundary between two steps hangs: calls run into their deadline or are called
//! off, and the same calls again bring all to its end.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use berth_integration::{
    failpoints::{ARM, Boundary},
    image,
};

use crate::life::{LIFE, Life, boundaries, selected};

/// How long a step hangs.
const HANG: u64 = 2_000;
/// A kubelet's deadline, as it were: several times the time that a call takes.
const DEADLINE: Duration = Duration::from_millis(500);
/// Calls until a step that hangs has gone on, and some more.
const ATTEMPTS: usize = 20;
/// Whoever calls off does so soon, and with no deadline that the agent could see.
const PATIENCE: Duration = Duration::from_millis(300);

/// The boundaries after the start of the agent, in which nobody has called yet.
async fn of_calls() -> Result<Vec<Boundary>> {
    let mut all = boundaries(&image::busybox()?).await?;
    all.retain(|boundary| !boundary.name.starts_with("recover"));
    ensure!(all.len() > 40, "too few boundaries: {all:?}");
    Ok(selected(all))
}

fn report(name: &str, count: usize, failures: usize, wrong: &[String]) {
    println!(
        "faults: {name}: {count} boundaries, {failures} calls failed and were repeated, {} wrong",
        wrong.len()
    );
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    assert!(failures >= count / 3, "hardly any step hung");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_step_that_hangs_past_the_deadline_is_joined_by_the_same_call() -> Result<()> {
    let image = image::busybox()?;
    let boundaries = of_calls().await?;
    let (mut wrong, mut failures) = (Vec::new(), 0);
    for boundary in &boundaries {
        let hang = boundary.hang(HANG);
        let outcome = async {
            let mut life = Life::start(&image, &[(ARM, &hang)]).await?;
            life.node.set_patience(Some(DEADLINE));
            let mut failures = 0;
            for call in LIFE {
                failures += life.persist(call, ATTEMPTS).await?;
            }
            life.finish().await?;
            anyhow::Ok(failures)
        };
        match outcome.await {
            Ok(failed) => failures += failed,
            Err(error) => wrong.push(format!("{hang}: {error:#}")),
        }
    }
    report("hang past the deadline", boundaries.len(), failures, &wrong);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_call_that_is_called_off_in_any_step_is_taken_up_by_the_same_call() -> Result<()> {
    let image = image::busybox()?;
    let boundaries = of_calls().await?;
    let (mut wrong, mut failures) = (Vec::new(), 0);
    for boundary in &boundaries {
        let hang = boundary.hang(HANG);
        let outcome = async {
            let mut life = Life::start(&image, &[(ARM, &hang)]).await?;
            let mut left = 0;
            for call in LIFE {
                // Dropping the future resets its stream, as a client does that goes away.
                let called = tokio::time::timeout(PATIENCE, life.once(call)).await;
                match called {
                    Ok(Ok(())) => {}
                    Ok(Err(status)) => return Err(status).with_context(|| format!("{call:?}")),
                    Err(_left) => {
                        left += 1;
                        life.persist(call, ATTEMPTS).await?;
                    }
                }
            }
            life.finish().await?;
            Ok(left)
        };
        match outcome.await {
            Ok(left) => failures += left,
            Err(error) => wrong.push(format!("{hang}: {error:#}")),
        }
    }
    report("called off", boundaries.len(), failures, &wrong);
    Ok(())
}
