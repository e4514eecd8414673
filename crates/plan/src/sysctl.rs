//! Kernel parameters that belong to a namespace.

use crate::error::PlanError;

/// The namespace that a parameter belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SysctlSpace {
    /// `net.*`.
    Net,
    /// System V and POSIX message queues.
    Ipc,
    /// `kernel.domainname`.
    Uts,
}

/// Parameters of IPC namespaces (ipc/ipc_sysctl.c).
const IPC: [&str; 10] = [
    "kernel.msg_next_id",
    "kernel.msgmax",
    "kernel.msgmnb",
    "kernel.msgmni",
    "kernel.sem",
    "kernel.sem_next_id",
    "kernel.shm_next_id",
    "kernel.shm_rmid_forced",
    "kernel.shmall",
    "kernel.shmmax",
];

/// Longest value: the kernel's own buffers for these are a page.
const LONGEST_VALUE: usize = 4096;

/// Reads the name of a parameter, spelled with dots or with slashes, and says which
/// namespace it belongs to. The name that is returned is spelled with dots.
///
/// # Errors
/// [`PlanError::Invalid`] for what is no such name, for parameters that belong to no
/// namespace and would change the node, and for values that would be several lines.
pub fn check(name: &str, value: &str) -> Result<(String, SysctlSpace), PlanError> {
    let invalid = |reason: &str| PlanError::invalid("linux.sysctl", name, reason);
    // Where the first separator is a slash, dots belong to the parts, as in
    // net/ipv4/conf/eth0.1/forwarding; the shim could not tell them apart.
    let dotted = match (name.find('/'), name.find('.')) {
        (Some(slash), Some(dot)) if slash < dot => {
            return Err(invalid("dots inside a part of the name are not supported"));
        }
        (Some(_), Some(_)) => return Err(invalid("mixes dots and slashes")),
        _ => name.replace('/', "."),
    };
    let plain = |part: &str| {
        !part.is_empty()
            && part
                .bytes()
                .all(|b| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'-'))
    };
    if !dotted.split('.').all(plain) {
        return Err(invalid(
            "expected letters, digits, _ and - between single dots",
        ));
    }
    if value.len() > LONGEST_VALUE || value.bytes().any(|b| matches!(b, b'\n' | b'\r' | 0)) {
        let reason =
            format!("the value of {dotted} must be one line of at most {LONGEST_VALUE} bytes");
        return Err(PlanError::invalid("linux.sysctl", value, reason));
    }
    let space = if dotted.starts_with("net.") {
        SysctlSpace::Net
    } else if IPC.contains(&dotted.as_str())
        || dotted == "kernel.shmmni"
        || dotted.starts_with("fs.mqueue.")
    {
        SysctlSpace::Ipc
    } else if dotted == "kernel.domainname" {
        SysctlSpace::Uts
    } else {
        return Err(invalid(
            "does not belong to a namespace and would change the node",
        ));
    };
    Ok((dotted, space))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parameters_of_a_namespace_are_told_from_the_nodes() {
        assert_eq!(
            check("net.ipv4.ip_forward", "1").unwrap().1,
            SysctlSpace::Net
        );
        assert_eq!(check("kernel/shmmax", "1").unwrap().0, "kernel.shmmax");
        assert_eq!(check("fs.mqueue.msg_max", "1").unwrap().1, SysctlSpace::Ipc);
        assert_eq!(check("kernel.domainname", "x").unwrap().1, SysctlSpace::Uts);
        for name in [
            "kernel.core_pattern",
            "vm.swappiness",
            "kernel.hostname",
            "fs.file-max",
        ] {
            assert!(check(name, "1").is_err(), "{name}");
        }
    }

    #[test]
    fn nothing_can_be_smuggled_into_name_or_value() {
        for (name, value) in [
            ("net/../kernel/core_pattern", "x"),
            ("net..ipv4", "x"),
            (".net.ipv4.a", "x"),
            ("net.ipv4.conf.eth0/1.x", "x"),
            ("kernel.shm_rmid_forced+kernel.core_pattern", "1"),
            ("net.ipv4.ip_forward", "1\nkernel.core_pattern=x"),
            ("net.ipv4.ip_forward", "1\0"),
            ("", ""),
        ] {
            assert!(check(name, value).is_err(), "{name} = {value}");
        }
        // One value in one write: a separator in it changes nothing else.
        assert!(check("kernel.shm_rmid_forced", "1+kernel.core_pattern=|/x").is_ok());
    }
}
