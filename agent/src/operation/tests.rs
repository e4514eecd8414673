//! The second call, the cancelled call, the different call, and many at a time.

use std::{
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use berth_phase::{Observer, Phase};
use tokio::{sync::Notify, time::Instant};

use super::*;
use crate::error::{Error, Kind, Result};

/// Long enough for any scheduler, short enough for a test that fails.
const PATIENCE: Duration = Duration::from_secs(10);

fn quick() -> Operations {
    Operations::with_limits(
        None,
        Limits {
            claim: Duration::from_millis(150),
            redelivery: Duration::from_millis(300),
            supersede: Duration::from_millis(500),
            sweep: Duration::from_millis(20),
        },
    )
}

fn create(name: &str) -> Request {
    Request::new(Verb::CreateContainer, name)
}

fn as_other(request: Request) -> Request {
    request.fingerprint(Fingerprint::of(&[b"other"]))
}

fn id(text: &str) -> Value {
    Value::Id(text.to_owned())
}

async fn eventually(what: &str, mut holds: impl FnMut() -> bool) {
    let until = Instant::now() + PATIENCE;
    while !holds() {
        assert!(Instant::now() < until, "never: {what}");
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
}

/// Work that waits until it is let go, and counts how often it was begun.
#[derive(Clone, Default)]
struct Gate {
    begun: Arc<AtomicUsize>,
    open: Arc<Notify>,
}

impl Gate {
    fn begun(&self) -> usize {
        self.begun.load(Ordering::SeqCst)
    }

    async fn pass(self, context: Context, result: Result<Value>) -> Result<Value> {
        context.enter(Phase::Reserve, "")?;
        self.begun.fetch_add(1, Ordering::SeqCst);
        context.enter(Phase::Network, "")?;
        context.unless_cancelled(self.open.notified()).await?;
        result
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_thousand_creates_of_one_name_are_one_execution() {
    let operations = quick();
    let gate = Gate::default();
    let callers: Vec<_> = (0..1000)
        .map(|_| {
            let (operations, gate) = (operations.clone(), gate.clone());
            tokio::spawn(async move {
                let work = move |context| gate.pass(context, Ok(id("one")));
                operations.run(create("a"), work).await
            })
        })
        .collect();
    eventually("all wait", || {
        operations
            .list()
            .first()
            .is_some_and(|op| op.waiters == 1000)
    })
    .await;
    assert_eq!(operations.list().len(), 1);
    gate.open.notify_one();
    for caller in callers {
        assert_eq!(caller.await.unwrap().unwrap(), id("one"));
    }
    assert_eq!(gate.begun(), 1);
    assert!(operations.list().is_empty());
}

#[tokio::test]
async fn a_caller_that_leaves_does_not_tear_the_work_and_its_retry_gets_the_result() {
    let operations = quick();
    let gate = Gate::default();
    let first = tokio::time::timeout(
        Duration::from_millis(20),
        operations.run(create("a"), {
            let gate = gate.clone();
            move |context| {
                context.makes("c1");
                gate.pass(context, Ok(id("c1")))
            }
        }),
    );
    assert!(first.await.is_err());
    assert!(operations.is_unclaimed("c1"), "hidden while nobody has it");
    gate.open.notify_one();
    eventually("it ends", || operations.list().is_empty()).await;
    assert!(operations.is_unclaimed("c1"));

    let again = || operations.run(create("a"), |_| async { Ok(id("a second one")) });
    assert_eq!(again().await.unwrap(), id("c1"));
    assert!(!operations.is_unclaimed("c1"), "seen once somebody has it");
    assert_eq!(again().await.unwrap(), id("c1"), "a reply can be lost");
    assert_eq!(again().await.unwrap(), id("a second one"), "but only once");
}

#[tokio::test]
async fn a_claimed_result_is_not_given_again_after_its_time() {
    let operations = quick();
    let run = |value| operations.run(create("a"), move |_| async move { Ok(id(value)) });
    run("c1").await.unwrap();
    tokio::time::sleep(Duration::from_millis(350)).await;
    assert_eq!(run("c2").await.unwrap(), id("c2"));
}

#[tokio::test]
async fn the_id_of_a_removed_object_is_not_handed_out() {
    let operations = quick();
    let run = |value| operations.run(create("a"), move |_| async move { Ok(id(value)) });
    run("c1").await.unwrap();
    operations.forget("c1");
    assert_eq!(run("c2").await.unwrap(), id("c2"));
}

#[tokio::test]
async fn a_different_request_cancels_waits_for_the_undoing_and_starts_anew() {
    let operations = quick();
    let log = Arc::new(Mutex::new(Vec::new()));
    let gate = Gate::default();
    let first = tokio::spawn({
        let (operations, gate, log) = (operations.clone(), gate.clone(), Arc::clone(&log));
        async move {
            let work = move |context: Context| {
                context.undo.push("record", {
                    let log = Arc::clone(&log);
                    move || async move {
                        tokio::time::sleep(Duration::from_millis(30)).await;
                        log.lock().unwrap().push("undone");
                        Ok(())
                    }
                });
                gate.pass(context, Ok(id("c1")))
            };
            operations.run(create("a"), work).await
        }
    });
    eventually("it has begun", || gate.begun() == 1).await;
    let second = operations
        .run(as_other(create("a")), {
            let log = Arc::clone(&log);
            move |_| async move {
                log.lock().unwrap().push("anew");
                Ok(id("c2"))
            }
        })
        .await;
    assert_eq!(second.unwrap(), id("c2"));
    assert_eq!(*log.lock().unwrap(), ["undone", "anew"]);
    let error = first.await.unwrap().unwrap_err();
    assert_eq!(error.kind(), Kind::Cancelled);
    assert_eq!(error.phase(), Some(Phase::Network));
}

#[tokio::test]
async fn a_different_request_takes_back_what_nobody_has_claimed() {
    let operations = quick();
    let withdrawn = Arc::new(Mutex::new(Vec::new()));
    operations.on_unclaimed({
        let withdrawn = Arc::clone(&withdrawn);
        move |left| {
            let withdrawn = Arc::clone(&withdrawn);
            async move {
                withdrawn.lock().unwrap().push((left.made, left.value));
                Ok(())
            }
        }
    });
    let gate = Gate::default();
    let work = {
        let gate = gate.clone();
        move |context| gate.pass(context, Ok(id("c1")))
    };
    let left = tokio::time::timeout(Duration::from_millis(10), operations.run(create("a"), work));
    assert!(left.await.is_err());
    gate.open.notify_one();
    eventually("it ends", || operations.list().is_empty()).await;
    let second = operations.run(as_other(create("a")), |_| async { Ok(id("c2")) });
    assert_eq!(second.await.unwrap(), id("c2"));
    let withdrawn = withdrawn.lock().unwrap();
    assert_eq!(*withdrawn, [(vec!["c1".to_owned()], id("c1"))]);
}

#[tokio::test]
async fn what_nobody_claims_is_taken_back_and_a_failure_of_that_makes_it_visible() {
    let operations = quick();
    let calls = Arc::new(AtomicUsize::new(0));
    operations.on_unclaimed({
        let calls = Arc::clone(&calls);
        move |_| {
            calls.fetch_add(1, Ordering::SeqCst);
            async { Err(Error::internal("no")) }
        }
    });
    let gate = Gate::default();
    let work = {
        let gate = gate.clone();
        move |context| gate.pass(context, Ok(id("c1")))
    };
    let left = tokio::time::timeout(Duration::from_millis(10), operations.run(create("a"), work));
    assert!(left.await.is_err());
    gate.open.notify_one();
    eventually("it is hidden", || operations.is_unclaimed("c1")).await;
    eventually("it is taken back", || calls.load(Ordering::SeqCst) == 1).await;
    eventually("it is seen", || !operations.is_unclaimed("c1")).await;
    assert_eq!(operations.drain(PATIENCE).await, 0);
}

#[tokio::test]
async fn a_pull_ends_when_its_last_caller_leaves_and_not_before() {
    let operations = quick();
    let gate = Gate::default();
    let pull = || {
        let gate = gate.clone();
        let request = Request::new(Verb::Pull, "example.org/a:1");
        operations.run(request, move |context| gate.pass(context, Ok(Value::Done)))
    };
    let mut one = Box::pin(pull());
    let mut two = Box::pin(pull());
    for waiter in [&mut one, &mut two] {
        assert!(
            tokio::time::timeout(Duration::from_millis(10), waiter)
                .await
                .is_err()
        );
    }
    assert_eq!((gate.begun(), operations.list()[0].waiters), (1, 2));
    drop(one);
    tokio::time::sleep(Duration::from_millis(20)).await;
    assert_eq!(operations.list()[0].waiters, 1, "the other still waits");
    drop(two);
    eventually("it ends", || operations.list().is_empty()).await;

    // Who comes while a cancelled pull ends gets one of its own.
    gate.open.notify_one();
    assert_eq!(pull().await.unwrap(), Value::Done);
    assert_eq!(gate.begun(), 2);
}

#[tokio::test]
async fn a_deadline_says_which_phase_waited_and_the_work_goes_on() {
    let operations = quick();
    let gate = Gate::default();
    let attempt = |deadline: Option<Instant>| {
        let gate = gate.clone();
        let request = create("ns/pod/uid/0/c/0").deadline(deadline);
        operations.run(request, move |context| gate.pass(context, Ok(id("c1"))))
    };
    let soon = Instant::now() + Duration::from_millis(120);
    let error = attempt(Some(soon)).await.unwrap_err();
    assert_eq!(error.kind(), Kind::DeadlineExceeded);
    assert_eq!(error.phase(), Some(Phase::Network));
    assert_eq!(
        error.sentence(),
        "create-container ns/pod/uid/0/c/0 is not done after 0.1 s: in phase network for 0.1 s; \
         it goes on; the same request joins it"
    );
    gate.open.notify_one();
    assert_eq!(attempt(None).await.unwrap(), id("c1"));
    assert_eq!(gate.begun(), 1);
    let late = attempt(Some(Instant::now())).await.unwrap_err();
    assert_eq!(late.kind(), Kind::DeadlineExceeded);
}

#[tokio::test]
async fn a_failure_is_undone_in_reverse_and_never_overwritten() {
    let operations = quick();
    let log = Arc::new(Mutex::new(Vec::new()));
    let step = |name: &'static str, outcome: Result<()>| {
        let log = Arc::clone(&log);
        move || async move {
            log.lock().unwrap().push(name);
            outcome
        }
    };
    let record = step("record", Ok(()));
    let cgroup = step("cgroup", Ok(()));
    let address = step("address", Err(Error::unavailable("address is in use")));
    let netns = step("netns", Ok(()));
    let work = move |context: Context| async move {
        context.undo.push_if_clean("record", record);
        context.undo.push("cgroup", cgroup);
        context.undo.push("address", address);
        context
            .undo
            .push("panics", || async { panic!("in the undoing") });
        context.undo.push("netns", netns);
        context.enter(Phase::Mount, "")?;
        Err(Error::invalid("no such mount"))
    };
    let error = operations.run(create("a"), work).await.unwrap_err();
    assert_eq!(error.kind(), Kind::InvalidArgument);
    assert_eq!(error.phase(), Some(Phase::Mount));
    assert_eq!(
        *log.lock().unwrap(),
        ["netns", "address", "cgroup"],
        "the record stays while something is left behind"
    );
    let left: Vec<_> = error.undo_failures().iter().map(Error::to_string).collect();
    assert_eq!(left, ["undo panics", "undo address"]);

    let log = Arc::new(Mutex::new(Vec::new()));
    let clean = {
        let log = Arc::clone(&log);
        move || async move {
            log.lock().unwrap().push("record");
            Ok(())
        }
    };
    let work = move |context: Context| async move {
        context.undo.push_if_clean("record", clean);
        Err(Error::invalid("x"))
    };
    operations.run(create("a"), work).await.unwrap_err();
    assert_eq!(*log.lock().unwrap(), ["record"]);
}

#[tokio::test]
async fn a_panic_fails_that_call_alone_and_is_undone() {
    let operations = quick();
    let undone = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&undone);
    let work = move |context: Context| async move {
        context.makes("c1");
        context.undo.push("it", move || async move {
            count.fetch_add(1, Ordering::SeqCst);
            Ok(())
        });
        context.enter(Phase::Plan, "")?;
        panic!("a fault")
    };
    let error = operations.run(create("a"), work).await.unwrap_err();
    assert_eq!(
        (error.kind(), error.phase()),
        (Kind::Internal, Some(Phase::Plan))
    );
    assert_eq!(undone.load(Ordering::SeqCst), 1);
    assert!(!operations.is_unclaimed("c1"));
    // Also before its first await.
    let work = |_| -> std::future::Ready<Result<Value>> { panic!("at once") };
    let error = operations.run(create("a"), work).await.unwrap_err();
    assert_eq!(error.kind(), Kind::Internal);
    let fine = operations.run(create("a"), |_| async { Ok(Value::Done) });
    assert_eq!(fine.await.unwrap(), Value::Done);
}

#[tokio::test]
async fn a_failure_is_not_kept_but_all_who_waited_get_it() {
    let operations = quick();
    let gate = Gate::default();
    let callers: Vec<_> = (0..3)
        .map(|_| {
            let (operations, gate) = (operations.clone(), gate.clone());
            tokio::spawn(async move {
                let work = move |context| gate.pass(context, Err(Error::unavailable("no route")));
                operations.run(create("a"), work).await
            })
        })
        .collect();
    eventually("all wait", || {
        operations.list().first().is_some_and(|op| op.waiters == 3)
    })
    .await;
    gate.open.notify_one();
    for caller in callers {
        assert_eq!(caller.await.unwrap().unwrap_err().kind(), Kind::Unavailable);
    }
    let retry = operations.run(create("a"), |_| async { Ok(id("c1")) });
    assert_eq!(retry.await.unwrap(), id("c1"));
}

#[tokio::test]
async fn work_that_does_not_heed_its_cancellation_is_named_and_not_started_twice() {
    let operations = quick();
    let begun = Arc::new(AtomicUsize::new(0));
    let stubborn = {
        let begun = Arc::clone(&begun);
        move |context: Context| async move {
            begun.fetch_add(1, Ordering::SeqCst);
            context.enter(Phase::Network, "")?;
            tokio::time::sleep(PATIENCE).await;
            Ok(Value::Done)
        }
    };
    let left = operations.run(create("a"), stubborn);
    assert!(
        tokio::time::timeout(Duration::from_millis(10), left)
            .await
            .is_err()
    );
    let second = operations.run(as_other(create("a")), |_| async { Ok(Value::Done) });
    let error = second.await.unwrap_err();
    assert_eq!(
        (error.kind(), error.phase()),
        (Kind::Aborted, Some(Phase::Network))
    );
    assert_eq!(begun.load(Ordering::SeqCst), 1);
    assert_eq!(operations.list()[0].phase, Some(Phase::Network));
}

#[tokio::test]
async fn ending_takes_no_more_and_waits_for_what_is_under_way() {
    let operations = quick();
    let gate = Gate::default();
    let stop = Request::new(Verb::StopContainer, "c1");
    let running = tokio::spawn({
        let (operations, gate, stop) = (operations.clone(), gate.clone(), stop.clone());
        async move {
            let work = move |context| gate.pass(context, Ok(Value::Done));
            operations.run(stop, work).await
        }
    });
    eventually("it has begun", || gate.begun() == 1).await;
    assert_eq!(operations.drain(Duration::from_millis(20)).await, 1);
    let refused = operations.run(stop, |_| async { Ok(Value::Done) });
    assert_eq!(refused.await.unwrap_err().kind(), Kind::Unavailable);
    gate.open.notify_one();
    assert_eq!(operations.drain(PATIENCE).await, 0);
    running.await.unwrap().unwrap();
}

#[tokio::test]
async fn the_observer_sees_every_phase_and_the_rollback() {
    #[derive(Default)]
    struct Seen(Mutex<Vec<(&'static str, Phase)>>);
    impl Observer for Seen {
        fn ended(&self, operation: &'static str, phase: Phase, _: Duration) {
            self.0.lock().unwrap().push((operation, phase));
        }
    }
    let seen = Arc::new(Seen::default());
    let operations = Operations::with_limits(Some(seen.clone()), Limits::default());
    let work = |context: Context| async move {
        context.undo.push("it", || async { Ok(()) });
        context.enter(Phase::Cgroup, "create")?;
        Err(Error::internal("x"))
    };
    operations.run(create("a"), work).await.unwrap_err();
    assert_eq!(
        *seen.0.lock().unwrap(),
        [
            ("create-container", Phase::Cgroup),
            ("create-container", Phase::Rollback)
        ]
    );
}

/// Callers with random patience, fingerprints and outcomes: whatever the order,
/// one operation of a key runs at a time and nothing is left behind.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn no_two_operations_of_a_key_overlap_whatever_the_callers_do() {
    let operations = quick();
    let existing = Arc::new(AtomicUsize::new(0));
    operations.on_unclaimed({
        let existing = Arc::clone(&existing);
        move |_| {
            existing.fetch_sub(1, Ordering::SeqCst);
            async { Ok(()) }
        }
    });
    let running = Arc::new(AtomicUsize::new(0));
    let claimed = Arc::new(AtomicUsize::new(0));
    // A fixed sequence: the interleaving is random enough, and failures can be found again.
    let mut random = 0x2545_F491_4F6C_DD1D_u64;
    let mut draw = move |below: u64| {
        random ^= random << 13;
        random ^= random >> 7;
        random ^= random << 17;
        random % below
    };
    let mut callers = Vec::new();
    for _ in 0..400 {
        let (operations, running) = (operations.clone(), Arc::clone(&running));
        let (existing, claimed) = (Arc::clone(&existing), Arc::clone(&claimed));
        let fails = draw(4) == 0;
        let work_time = Duration::from_millis(draw(4));
        let patience = Duration::from_millis(draw(40));
        let pause = Duration::from_millis(draw(150));
        let fingerprint = Fingerprint::of(&[&[u8::from(draw(6) == 0)]]);
        callers.push(tokio::spawn(async move {
            tokio::time::sleep(pause).await;
            let work = move |context: Context| async move {
                assert_eq!(running.fetch_add(1, Ordering::SeqCst), 0, "two at a time");
                context.undo.push("it", {
                    let running = Arc::clone(&running);
                    move || async move {
                        running.fetch_sub(1, Ordering::SeqCst);
                        Ok(())
                    }
                });
                context.enter(Phase::Mount, "")?;
                context
                    .unless_cancelled(tokio::time::sleep(work_time))
                    .await?;
                if fails {
                    return Err(Error::internal("x"));
                }
                existing.fetch_add(1, Ordering::SeqCst);
                running.fetch_sub(1, Ordering::SeqCst);
                Ok(Value::Done)
            };
            let request = create("a").fingerprint(fingerprint);
            let outcome = tokio::time::timeout(patience, operations.run(request, work)).await;
            if let Ok(Ok(_)) = outcome {
                claimed.fetch_add(1, Ordering::SeqCst);
            } else if let Ok(Err(error)) = outcome {
                assert!(
                    matches!(
                        error.kind(),
                        Kind::Internal | Kind::Cancelled | Kind::Aborted
                    ),
                    "{}",
                    error.sentence()
                );
                assert!(
                    !error.sentence().contains("panicked"),
                    "{}",
                    error.sentence()
                );
            }
        }));
    }
    for caller in callers {
        caller.await.unwrap();
    }
    eventually("all ends", || operations.list().is_empty()).await;
    assert_eq!(running.load(Ordering::SeqCst), 0);
    // Longer than any result is kept.
    tokio::time::sleep(Duration::from_millis(400)).await;
    let fresh = operations.run(create("a"), |_| async { Ok(id("fresh")) });
    assert_eq!(fresh.await.unwrap(), id("fresh"));
    assert_eq!(operations.drain(PATIENCE).await, 0);
    // What exists was handed to somebody; what nobody got was taken back.
    assert!(existing.load(Ordering::SeqCst) <= claimed.load(Ordering::SeqCst));
}
