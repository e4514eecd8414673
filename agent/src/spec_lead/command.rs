//! What runs, where, and with which environment.

use std::path::PathBuf;

use berth_proto::cri::ContainerConfig;

use super::ImageFacts;
use crate::error::{Error, Result};

/// What every image can rely on.
const DEFAULT_PATH: &str = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// A command replaces entrypoint and cmd of the image; arguments alone replace
/// its cmd.
pub(super) fn args(config: &ContainerConfig, image: &ImageFacts) -> Result<Vec<String>> {
    let args: Vec<String> = if !config.command.is_empty() {
        [&config.command[..], &config.args].concat()
    } else if !config.args.is_empty() {
        [&image.entrypoint[..], &config.args].concat()
    } else {
        [&image.entrypoint[..], &image.cmd].concat()
    };
    match args.first() {
        None => Err(Error::invalid(
            "no command specified: neither the request nor the image has one",
        )
        .with_remedy("give a command")),
        Some(program) if program.is_empty() => {
            Err(Error::invalid("the command begins with an empty word"))
        }
        Some(_) => match args.iter().find(|arg| arg.contains('\0')) {
            Some(bad) => Err(Error::invalid(format!("argument {bad:?} has a zero byte"))),
            None => Ok(args),
        },
    }
}

pub(super) fn working_dir(config: &ContainerConfig, image: &ImageFacts) -> Result<PathBuf> {
    let (dir, whose) = match (config.working_dir.as_str(), image.working_dir.as_str()) {
        ("", "") => ("/", "default"),
        ("", of_image) => (of_image, "image"),
        (given, _) => (given, "request"),
    };
    let path = PathBuf::from(dir);
    let upwards = path.components().any(|part| part.as_os_str() == "..");
    if !path.is_absolute() || upwards || dir.contains('\0') {
        return Err(Error::invalid(format!(
            "working directory {dir:?} of the {whose}: expected an absolute path without \"..\""
        )));
    }
    Ok(path)
}

/// PATH, what the image says, HOSTNAME, then the request: the last one wins, in
/// the place of the first.
pub(super) fn env(
    config: &ContainerConfig,
    image: &ImageFacts,
    hostname: &str,
) -> Result<Vec<Vec<u8>>> {
    let mut env: Vec<(Vec<u8>, Vec<u8>)> = Vec::new();
    let mut set = |name: &[u8], value: &[u8]| match env.iter_mut().find(|(n, _)| n == name) {
        Some((_, old)) => *old = value.to_vec(),
        None => env.push((name.to_vec(), value.to_vec())),
    };
    let mut split = |pair: &str| {
        let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
        if !name.is_empty() && !pair.contains('\0') {
            set(name.as_bytes(), value.as_bytes());
        }
    };
    split(DEFAULT_PATH);
    if config.tty {
        split("TERM=xterm");
    }
    // What is no variable in an image is passed over: it would fail every start.
    image.env.iter().for_each(|pair| split(pair));
    split(&format!("HOSTNAME={hostname}"));
    for pair in &config.envs {
        let bad = pair.key.is_empty() || pair.key.contains(['=', '\0']) || pair.value.contains(&0);
        if bad {
            return Err(Error::invalid(format!(
                "environment variable {:?}: a name must not be empty or hold '=', and neither part a zero byte",
                pair.key
            )));
        }
        set(pair.key.as_bytes(), &pair.value);
    }
    Ok(env
        .into_iter()
        .map(|(name, value)| [&name[..], b"=", &value].concat())
        .collect())
}
