//! Sets of numbers as the kernel takes them, and the memory policy.

use berth_proto::shim::MemoryPolicy;
use oci_spec::runtime::{LinuxMemoryPolicy, MemoryPolicyFlagType, MemoryPolicyModeType};

use crate::error::PlanError;

/// MAX_NUMNODES is at most this (CONFIG_NODES_SHIFT).
const MOST_NODES: u32 = 1024;

/// A list such as `0-3,7` as a set: bit N of word M stands for 64 * M + N.
pub(crate) fn number_set(
    field: &'static str,
    list: &str,
    bound: u32,
) -> Result<Vec<u64>, PlanError> {
    let invalid = || {
        let reason = format!("expected numbers below {bound} and ranges of them, such as 0-3,7");
        PlanError::invalid(field, list.escape_debug(), reason)
    };
    let mut words: Vec<u64> = Vec::new();
    if list.is_empty() {
        return Ok(words);
    }
    for part in list.split(',') {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        let number = |text: &str| -> Result<u32, PlanError> {
            let digits = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
            let number = text.parse().ok().filter(|&number| digits && number < bound);
            number.ok_or_else(invalid)
        };
        let (first, last) = (number(first.trim())?, number(last.trim())?);
        if first > last {
            return Err(invalid());
        }
        for number in first..=last {
            let word = number as usize / 64;
            if words.len() <= word {
                words.resize(word + 1, 0);
            }
            words[word] |= 1 << (number % 64);
        }
    }
    Ok(words)
}

/// As set_mempolicy(2) takes it; what does not fit together is refused as the kernel
/// would refuse it, with the reason.
///
/// # Errors
/// [`PlanError`] naming the field.
pub fn memory_policy(given: &LinuxMemoryPolicy) -> Result<MemoryPolicy, PlanError> {
    use MemoryPolicyFlagType as Flag;
    use MemoryPolicyModeType as Mode;
    const FIELD: &str = "linux.memoryPolicy";
    let mode = match given.mode() {
        Mode::MpolDefault => 0,
        Mode::MpolPreferred => 1,
        Mode::MpolBind => 2,
        Mode::MpolInterleave => 3,
        Mode::MpolLocal => 4,
        Mode::MpolPreferredMany => 5,
        Mode::MpolWeightedInterleave => 6,
    };
    let mut flags = 0;
    for flag in given.flags().iter().flatten() {
        flags |= match flag {
            Flag::MpolFStaticNodes => 1 << 15,
            Flag::MpolFRelativeNodes => 1 << 14,
            Flag::MpolFNumaBalancing => 1 << 13,
        };
    }
    let nodes = number_set(
        "linux.memoryPolicy.nodes",
        given.nodes().as_deref().unwrap_or_default(),
        MOST_NODES,
    )?;
    let invalid = |reason: &str| Err(PlanError::invalid(FIELD, given.mode(), reason));
    match given.mode() {
        Mode::MpolDefault | Mode::MpolLocal if !nodes.is_empty() || flags != 0 => {
            return invalid("has neither nodes nor flags");
        }
        Mode::MpolBind
        | Mode::MpolInterleave
        | Mode::MpolWeightedInterleave
        | Mode::MpolPreferredMany
            if nodes.is_empty() =>
        {
            return invalid("needs nodes");
        }
        _ => {}
    }
    const BOTH: u32 = 1 << 15 | 1 << 14;
    if flags & BOTH == BOTH {
        return invalid("static and relative nodes exclude each other");
    }
    Ok(MemoryPolicy {
        mode: mode | flags,
        nodes,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_list_is_a_set_of_bits() {
        let set = |list| number_set("x", list, 256).unwrap();
        assert_eq!(set("0-3,7"), [0b1000_1111]);
        assert_eq!(set("64"), [0, 1]);
        assert_eq!(set("0,128-129"), [1, 0, 3]);
        assert!(set("").is_empty());
        for bad in [
            "3-1",
            "256",
            "a",
            "1,,2",
            "-1",
            "0-",
            "1-2-3",
            "0-4294967296",
        ] {
            assert!(number_set("x", bad, 256).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_policy_that_the_kernel_would_refuse_is_refused_with_the_reason() {
        let policy =
            |json: serde_json::Value| memory_policy(&serde_json::from_value(json).unwrap());
        let given = serde_json::json!({
            "mode": "MPOL_INTERLEAVE", "nodes": "0-1", "flags": ["MPOL_F_STATIC_NODES"],
        });
        assert_eq!(
            policy(given).unwrap(),
            MemoryPolicy {
                mode: 3 | 1 << 15,
                nodes: vec![3]
            }
        );
        for bad in [
            serde_json::json!({"mode": "MPOL_BIND", "nodes": ""}),
            serde_json::json!({"mode": "MPOL_LOCAL", "nodes": "0"}),
            serde_json::json!({
                "mode": "MPOL_BIND", "nodes": "0",
                "flags": ["MPOL_F_STATIC_NODES", "MPOL_F_RELATIVE_NODES"],
            }),
        ] {
            assert!(policy(bad).is_err());
        }
    }
}
