//! What runs, where, and with which environment.

use std::path::{Component, Path, PathBuf};

use berth_proto::cri::ContainerConfig;

use super::{
    ImageFacts,
    error::{Result, SpecError},
    provenance::{Provenance, Source},
};

/// Where programs are looked for when nobody says.
const PATH: &[u8] = b"/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// The request's command takes the place of both the image's Entrypoint and Cmd; its
/// arguments alone take the place of Cmd.
pub(super) fn args(
    config: &ContainerConfig,
    image: &ImageFacts,
    provenance: &mut Provenance,
) -> Result<Vec<String>> {
    let (program, arguments, source) = if !config.command.is_empty() {
        (&config.command, &config.args, Source::Cri)
    } else if !config.args.is_empty() {
        (&image.entrypoint, &config.args, Source::Cri)
    } else {
        (&image.entrypoint, &image.cmd, Source::Image)
    };
    let args: Vec<String> = program.iter().chain(arguments).cloned().collect();
    match args.first().map(String::as_str) {
        None => {
            return Err(SpecError::invalid(
                "no command specified: the image has neither Entrypoint nor Cmd",
            )
            .with_remedy("set command"));
        }
        Some("") => return Err(SpecError::invalid("command begins with an empty string")),
        Some(_) => {}
    }
    if let Some(bad) = args.iter().find(|arg| arg.contains('\0')) {
        return Err(SpecError::invalid(format!(
            "command argument {bad:?} has a NUL byte"
        )));
    }
    provenance.set("process.args", source);
    Ok(args)
}

/// The request's, else the image's, else the root.
pub(super) fn working_dir(
    config: &ContainerConfig,
    image: &ImageFacts,
    provenance: &mut Provenance,
) -> Result<PathBuf> {
    let (dir, source, whose) = if !config.working_dir.is_empty() {
        (config.working_dir.as_str(), Source::Cri, "working_dir")
    } else if !image.working_dir.is_empty() {
        (
            image.working_dir.as_str(),
            Source::Image,
            "the image's WorkingDir",
        )
    } else {
        ("/", Source::Default, "")
    };
    let path = Path::new(dir);
    let upwards = path.components().any(|part| part == Component::ParentDir);
    if !path.is_absolute() || upwards || dir.contains('\0') {
        return Err(SpecError::invalid(format!(
            "{whose} {dir:?}: expected an absolute path without \"..\""
        )));
    }
    provenance.set("process.cwd", source);
    Ok(path.to_owned())
}

/// Variables in order, each once: the last value in the place of the first.
#[derive(Debug, Default)]
struct Environment(Vec<(Vec<u8>, Vec<u8>)>);

impl Environment {
    fn set(&mut self, name: &[u8], value: &[u8]) {
        match self.0.iter_mut().find(|(known, _)| known == name) {
            Some((_, old)) => value.clone_into(old),
            None => self.0.push((name.to_owned(), value.to_owned())),
        }
    }
}

/// PATH, the image's, the caller's trace, HOSTNAME, TERM for a terminal, the request's. Values are bytes.
pub(super) fn env(
    config: &ContainerConfig,
    image: &ImageFacts,
    hostname: &str,
    trace: &[String],
    provenance: &mut Provenance,
) -> Result<Vec<Vec<u8>>> {
    let mut env = Environment::default();
    let mut set = |name: &[u8], value: &[u8], source| {
        env.set(name, value);
        let shown = String::from_utf8_lossy(name);
        provenance.set(format!("process.env[{shown}]"), source);
    };
    set(b"PATH", PATH, Source::Default);
    if config.tty {
        set(b"TERM", b"xterm", Source::Default);
    }
    for pair in &image.env {
        // An image's list may hold anything. What is no variable would only fail the
        // start; a name alone means an empty value.
        let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
        if !name.is_empty() && !pair.contains('\0') {
            set(name.as_bytes(), value.as_bytes(), Source::Image);
        }
    }
    for (name, value) in trace.iter().filter_map(|pair| pair.split_once('=')) {
        set(name.as_bytes(), value.as_bytes(), Source::Default);
    }
    set(b"HOSTNAME", hostname.as_bytes(), Source::Default);
    for pair in &config.envs {
        if pair.key.is_empty() || pair.key.contains(['=', '\0']) {
            return Err(SpecError::invalid(format!(
                "envs: the name {:?} is empty or has '=' or a NUL byte",
                pair.key
            )));
        }
        if pair.value.contains(&0) {
            return Err(SpecError::invalid(format!(
                "envs: the value of {:?} has a NUL byte",
                pair.key
            )));
        }
        set(pair.key.as_bytes(), &pair.value, Source::Cri);
    }
    let join = |(name, value): (Vec<u8>, Vec<u8>)| [&name[..], b"=", &value].concat();
    Ok(env.0.into_iter().map(join).collect())
}
