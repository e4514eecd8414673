//! The process of a command in a container: the container's own with other words, and
//! with what people may change of it.

use std::{
    fs::File,
    io::{self, Read as _},
    os::fd::AsFd as _,
    path::Path,
};

use berth_proto::shim::{CapabilitySets, ProcessPlan};
use berth_streaming::ExecOptions;
use berth_sys::resolve::{self, Scope};

use super::{Container, Live};
use crate::{
    error::{Error, Result},
    node::blocking,
    spec,
};

/// Most that is read of a container's passwd or group; more is there to hurt.
const LARGEST: u64 = 1024 * 1024;

/// What is to be executed for `words`, as the container's own process is.
pub(crate) fn plain(live: &Live, words: Vec<String>, terminal: bool) -> ProcessPlan {
    let mut process = ProcessPlan {
        args: words.into_iter().map(String::into_bytes).collect(),
        inherit_seccomp: true,
        seccomp: Vec::new(),
        terminal,
        oom_score_adj: None,
        ..live.process.clone()
    };
    if terminal && !process.env.iter().any(|pair| pair.starts_with(b"TERM=")) {
        process.env.push(b"TERM=xterm".to_vec());
    }
    process
}

/// As [`plain`], with what `options` change.
///
/// # Errors
/// InvalidArgument for what cannot be, such as a user that the container does not know.
pub(crate) async fn with_options(
    container: &Container,
    live: &Live,
    words: Vec<String>,
    terminal: bool,
    options: ExecOptions,
) -> Result<ProcessPlan> {
    let mut process = plain(live, words, terminal);
    for pair in options.env {
        add(&mut process.env, pair)?;
    }
    if !options.working_directory.is_empty() {
        let path = options.working_directory;
        if !path.starts_with('/') || path.contains('\0') {
            return Err(Error::invalid(format!(
                "working directory {path:?} is not an absolute path"
            )));
        }
        process.cwd = path.into_bytes();
    }
    if !options.user.is_empty() {
        let user = find(container, options.user).await?;
        (process.uid, process.gid, process.groups) = (user.uid, user.gid, user.groups);
        let capabilities = process.capabilities.take().unwrap_or_default();
        process.capabilities = Some(of_user(&capabilities, user.uid));
    }
    if options.privileged {
        let all = berth_sys::credentials::available_capabilities();
        process.capabilities = Some(CapabilitySets {
            bounding: all,
            effective: all,
            permitted: all,
            ..CapabilitySets::default()
        });
        process.inherit_seccomp = false;
        process.no_new_privileges = false;
    }
    Ok(process)
}

/// Root has all that the container may have, others what is ambient, as if they had
/// been root and changed their id.
fn of_user(container: &CapabilitySets, uid: u32) -> CapabilitySets {
    let active = if uid == 0 {
        container.bounding
    } else {
        container.ambient
    };
    CapabilitySets {
        effective: active,
        permitted: active,
        ..*container
    }
}

/// Adds NAME=value in the place of what has that name.
fn add(env: &mut Vec<Vec<u8>>, pair: String) -> Result<()> {
    let name = pair.split_once('=').map(|(name, _)| name.len() + 1);
    let Some(name) = name.filter(|length| *length > 1 && !pair.contains('\0')) else {
        return Err(Error::invalid(format!(
            "environment {pair:?}: expected NAME=value"
        )));
    };
    let pair = pair.into_bytes();
    env.retain(|other| !other.starts_with(&pair[..name]));
    env.push(pair);
    Ok(())
}

async fn find(container: &Container, user: String) -> Result<spec::User> {
    let ended = || Error::precondition(format!("container {} has ended", container.id.short()));
    let init = container.record().state.processes().ok_or_else(ended)?.init;
    blocking("find a user in a container", move || {
        let pidfd = berth_sys::process::pidfd_open(init.pid);
        let root = File::open(format!("/proc/{}/root", init.pid));
        // Looked at after the root was opened: then it was that process's.
        let same =
            berth_sys::process::start_ticks(init.pid).is_ok_and(|ticks| ticks == init.start_ticks);
        let (Ok(_pidfd), Ok(root), true) = (pidfd, root, same) else {
            return Err(Error::precondition("the container has ended"));
        };
        spec::user_in(&user, &|path| read_in(&root, path))
            .map_err(|error| Error::invalid(format!("choose user {user:?}")).with_source(error))
    })
    .await
}

/// Reads a file as the container sees it; what it is the container may have chosen.
fn read_in(root: &File, path: &Path) -> io::Result<Vec<u8>> {
    let flags = libc::O_RDONLY | libc::O_NONBLOCK | libc::O_NOCTTY;
    let file = File::from(resolve::open(root.as_fd(), path, flags, 0, Scope::InRoot)?);
    if !file.metadata()?.is_file() {
        let why = "it is not a regular file";
        return Err(io::Error::new(io::ErrorKind::InvalidInput, why));
    }
    let mut bytes = Vec::new();
    file.take(LARGEST + 1).read_to_end(&mut bytes)?;
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_variable_takes_the_place_of_its_namesake_alone() {
        let mut env = vec![b"A=1".to_vec(), b"AB=2".to_vec(), b"A=3".to_vec()];
        add(&mut env, "A=4=5".to_owned()).unwrap();
        assert_eq!(env, [b"AB=2".to_vec(), b"A=4=5".to_vec()]);
        for wrong in ["", "A", "=x", "A=\0"] {
            assert!(add(&mut env, wrong.to_owned()).is_err(), "{wrong:?}");
        }
    }

    #[test]
    fn a_user_has_what_the_container_would_give_it() {
        let container = CapabilitySets {
            bounding: 0b111,
            effective: 0b111,
            permitted: 0b111,
            inheritable: 0b1,
            ambient: 0b1,
        };
        assert_eq!(of_user(&container, 0).effective, 0b111);
        let other = of_user(&container, 1000);
        assert_eq!((other.effective, other.permitted), (1, 1));
        assert_eq!(other.bounding, 0b111);
    }
}
