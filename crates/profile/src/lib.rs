//! Processor profiles of the process itself, in pprof's format.
//!
//! [`Recording::start`] has the kernel interrupt whatever thread runs
//! ([`berth_sys::sampler`]), [`Recording::collect`] turns the copied stacks into chains
//! of addresses, and [`Recording::finish`] writes them as `go tool pprof` and its
//! relatives read them. Functions have names where the program and its libraries have
//! symbols; of those without, the addresses, the mapped files and their build ids are
//! told, by which pprof finds names in a copy that was not stripped.

mod elf;
mod maps;
mod pprof;
#[cfg(test)]
mod tests;
mod unwind;

use std::{
    collections::HashMap,
    io,
    time::{Duration, Instant, SystemTime},
};

use berth_sys::sampler::Sampler;

use maps::Maps;

/// Processor time between two samples: 100 a second, as pprof's users are used to.
const PERIOD: Duration = Duration::from_millis(10);

/// How often [`Recording::collect`] wants to be called: there is room for some 30
/// samples, on a machine of many processors a third of a second's.
pub const COLLECT: Duration = Duration::from_millis(10);

/// Distinct stacks that are kept; a minute has some 6,000 samples per busy processor.
const MAX_STACKS: usize = 50_000;

/// A profile in the making. There is one at a time in a process.
#[derive(Debug)]
pub struct Recording {
    sampler: Sampler,
    maps: Maps,
    stacks: HashMap<Box<[u64]>, u64>,
    lost: u64,
    began: Instant,
    began_at: SystemTime,
}

impl Recording {
    /// Begins. Reads the unwind tables of what is mapped, so it may take some
    /// milliseconds and belongs on a thread that may block.
    ///
    /// # Errors
    /// EBUSY if a profile is being made; what the kernel says of the maps or the timer.
    pub fn start() -> io::Result<Self> {
        let maps = Maps::of_this_process()?;
        Ok(Self {
            sampler: Sampler::start(PERIOD)?,
            maps,
            stacks: HashMap::new(),
            lost: 0,
            began: Instant::now(),
            began_at: SystemTime::now(),
        })
    }

    /// Takes the samples that have come since the last time.
    pub fn collect(&mut self) {
        let Self {
            sampler,
            maps,
            stacks,
            lost,
            ..
        } = self;
        sampler.drain(|sample| {
            let chain = unwind::chain(maps, sample).into_boxed_slice();
            if let Some(count) = stacks.get_mut(&chain) {
                *count += 1;
            } else if stacks.len() < MAX_STACKS {
                stacks.insert(chain, 1);
            } else {
                *lost += 1;
            }
        });
    }

    /// Ends, and returns the profile: pprof's protobuf, compressed by gzip.
    /// `comment` is shown by `pprof -comments`.
    ///
    /// # Errors
    /// None that memory alone could have; the compressor's.
    pub fn finish(mut self, comment: &str) -> io::Result<Vec<u8>> {
        self.collect();
        let lost = self.lost + self.sampler.lost();
        let run = pprof::Run {
            began_at: self.began_at,
            took: self.began.elapsed(),
            period: PERIOD,
            comments: match lost {
                0 => vec![comment.to_owned()],
                lost => vec![comment.to_owned(), format!("{lost} samples were lost")],
            },
        };
        pprof::encode(&self.maps, &self.stacks, run)
    }
}
