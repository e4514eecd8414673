//! The last steps of a process on its way to execve: limits, ids, capabilities,
//! seccomp, program.

use std::{
    ffi::{CString, OsStr},
    io,
    os::{
        fd::{IntoRawFd as _, OwnedFd},
        unix::ffi::OsStrExt as _,
    },
    path::Path,
};

use berth_proto::shim::{Failure, ProcessPlan, failure::Kind};
use berth_sys::{
    credentials::{self, Capabilities},
    process::{self, Scheduling},
    resolve::{self, Scope},
};
use nix::libc;

use crate::{
    child,
    wire::{Step as _, invalid, system},
};

/// Searched where the environment has no PATH (execvp(3) in glibc has the same).
const DEFAULT_PATH: &[u8] = b"/bin:/usr/bin";

/// Strings in the form that execve wants, made before anything is given up.
pub(crate) struct Program {
    args: Vec<CString>,
    env: Vec<CString>,
    candidates: Vec<CString>,
}

impl Program {
    pub(crate) fn prepare(plan: &ProcessPlan) -> Result<Self, Failure> {
        let args = strings(&plan.args, "argument")?;
        let env = strings(&plan.env, "environment")?;
        let name = plan
            .args
            .first()
            .filter(|name| !name.is_empty())
            .ok_or_else(|| invalid("no program to execute"))?;
        let candidates = if name.contains(&b'/') {
            vec![name.clone()]
        } else {
            plan.env
                .iter()
                .find_map(|pair| pair.strip_prefix(b"PATH="))
                .unwrap_or(DEFAULT_PATH)
                .split(|&byte| byte == b':')
                .map(|dir| {
                    // An empty element is the working directory (environ(7)).
                    let dir = if dir.is_empty() { b".".as_slice() } else { dir };
                    [dir, b"/", name].concat()
                })
                .collect()
        };
        let candidates = strings(&candidates, "program")?;
        Ok(Self {
            args,
            env,
            candidates,
        })
    }

    /// Whether there is a program that could be executed, as far as can be seen
    /// before its user is set.
    pub(crate) fn find(&self) -> Result<(), Failure> {
        let mut errno = libc::ENOENT;
        for candidate in &self.candidates {
            match nix::unistd::access(candidate.as_c_str(), nix::unistd::AccessFlags::X_OK) {
                Ok(()) => return Ok(()),
                Err(nix::errno::Errno::EACCES) => errno = libc::EACCES,
                Err(_) => {}
            }
        }
        Err(Failure {
            kind: Kind::Execute.into(),
            step: "exec".to_owned(),
            errno,
            detail: self
                .args
                .first()
                .map(|name| name.to_string_lossy().into_owned())
                .unwrap_or_default(),
        })
    }

    /// Executes the first candidate that can be; returns only if none could.
    pub(crate) fn execute(&self) -> Failure {
        let mut worst = libc::ENOENT;
        let mut detail = self
            .args
            .first()
            .map(|name| name.to_string_lossy().into_owned())
            .unwrap_or_default();
        for candidate in &self.candidates {
            let error = process::execve(candidate, &self.args, &self.env);
            match error.raw_os_error().unwrap_or(libc::EIO) {
                // Not here; perhaps elsewhere on the PATH.
                libc::ENOENT | libc::ENOTDIR => {}
                // Remembered, as execvp(3) does, while the search goes on.
                libc::EACCES => {
                    worst = libc::EACCES;
                    detail = candidate.to_string_lossy().into_owned();
                }
                errno => {
                    worst = errno;
                    detail = candidate.to_string_lossy().into_owned();
                    break;
                }
            }
        }
        Failure {
            kind: Kind::Execute.into(),
            step: "exec".to_owned(),
            errno: worst,
            detail,
        }
    }
}

fn strings(bytes: &[Vec<u8>], what: &str) -> Result<Vec<CString>, Failure> {
    bytes
        .iter()
        .map(|bytes| {
            CString::new(bytes.as_slice())
                .map_err(|error| invalid(format!("{what} with a zero byte: {error}")))
        })
        .collect()
}

/// Opens the working directory below `root`, making it if it is missing: images
/// may name one that no layer has. Magic links are refused: the directory
/// `/proc/self/fd/N` would be one of the host's (CVE-2024-21626).
pub(crate) fn open_cwd(root: &OwnedFd, cwd: &[u8]) -> Result<OwnedFd, Failure> {
    let path = Path::new(OsStr::from_bytes(cwd));
    if !path.is_absolute() {
        return Err(invalid(format!(
            "working directory {} is not absolute",
            path.display()
        )));
    }
    resolve::make_directories(root, path, 0o755, Scope::InRoot)
        .step("rootfs", || format!("working directory {}", path.display()))
}

