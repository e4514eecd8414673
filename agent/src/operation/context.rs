//! What an operation is given.

#[cfg(test)]
use std::future::Future;
use std::sync::Arc;

use berth_phase::{Phase, Tracker};
use tokio_util::sync::CancellationToken;

use super::{Undo, operations::Inner, table::Operation};
use crate::error::Error;

/// What an operation is given; clones share it.
#[derive(Clone, Debug)]
pub(crate) struct Context {
    /// The phase it is in.
    pub(crate) tracker: Tracker,
    /// Set when it should end; see [`Context::enter`].
    pub(crate) cancel: CancellationToken,
    /// What must be undone if it does not succeed.
    pub(crate) undo: Undo,
    pub(super) operation: Arc<Operation>,
    pub(super) table: Arc<Inner>,
}

impl Context {
    /// Begins a phase, unless the operation has been called off. To be called
    /// before each step; see [`Tracker::enter`].
    ///
    /// # Errors
    /// Cancelled, or what a failpoint asks for.
    pub(crate) fn enter(&self, phase: Phase, step: &'static str) -> Result<(), Error> {
        if self.cancel.is_cancelled() {
            return Err(self.called_off().in_phase(Some(phase)));
        }
        Ok(self.tracker.enter(phase, step)?)
    }

    /// Waits for `work` as long as the operation is not called off. `work` is
    /// dropped then, so it must bear that.
    ///
    /// # Errors
    /// Cancelled.
    #[cfg(test)]
    pub(crate) async fn unless_cancelled<T>(
        &self,
        work: impl Future<Output = T>,
    ) -> Result<T, Error> {
        tokio::select! {
            value = work => Ok(value),
            () = self.cancel.cancelled() => Err(self.called_off()),
        }
    }

    /// Says which object this operation makes. It is hidden from now on until a
    /// caller has got the answer; may be called for several.
    pub(crate) fn makes(&self, id: &str) {
        self.table.hide(&self.operation, id);
    }

    fn called_off(&self) -> Error {
        Error::cancelled(format!("{} was called off", self.operation))
    }
}
