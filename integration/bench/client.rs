//! The same calls, whichever runtime is behind them.

use std::{
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::{Result, ensure};

use crate::{cri::Cri, podman::Podman};

/// A call that takes longer hangs: the longest are pulls of 200 MB.
pub(crate) const CALL: Duration = Duration::from_secs(180);
/// Seconds that a process has to obey. All of them obey at once.
pub(crate) const GRACE: i64 = 10;

/// What a container has lived.
#[derive(Debug)]
pub(crate) struct Life {
    pub(crate) exited: bool,
    /// From start to exit, by the runtime's own clock.
    pub(crate) nanoseconds: i64,
    /// Its log.
    pub(crate) log: PathBuf,
}

/// A pod and the name it was made with.
#[derive(Clone, Debug)]
pub(crate) struct Pod {
    pub(crate) id: String,
    pub(crate) name: String,
}

/// A client of a runtime.
#[derive(Clone, Debug)]
pub(crate) enum Client {
    Cri(Box<Cri>),
    Podman(Podman),
}

macro_rules! either {
    ($client:expr, $inner:ident => $call:expr) => {
        match $client {
            Client::Cri($inner) => $call.await,
            Client::Podman($inner) => $call.await,
        }
    };
}

impl Client {
    pub(crate) async fn version(&mut self) -> Result<()> {
        either!(self, client => client.version())
    }

    pub(crate) async fn run_pod(&mut self, name: &str) -> Result<Pod> {
        let id = either!(self, client => client.run_pod(name))?;
        Ok(Pod {
            id,
            name: name.into(),
        })
    }

    pub(crate) async fn stop_pod(&mut self, pod: &Pod) -> Result<()> {
        either!(self, client => client.stop_pod(&pod.id))
    }

    pub(crate) async fn remove_pod(&mut self, pod: &Pod) -> Result<()> {
        either!(self, client => client.remove_pod(&pod.id))
    }

    /// A container of `pod`; `data` is a directory to be seen as `/data`.
    pub(crate) async fn create(
        &mut self,
        pod: &Pod,
        name: &str,
        command: &[&str],
        data: Option<&Path>,
    ) -> Result<String> {
        either!(self, client => client.create(&pod.id, &pod.name, name, command, data))
    }

    pub(crate) async fn start(&mut self, container: &str) -> Result<()> {
        either!(self, client => client.start(container))
    }

    pub(crate) async fn stop(&mut self, container: &str) -> Result<()> {
        either!(self, client => client.stop(container, GRACE))
    }

    /// As a stop without patience. A process that has only just been started has no
    /// handler yet, and process 1 of a PID namespace does not get a signal without.
    pub(crate) async fn kill(&mut self, container: &str) -> Result<()> {
        either!(self, client => client.stop(container, 0))
    }

    pub(crate) async fn remove(&mut self, container: &str) -> Result<()> {
        either!(self, client => client.remove(container))
    }

    /// Runs `/bin/true` in the container.
    pub(crate) async fn exec(&mut self, container: &str) -> Result<()> {
        let code = either!(self, client => client.exec(container))?;
        ensure!(code == 0, "/bin/true exited with {code}");
        Ok(())
    }

    pub(crate) async fn life(&mut self, container: &str) -> Result<Life> {
        either!(self, client => client.life(container))
    }

    /// The number of containers.
    pub(crate) async fn list(&mut self) -> Result<usize> {
        either!(self, client => client.list())
    }

    pub(crate) async fn pull(&mut self, image: &str) -> Result<()> {
        either!(self, client => client.pull(image))
    }

    pub(crate) async fn remove_image(&mut self, image: &str) -> Result<()> {
        either!(self, client => client.remove_image(image))
    }
}
