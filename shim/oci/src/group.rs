//! The container's control groups.

use std::time::Duration;

use anyhow::{Context as _, Result};
use berth_cgroup::{Group, GroupPath, Layout};
use oci_spec::runtime::Spec;

use crate::{record::Record, scope::Unit};

/// Where containers go that name no group.
const DEFAULT_PARENT: &str = "berth-oci";
/// Longest wait for processes that were killed.
const LIMIT: Duration = Duration::from_secs(10);

pub(crate) fn layout() -> Result<Layout> {
    Layout::detect().context("control groups")
}

/// Who makes the container's group.
#[derive(Debug)]
pub(crate) enum Place {
    /// This program.
    Path(GroupPath),
    /// systemd.
    Unit(Unit),
}

/// What `spec` names, or a group by the container's name.
pub(crate) fn place(spec: &Spec, id: &str, systemd: bool) -> Result<Place> {
    if systemd {
        Unit::of(spec, id).map(Place::Unit)
    } else {
        path(spec, id).map(Place::Path)
    }
}

fn path(spec: &Spec, id: &str) -> Result<GroupPath> {
    let linux = spec.linux().as_ref();
    let given = linux.and_then(|linux| linux.cgroups_path().as_ref());
    let text = given.map(|path| path.to_string_lossy().into_owned());
    let text = match text.as_deref() {
        None | Some("") => format!("{DEFAULT_PARENT}/{id}"),
        Some(text) => text.to_owned(),
    };
    GroupPath::parse(&text).context("linux.cgroupsPath")
}

/// Opens a group by the path in a container's record; none if it is gone.
pub(crate) fn open(path: &str) -> Result<Option<Group>> {
    if path.is_empty() {
        return Ok(None);
    }
    let path = GroupPath::parse(path)?;
    match Group::open(&layout()?, &path) {
        Ok(group) => Ok(Some(group)),
        Err(error) if error.is_not_found() => Ok(None),
        Err(error) => Err(error.into()),
    }
}

/// Kills what is left in the container's group and removes it.
pub(crate) fn destroy(record: &Record) -> Result<()> {
    // A scope of systemd ends by itself when nobody is in it any more.
    let path = record.cgroup.as_str();
    if path.is_empty() {
        return Ok(());
    }
    let layout = layout()?;
    let path = GroupPath::parse(path)?;
    match Group::open(&layout, &path) {
        Ok(group) => group.kill_all(LIMIT)?,
        Err(error) if error.is_not_found() => {}
        Err(error) => return Err(error.into()),
    }
    Group::remove(&layout, &path, LIMIT)?;
    if path.as_str().starts_with(DEFAULT_PARENT) {
        berth_cgroup::remove_if_empty(&layout, &GroupPath::parse(DEFAULT_PARENT)?);
    }
    Ok(())
}
