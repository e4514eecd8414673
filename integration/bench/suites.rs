//! What is measured.

pub(crate) mod log;
pub(crate) mod pull;
pub(crate) mod rate;
pub(crate) mod scale;
pub(crate) mod verbs;

use std::time::Instant;

use anyhow::Result;
use berth_integration::node::Node;
use clap::ValueEnum;

use crate::{peer::Peer, profile::Profile, results::Results};

/// The names for `--only`.
#[derive(Clone, Copy, Debug, Eq, PartialEq, ValueEnum)]
pub(crate) enum Suite {
    /// Each call on its own, one at a time
    Verbs,
    /// Whole lives of pods, several at a time
    Rate,
    /// Memory with 100 pods; List and Status with 1 and 1,000 containers
    Scale,
    /// An image of five layers
    Pull,
    /// What containers write
    Log,
}

/// What every suite works with.
#[derive(Debug)]
pub(crate) struct Bench<'a> {
    pub(crate) node: &'a Node,
    /// The registry's `HOST:PORT`.
    pub(crate) host: String,
    pub(crate) peers: &'a mut [Peer],
    pub(crate) rounds: usize,
    pub(crate) pods: usize,
    pub(crate) containers: usize,
    pub(crate) results: &'a mut Results,
    pub(crate) profile: Option<Profile>,
}

impl Bench<'_> {
    /// Which runtime comes at which place: another one first in each round.
    pub(crate) fn order(&self, round: usize) -> Vec<usize> {
        let count = self.peers.len();
        (0..count).map(|place| (place + round) % count).collect()
    }

    /// Starts the profile if this is the runtime it is wanted of.
    pub(crate) fn begin_profile(&mut self, peer: usize) -> Result<()> {
        match &mut self.profile {
            Some(profile) if self.peers[peer].name == "berth" => profile.begin(),
            _ => Ok(()),
        }
    }

    /// Ends it.
    pub(crate) fn end_profile(&mut self) -> Result<()> {
        self.profile.as_mut().map_or(Ok(()), Profile::end)
    }

    pub(crate) fn add(
        &mut self,
        suite: &'static str,
        name: &str,
        unit: &'static str,
        peer: usize,
        values: Vec<f64>,
    ) {
        let runtime = self.peers[peer].name;
        self.results.add(suite, name, unit, runtime, values);
    }
}

/// Milliseconds since `start`.
pub(crate) fn milliseconds(start: Instant) -> f64 {
    start.elapsed().as_secs_f64() * 1e3
}
