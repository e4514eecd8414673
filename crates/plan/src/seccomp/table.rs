//! A profile as a table of one calling convention: for each number what to do.

use std::collections::{BTreeMap, BTreeSet};

use oci_spec::runtime::LinuxSyscall;

use super::{
    Error,
    abi::Abi,
    condition::{Condition, Test},
    multiplex,
    verdict::Verdict,
};

/// A verdict for calls whose arguments meet all conditions.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Rule {
    pub(super) conditions: Vec<Condition>,
    pub(super) verdict: Verdict,
}

/// What to do about one number: the first rule that applies, else `otherwise`.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Decision {
    pub(super) rules: Vec<Rule>,
    pub(super) otherwise: Verdict,
}

impl Decision {
    pub(super) fn always(verdict: Verdict) -> Self {
        Self {
            rules: Vec::new(),
            otherwise: verdict,
        }
    }

    /// Among rules with conditions, and among those without, the strictest wins, so
    /// that no rule is hidden by a more permissive one; a rule with conditions beats
    /// one without, which makes "allow, but not for this argument" sayable.
    fn of(mut rules: Vec<Rule>, default: Verdict) -> Self {
        let otherwise = rules
            .iter()
            .filter(|rule| rule.conditions.is_empty())
            .map(|rule| rule.verdict)
            .min()
            .unwrap_or(default);
        rules.retain(|rule| !rule.conditions.is_empty());
        rules.sort_by_key(|rule| rule.verdict);
        while rules.last().is_some_and(|rule| rule.verdict == otherwise) {
            rules.pop();
        }
        Self { rules, otherwise }
    }
}

/// Every number of a calling convention, as ranges with one decision each.
#[derive(Debug)]
pub(super) struct Table {
    /// First number of the range and its decision; a range ends where the next
    /// begins. No two neighbours are equal.
    pub(super) ranges: Vec<(u32, Decision)>,
}

impl Table {
    /// The table of a convention that the profile does not list: as if the kernel
    /// did not have it.
    pub(super) fn foreign(abi: Abi) -> Self {
        Self {
            ranges: vec![(abi.span().0, Decision::always(NO_SUCH_CALL))],
        }
    }

    pub(super) fn of(syscalls: &[LinuxSyscall], default: Verdict, abi: Abi) -> Result<Self, Error> {
        let mut rules: BTreeMap<u32, Vec<Rule>> = BTreeMap::new();
        for syscall in syscalls {
            let alternatives = alternatives(syscall)?;
            for name in syscall.names() {
                // A name that this machine lacks says nothing (runtime specification).
                for number in abi.numbers(name) {
                    rules
                        .entry(number)
                        .or_default()
                        .extend(alternatives.iter().cloned());
                }
                if abi == Abi::X86
                    && let Some((number, rule)) = multiplex::rules(name, &alternatives, default)
                {
                    rules.entry(number).or_default().extend(rule);
                }
            }
        }
        let future = newest(&rules, abi)
            .filter(|_| !default.permits())
            .and_then(|newest| abi.future(newest));
        let decisions = rules
            .into_iter()
            .map(|(number, rules)| (number, Decision::of(rules, default)))
            .collect();
        Ok(Self {
            ranges: ranges(&decisions, default, future, abi.span()),
        })
    }
}

/// What the kernel says of calls that it does not have, on which libraries fall back
/// to older ones; EPERM for a call that is newer than the profile would end them.
pub(super) const NO_SUCH_CALL: Verdict = Verdict::Errno(38);

/// The rules that one entry of the profile stands for.
///
/// Conditions of one entry must all hold, except where several look at the same
/// argument: established runtimes take these as alternatives, and profiles rely on it.
fn alternatives(syscall: &LinuxSyscall) -> Result<Vec<Rule>, Error> {
    let verdict = Verdict::new(syscall.action(), syscall.errno_ret())?;
    let conditions = syscall
        .args()
        .iter()
        .flatten()
        .map(Condition::new)
        .collect::<Result<Vec<_>, _>>()?;
    let arguments: BTreeSet<u8> = conditions.iter().map(|one| one.argument).collect();
    if arguments.len() == conditions.len() {
        return Ok(vec![Rule {
            conditions,
            verdict,
        }]);
    }
    let single = |condition| Rule {
        conditions: vec![condition],
        verdict,
    };
    Ok(conditions.into_iter().map(single).collect())
}

/// The newest call that the author of the profile knew.
fn newest(rules: &BTreeMap<u32, Vec<Rule>>, abi: Abi) -> Option<u32> {
    let numbers = rules.keys().copied();
    numbers.filter(|number| abi.grows_at(*number)).max()
}

fn ranges(
    decisions: &BTreeMap<u32, Decision>,
    default: Verdict,
    future: Option<(u32, u32)>,
    (first, last): (u32, u32),
) -> Vec<(u32, Decision)> {
    let mut borders = BTreeSet::from([first]);
    let inner = decisions.keys().map(|number| (*number, *number));
    for (start, end) in inner.chain(future) {
        borders.insert(start);
        borders.extend(end.checked_add(1));
    }
    let mut ranges: Vec<(u32, Decision)> = Vec::new();
    for border in borders.range(first..=last) {
        let unnamed = match future {
            Some((start, end)) if (start..=end).contains(border) => NO_SUCH_CALL,
            _ => default,
        };
        let decision = decisions
            .get(border)
            .cloned()
            .unwrap_or_else(|| Decision::always(unnamed));
        if ranges.last().is_none_or(|(_, before)| *before != decision) {
            ranges.push((*border, decision));
        }
    }
    ranges
}

impl Rule {
    /// Applies to calls of a multiplexer whose selector is `call`.
    pub(super) fn selected(call: u64, mask: u64, verdict: Verdict) -> Self {
        Self {
            conditions: vec![Condition {
                argument: 0,
                test: Test::Masked { mask, value: call },
            }],
            verdict,
        }
    }
}
