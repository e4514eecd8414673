//! The new agent's side.

use std::{
    fs::File,
    io,
    os::fd::{AsFd as _, OwnedFd},
    time::Duration,
};

use anyhow::{Context as _, Result, bail};

use super::{Inventory, MARK, Word, channel::Channel};
use crate::config::Config;

/// How long the old agent may take to end its operations and to hand over; longer than
/// it allows itself.
const HAND_OVER: Duration = Duration::from_secs(60);

/// The agent whose place this one takes.
#[derive(Debug)]
pub(crate) struct Predecessor {
    channel: Channel,
    /// Those before it.
    before: Vec<OwnedFd>,
}

impl Predecessor {
    /// The agent that has started this program, if that is how it was started.
    ///
    /// # Errors
    /// If the channel is none.
    pub(crate) fn find() -> Result<Option<Self>> {
        if std::env::var_os(MARK).is_none() {
            return Ok(None);
        }
        let take = || {
            let socket = io::stdin().as_fd().try_clone_to_owned()?;
            // What is started from here must not have it.
            rustix::stdio::dup2_stdin(File::open("/dev/null")?)?;
            Channel::new(socket)
        };
        let channel = take().context("taking the channel to the agent before")?;
        Ok(Some(Self {
            channel,
            before: Vec::new(),
        }))
    }

    /// Says that this agent could start, and waits for what there is to take over.
    ///
    /// # Errors
    /// If the old agent changes its mind.
    pub(crate) async fn take_over(&mut self, config: &Config) -> Result<Inventory> {
        let prepared = Word::Prepared {
            root: config.root.clone(),
            run_dir: config.run_dir.clone(),
            version: crate::cri::VERSION.to_owned(),
        };
        let exchange = async {
            self.channel.send(&prepared, &[]).await?;
            self.channel.receive().await
        };
        let received = tokio::time::timeout(HAND_OVER, exchange)
            .await
            .context("waiting for the agent before")?;
        let mut inventory = match received.context("asking the agent before")? {
            Some((Word::Yours, fds)) => Inventory::receive(fds)?,
            Some(other) => bail!("the agent before says {:?}", other.0),
            None => bail!("the agent before goes on serving"),
        };
        self.before = std::mem::take(&mut inventory.before);
        Ok(inventory)
    }

    /// Says that there is no way back.
    ///
    /// # Errors
    /// If the old agent has ended or went back.
    pub(crate) async fn serving(&self) -> io::Result<()> {
        self.channel.send(&Word::Serving, &[]).await
    }

    /// The channels to all agents before this one.
    ///
    /// # Errors
    /// If there is no descriptor left.
    pub(crate) fn all(self) -> io::Result<Vec<OwnedFd>> {
        let mut all = self.before;
        all.push(self.channel.as_fd().try_clone_to_owned()?);
        Ok(all)
    }
}

/// Ends agents that only serve streams any more.
pub(crate) async fn stop_all(before: Vec<OwnedFd>) {
    for socket in before {
        let told = async { Channel::new(socket)?.send(&Word::Stop, &[]).await };
        if let Err(error) = told.await {
            // Most have ended long ago.
            tracing::debug!(%error, "an agent before this one is not told to stop");
        }
    }
}
