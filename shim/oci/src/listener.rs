//! Who answers for the system calls that a seccomp profile hands over (runtime
//! specification, "Container Process State").

use std::{
    os::{
        fd::{AsFd as _, OwnedFd},
        unix::net::UnixStream,
    },
    path::PathBuf,
};

use anyhow::{Context as _, Result};
use berth_engine::Listener;
use oci_spec::runtime::Spec;
use serde_json::{Value, json};

/// Somebody who listens, and what he is told.
pub(crate) struct Answerer {
    socket: OwnedFd,
    head: Vec<u8>,
    tail: Vec<u8>,
}

impl Answerer {
    /// Connects to whom the profile names. `wanted` says whether the filter needs him,
    /// `state` is the container's.
    pub(crate) fn connect(spec: &Spec, wanted: bool, state: &Value) -> Result<Option<Self>> {
        let linux = spec.linux().as_ref();
        let profile = linux.and_then(|linux| linux.seccomp().as_ref());
        let Some(profile) = profile.filter(|_| wanted) else {
            return Ok(None);
        };
        let path: PathBuf = profile.listener_path().clone().unwrap_or_default();
        let socket = UnixStream::connect(&path)
            .with_context(|| format!("linux.seccomp.listenerPath {}", path.display()))?;
        let metadata = profile.listener_metadata().clone().unwrap_or_default();
        Ok(Some(Self {
            socket: socket.into(),
            head: format!(
                r#"{{"ociVersion":{},"fds":["seccompFd"],"pid":"#,
                json!(spec.version())
            )
            .into_bytes(),
            tail: format!(r#","metadata":{},"state":{state}}}"#, json!(metadata)).into_bytes(),
        }))
    }

    pub(crate) fn listener(&self) -> Listener<'_> {
        Listener {
            socket: self.socket.as_fd(),
            head: self.head.clone(),
            tail: self.tail.clone(),
        }
    }
}
