//! Containers: a shim, a cgroup, a writable layer, a log.
//!
//! One file per verb. Each container has a task ([`watch`]) that hears of its
//! end; verbs that change one container hold its turn meanwhile.

pub(crate) mod command;
mod create;
pub(crate) mod death;
mod devices;
mod exec;
mod files;
mod image_volume;
mod log;
mod oom_score;
mod other;
mod recover;
mod remove;
mod start;
pub(crate) mod state;
pub(crate) mod stats;
mod stop;
mod update;
mod view;
mod watch;
mod why;

use std::{
    collections::HashMap,
    os::fd::OwnedFd,
    sync::{Arc, Mutex, PoisonError, RwLock},
    time::Duration,
};

use berth_engine::Shim;
use berth_proto::shim::{ExecExited, ProcessPlan};
use tokio::sync::{oneshot, watch as channel};

use crate::{
    error::{Error, Result},
    ids::ContainerId,
    node::Node,
    store::{ContainerRecord, Store},
};

pub(crate) use create::{create, create_for};
pub(crate) use exec::{RunningExec, exec_detached, exec_failure, exec_sync};
pub(crate) use log::reopen_log;
pub(crate) use recover::{adopt, settle};
pub(crate) use remove::remove;
pub(crate) use start::start;
pub(crate) use stats::{list_stats, stats};
pub(crate) use stop::{stop, stop_now};
pub(crate) use update::{merge, update};
pub(crate) use view::{list, status, statuses};
pub(crate) use why::why;

/// A container in memory. Its record is what the store holds.
#[derive(Debug)]
pub(crate) struct Container {
    pub(crate) id: ContainerId,
    record: RwLock<Arc<ContainerRecord>>,
    /// Told of every change of the record.
    changed: channel::Sender<()>,
    /// Held from reading the record until what was made of it is written: the end
    /// of a program comes while its start is being written down.
    changing: tokio::sync::Mutex<()>,
    /// Held by whoever starts or removes it. Stopping does not need it: a stop
    /// must get through while a start hangs.
    pub(crate) turn: tokio::sync::Mutex<()>,
    live: RwLock<Option<Arc<Live>>>,
    /// The first call that asked it to end.
    asked: Mutex<Option<death::Asked>>,
    /// The last look at its CPU time.
    cpu_sample: Mutex<stats::CpuSample>,
}

/// What exists of a container while it has processes.
#[derive(Debug)]
pub(crate) struct Live {
    pub(crate) shim: Shim,
    /// Of the init: its exit status can be read from it if the shim is killed.
    pub(crate) init: Option<OwnedFd>,
    /// What execs start from.
    pub(crate) process: ProcessPlan,
    /// Who waits for the end of which exec.
    execs: Mutex<HashMap<String, oneshot::Sender<ExecExited>>>,
}

impl Live {
    pub(crate) fn new(shim: Shim, init: Option<OwnedFd>, process: ProcessPlan) -> Arc<Self> {
        Arc::new(Self {
            shim,
            init,
            process,
            execs: Mutex::default(),
        })
    }

    fn expect_exec(&self, id: &str) -> oneshot::Receiver<ExecExited> {
        let (sender, receiver) = oneshot::channel();
        self.execs().insert(id.to_owned(), sender);
        receiver
    }

    fn forget_exec(&self, id: &str) {
        self.execs().remove(id);
    }

    fn exec_ended(&self, exited: ExecExited) {
        if let Some(waiter) = self.execs().remove(&exited.exec_id) {
            // Whoever waited has gone; the end is of interest to nobody else.
            waiter.send(exited).ok();
        }
    }

    /// Nobody will hear of any exec any more.
    fn all_execs_ended(&self) {
        self.execs().clear();
    }

