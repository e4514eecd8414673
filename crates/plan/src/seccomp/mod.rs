//! OCI seccomp profiles to classic BPF.
//!
//! A profile becomes one table per calling convention (`table`), a table a binary
//! search over ranges of numbers (this file), and that a program (`program`). The
//! architecture is checked first, and x32, which shares x86_64's, is told apart by
//! its bit: what the profile does not list does not exist (ENOSYS).

mod abi;
mod cache;
mod condition;
mod default;
mod multiplex;
mod program;
mod table;
#[cfg(test)]
mod tests;
mod verdict;

use std::{collections::HashMap, path::PathBuf};

use oci_spec::runtime::{LinuxSeccomp, LinuxSeccompFilterFlag};

use self::{
    abi::Abi,
    program::{Instruction, MAX_INSTRUCTIONS, Place, Program},
    table::{Decision, NO_SUCH_CALL, Table},
    verdict::Verdict,
};
pub use self::{abi::Machine, cache::FilterCache, default::default_profile};

/// Why a profile cannot be compiled.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// `SCMP_ACT_NOTIFY` or a listener.
    #[error("SCMP_ACT_NOTIFY and listeners are not supported yet; use another action")]
    Notify,
    /// `errnoRet` or the data of a trace beyond what the kernel passes on.
    #[error("errnoRet {value} is larger than {largest}, the largest that the kernel returns")]
    Errno {
        /// As given.
        value: u32,
        /// The limit.
        largest: u32,
    },
    /// System calls have six arguments.
    #[error("argument index {index} is not between 0 and 5")]
    Argument {
        /// As given.
        index: usize,
    },
    /// The kernel takes no longer program.
    #[error("the profile needs {instructions} instructions; the kernel takes {MAX_INSTRUCTIONS}")]
    TooLong {
        /// Needed.
        instructions: usize,
    },
    /// A listener's path without the action for it.
    #[error("listenerPath {path} is not supported yet")]
    Listener {
        /// As given.
        path: PathBuf,
    },
}

/// A compiled profile.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Filter {
    /// Array of `struct sock_filter` in host order.
    pub program: Vec<u8>,
    /// SECCOMP_FILTER_FLAG_*.
    pub flags: u32,
}

/// Compiles `profile` for `machine`.
///
/// The machine's own calling convention is always covered, as libseccomp has it;
/// others only where the profile lists them.
///
/// # Errors
/// See [`Error`].
pub fn compile(profile: &LinuxSeccomp, machine: Machine) -> Result<Filter, Error> {
    if let Some(path) = profile.listener_path() {
        return Err(Error::Listener { path: path.clone() });
    }
    let instructions = instructions(profile, machine)?;
    Ok(Filter {
        program: program::encode(&instructions),
        flags: flags(profile)?,
    })
}

fn instructions(profile: &LinuxSeccomp, machine: Machine) -> Result<Vec<Instruction>, Error> {
    let mut writer = Writer::default();
    let default = Verdict::new(profile.default_action(), profile.default_errno_ret())?;
    let listed: Vec<Abi> = profile
        .architectures()
        .iter()
        .flatten()
        .filter_map(|arch| Abi::of(*arch, machine))
        .chain([machine.native_abi()])
        .collect();
    let table = |abi: Abi| {
        if listed.contains(&abi) {
            Table::of(
                profile.syscalls().as_deref().unwrap_or_default(),
                default,
                abi,
            )
        } else {
            Ok(Table::foreign(abi))
        }
    };
    // Foreign architectures end here.
    let mut entry = writer.decide(&Decision::always(NO_SUCH_CALL), true);
    // The machine's own comes last, which is first in the program.
    let families: [&[Abi]; 2] = match machine {
        Machine::X86_64 => [&[Abi::X86], &[Abi::X86_64, Abi::X32]],
        Machine::Aarch64 => [&[Abi::Arm], &[Abi::Aarch64]],
    };
    for family in families {
        let mut ranges = Vec::new();
        for abi in family {
            let table = table(*abi)?;
            ranges.extend(
                table
                    .ranges
                    .into_iter()
                    .map(|(first, decision)| (first, decision, *abi)),
            );
        }
        let search = writer.search(&ranges);
        let search = writer.program.load_number(search);
        entry = writer
            .program
            .if_equal(family[0].audit_arch(), search, entry);
    }
    writer.program.load_arch(entry);
    let instructions = writer.program.finish();
    if instructions.len() > MAX_INSTRUCTIONS {
        return Err(Error::TooLong {
            instructions: instructions.len(),
        });
    }
    Ok(instructions)
}

#[derive(Debug, Default)]
struct Writer {
    program: Program,
    /// Where a decision was written already, by the width of its arguments.
    written: HashMap<(Decision, bool), Place>,
}

impl Writer {
    /// A binary search by number, in which the greater half comes last.
    fn search(&mut self, ranges: &[(u32, Decision, Abi)]) -> Place {
        if let [(_, decision, abi)] = ranges {
            return self.decide(decision, abi.wide());
        }
        let (lower, upper) = ranges.split_at(ranges.len() / 2);
        let greater = self.search(upper);
        let smaller = self.search(lower);
        self.program.if_at_least(upper[0].0, greater, smaller)
    }

    fn decide(&mut self, decision: &Decision, wide: bool) -> Place {
        if let Some(place) = self.written.get(&(decision.clone(), wide)) {
            return *place;
        }
        let mut place = if decision.rules.is_empty() {
            self.program.give(decision.otherwise)
        } else {
            self.decide(&Decision::always(decision.otherwise), wide)
        };
        for rule in decision.rules.iter().rev() {
            let mut then = self.decide(&Decision::always(rule.verdict), wide);
            for condition in rule.conditions.iter().rev() {
                then = self.program.if_holds(*condition, wide, then, place);
            }
            place = then;
        }
        self.written.insert((decision.clone(), wide), place);
        place
    }
}

/// SECCOMP_FILTER_FLAG_* (include/uapi/linux/seccomp.h).
fn flags(profile: &LinuxSeccomp) -> Result<u32, Error> {
    let mut flags = 0;
    for flag in profile.flags().iter().flatten() {
        flags |= match flag {
            // There is one thread when the filter is installed.
            LinuxSeccompFilterFlag::SeccompFilterFlagTsync => 0,
            LinuxSeccompFilterFlag::SeccompFilterFlagLog => 2,
            LinuxSeccompFilterFlag::SeccompFilterFlagSpecAllow => 4,
            // Has a meaning with a listener only.
            LinuxSeccompFilterFlag::SeccompFilterFlagWaitKillableRecv => return Err(Error::Notify),
        };
    }
    Ok(flags)
}