/// Applies limits, which need the capabilities that are dropped later. A hard limit
/// that the kernel does not let this node raise (no CAP_SYS_RESOURCE) stays as it is:
/// a container is not lost for it. Returns what was not granted.
pub(crate) fn apply_limits(plan: &ProcessPlan) -> Result<Vec<String>, Failure> {
    let mut notes = Vec::new();
    for limit in &plan.rlimits {
        let what = || format!("limit {}", limit.resource);
        match credentials::set_rlimit(limit.resource, limit.soft, limit.hard) {
            Err(error) if error.raw_os_error() == Some(libc::EPERM) => {
                let (_, hard) = credentials::rlimit(limit.resource).step("exec", what)?;
                credentials::set_rlimit(limit.resource, limit.soft.min(hard), hard)
                    .step("exec", what)?;
                notes.push(format!(
                    "the hard limit {} of resource {} is above {hard}, and the kernel does not let it be raised",
                    limit.hard, limit.resource
                ));
            }
            other => other.step("exec", what)?,
        }
    }
    apply_scheduling(plan)?;
    if let Some(policy) = &plan.memory_policy {
        process::set_memory_policy(policy.mode, &policy.nodes)
            .step("exec", || "the memory policy".to_owned())?;
    }
    process::umask(plan.umask.unwrap_or(0o022));
    Ok(notes)
}

fn apply_scheduling(plan: &ProcessPlan) -> Result<(), Failure> {
    if let Some(domain) = plan.personality {
        process::set_personality(domain).step("exec", || format!("personality {domain}"))?;
    }
    if let Some(priority) = plan.io_priority {
        process::set_io_priority(priority).step("exec", || "I/O priority".to_owned())?;
    }
    if let Some(given) = &plan.scheduler {
        process::set_scheduling(&Scheduling {
            policy: given.policy,
            flags: given.flags,
            nice: given.nice,
            priority: given.priority,
            runtime: given.runtime,
            deadline: given.deadline,
            period: given.period,
        })
        .step("exec", || format!("scheduling policy {}", given.policy))?;
    }
    Ok(())
}

/// Gives up what the plan does not grant and installs the filter.
///
/// Without no_new_privs the kernel wants CAP_SYS_ADMIN for a filter, so it has
/// to come before the capabilities go; with it, it comes last, where fewest
/// calls have to be allowed by it.
pub(crate) fn confine(plan: &ProcessPlan, seccomp: &[u8], parent: &OwnedFd) -> Result<(), Failure> {
    let early = !plan.no_new_privileges && !seccomp.is_empty();
    let install = || -> Result<(), Failure> {
        let what = || "seccomp filter".to_owned();
        if !plan.seccomp_listener {
            return process::install_seccomp(seccomp, plan.seccomp_flags).step("exec", what);
        }
        let listener =
            process::install_seccomp_listener(seccomp, plan.seccomp_flags).step("exec", what)?;
        // Closed by execve: close() may be among the calls that wait for an answer.
        child::hand_over(parent, listener.into_raw_fd()).step("exec", || {
            "passing the listener of the filter on".to_owned()
        })
    };
    if early {
        install()?;
    }
    let wanted = plan.capabilities.unwrap_or_default();
    let caps = Capabilities {
        bounding: wanted.bounding,
        effective: wanted.effective,
        permitted: wanted.permitted,
        inheritable: wanted.inheritable,
        ambient: wanted.ambient,
    };
    let failed = |what: &'static str| move |error: io::Error| system("exec", what, &error);
    credentials::limit_bounding(caps.bounding).map_err(failed("bounding capabilities"))?;
    credentials::keep_capabilities(true).map_err(failed("keeping capabilities"))?;
    credentials::set_ids(plan.uid, plan.gid, &plan.groups).map_err(failed("user and groups"))?;
    credentials::keep_capabilities(false).map_err(failed("keeping capabilities"))?;
    credentials::set_capabilities(&caps).map_err(failed("capabilities"))?;
    if plan.no_new_privileges {
        process::set_no_new_privs().map_err(failed("no_new_privs"))?;
        if !seccomp.is_empty() {
            install()?;
        }
    }
    Ok(())
}