    fn execs(&self) -> std::sync::MutexGuard<'_, HashMap<String, oneshot::Sender<ExecExited>>> {
        self.execs.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Container {
    pub(crate) fn new(record: ContainerRecord) -> Arc<Self> {
        Arc::new(Self {
            id: record.id.clone(),
            record: RwLock::new(Arc::new(record)),
            changed: channel::Sender::new(()),
            changing: tokio::sync::Mutex::new(()),
            turn: tokio::sync::Mutex::new(()),
            live: RwLock::default(),
            asked: Mutex::default(),
            cpu_sample: Mutex::default(),
        })
    }

    /// The record as it is now.
    pub(crate) fn record(&self) -> Arc<ContainerRecord> {
        self.record
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    fn cpu_sample(&self) -> std::sync::MutexGuard<'_, stats::CpuSample> {
        self.cpu_sample
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    /// The shim and what belongs to it, while there is one.
    pub(crate) fn live(&self) -> Option<Arc<Live>> {
        self.live
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    pub(crate) fn set_live(&self, live: Option<Arc<Live>>) {
        *self.live.write().unwrap_or_else(PoisonError::into_inner) = live;
    }

    /// Somebody asks it to end; the first who does is who counts.
    pub(crate) fn ask_to_end(&self, grace: Duration) {
        let mut asked = self.asked.lock().unwrap_or_else(PoisonError::into_inner);
        asked.get_or_insert_with(|| death::Asked::now(grace));
    }

    /// Whoever asked it to end, as far as this agent knows.
    pub(crate) fn asked(&self) -> Option<death::Asked> {
        *self.asked.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// As [`Container::live`] for what needs a running program.
    ///
    /// # Errors
    /// FailedPrecondition if it does not run.
    pub(crate) fn running(&self) -> Result<Arc<Live>> {
        let record = self.record();
        let refuse = || {
            Error::precondition(format!(
                "container {} is {}, not running",
                self.id.short(),
                record.state.name()
            ))
        };
        match record.state {
            state::State::Running { .. } | state::State::Paused { .. } => {
                self.live().ok_or_else(refuse)
            }
            _ => Err(refuse()),
        }
    }

    /// Lets `event` happen and writes it down before anybody can see it.
    ///
    /// # Errors
    /// FailedPrecondition if it cannot happen now; Internal if it cannot be written.
    pub(crate) async fn apply(&self, node: &Node, event: state::Event) -> Result<()> {
        self.change(node, |record| {
            record.state = record.state.clone().next(event)?;
            Ok(())
        })
        .await
    }

    /// Writes down what `change` makes of the record before anybody can see it, and tells
    /// those who listen. Changes come one after another, each on top of the one before.
    ///
    /// # Errors
    /// Those of `change`; Internal if it cannot be written. Then nothing has changed.
    pub(crate) async fn change(
        &self,
        node: &Node,
        change: impl FnOnce(&mut ContainerRecord) -> Result<()>,
    ) -> Result<()> {
        // Before the next change, so that events come in the order in which things happened.
        let tell = |before: &ContainerRecord| self.tell(node, before);
        self.change_in(&node.store, change, tell).await
    }

    /// [`Container::change`] with somebody else to tell of the record as it was before.
    pub(crate) async fn change_in(
        &self,
        store: &Store,
        change: impl FnOnce(&mut ContainerRecord) -> Result<()>,
        tell: impl FnOnce(&ContainerRecord),
    ) -> Result<()> {
        let _alone = self.changing.lock().await;
        let before = self.record();
        let mut record = ContainerRecord::clone(&before);
        change(&mut record)?;
        store
            .put_container(&record, record.made_by.durability())
            .await?;
        self.show(record);
        tell(&before);
        Ok(())
    }

    /// Lets `event` happen in memory only, for those whom an agent still serves that
    /// another one has replaced.
    pub(crate) async fn learn(&self, event: state::Event) -> Result<()> {
        let _alone = self.changing.lock().await;
        let mut record = ContainerRecord::clone(&self.record());
        record.state = record.state.clone().next(event)?;
        self.show(record);
        Ok(())
    }

    fn show(&self, record: ContainerRecord) {
        *self.record.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(record);
        self.changed.send_replace(());
    }

    fn tell(&self, node: &Node, before: &ContainerRecord) {
        use berth_proto::cri::ContainerEventType as Type;
        let after = self.record();
        let existed = before.state.cri().is_some();
        let ran = |record: &ContainerRecord| record.state.started_at() != 0;
        let ended = |record: &ContainerRecord| record.state.exit().is_some();
        let steps = [
            (
                !existed && after.state.cri().is_some(),
                Type::ContainerCreatedEvent,
            ),
            // What ends at once may be written down as ended first.
            (!ran(before) && ran(&after), Type::ContainerStartedEvent),
            (!ended(before) && ended(&after), Type::ContainerStoppedEvent),
        ];
        for (_, kind) in steps.into_iter().filter(|(happened, _)| *happened) {
            node.events
                .tell(node, &after.sandbox_id, self.id.as_str(), kind);
        }
    }

    /// Waits until the container has exited.
    pub(crate) async fn exited(&self) -> state::Exit {
        let mut changes = self.changed.subscribe();
        loop {
            if let Some(exit) = self.record().state.exit() {
                return exit.clone();
            }
            // The sender lives in `self`, so this ends only with a change.
            if changes.changed().await.is_err() {
                std::future::pending::<()>().await;
            }
        }
    }
}

/// What the other side of the shim protocol, or the kernel, has refused.
pub(crate) fn convert(what: &'static str) -> impl FnOnce(berth_engine::Error) -> Error {
    move |error| {
        let error_kind = match &error {
            berth_engine::Error::Timeout { .. } => crate::error::Kind::DeadlineExceeded,
            error if error.is_state() => crate::error::Kind::FailedPrecondition,
            error if error.is_execute() => crate::error::Kind::InvalidArgument,
            _ => crate::error::Kind::Internal,
        };
        Error::new(error_kind, what).with_source(error)
    }
}
