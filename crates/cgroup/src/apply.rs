//! Writing limits to a group, and taking them back if one is refused.

use std::{
    io,
    os::fd::{AsFd as _, OwnedFd},
};

use berth_sys::bpf;
use nix::errno::Errno;

use crate::{
    Dir, Error, Group, Resources,
    device_program::assemble,
    devices::Table,
    file,
    group::failed,
    limits::{self, Current, Version, Write},
};

/// Name by which a program of ours is known again.
const PROGRAM: &str = "berth_devices";
/// From here on v1 means "no limit"; the kernel rounds its maximum to pages.
pub(crate) const NO_LIMIT: u64 = 1 << 62;

/// What the limits were before an update.
#[derive(Debug)]
#[must_use]
pub struct Previous(Vec<Undo>);

/// One thing that was changed, and what was there before.
#[derive(Debug)]
enum Undo {
    File(Write, String),
    DevicesV1(Table),
    DevicesV2 { new: OwnedFd, old: Option<OwnedFd> },
}

impl Group {
    /// Changes the limits that are given; the others stay. All or nothing: if one
    /// is refused, those written before it are set back.
    ///
    /// # Errors
    /// [`Error::Invalid`] before anything is changed; [`Error::BelowUsage`] for a
    /// memory limit below what is in use (v2 would kill for it, so it is not tried);
    /// [`Error::NoController`]; or what the kernel refused.
    pub fn update(&self, resources: &Resources) -> Result<(), Error> {
        self.update_revocably(resources).map(drop)
    }

    /// As [`Group::update`]; the result can set everything back to what it was.
    ///
    /// # Errors
    /// As [`Group::update`].
    pub fn update_revocably(&self, resources: &Resources) -> Result<Previous, Error> {
        resources.validate()?;
        let current = self.current()?;
        let writes = limits::plan(resources, &current, |name| self.version(name))?;
        let writes = self.existing(writes);
        self.make_room(&writes)?;
        let table = table_of(resources)?;
        let mut undo = Vec::new();
        match self.write_all(&writes, table.as_ref(), &mut undo) {
            Ok(()) => Ok(Previous(undo)),
            Err(cause) => Err(self.roll_back(cause, undo)),
        }
    }

    /// Sets the limits back to what they were before an update.
    ///
    /// # Errors
    /// What the kernel refused; the others are set back all the same.
    pub fn restore(&self, previous: Previous) -> Result<(), Error> {
        let mut first = Ok(());
        for step in previous.0.into_iter().rev() {
            first = first.and(self.take_back(step));
        }
        first
    }

    /// The limits of a new group, which is removed as a whole if one is refused.
    pub(crate) fn write_first(&self, resources: &Resources) -> Result<(), Error> {
        let version = |name: &str| self.version(name);
        let writes = limits::plan(resources, &Current::default(), version)?;
        if let Some(table) = table_of(resources)? {
            // Nothing is known of a fresh group's list: it has inherited one.
            self.write_devices(&table, false, &mut Vec::new())?;
        }
        let writes = self.existing(writes);
        writes.iter().try_for_each(|write| self.write_one(write))
    }

    /// Chooses between the files of different schedulers.
    fn existing(&self, mut writes: Vec<Write>) -> Vec<Write> {
        for write in &mut writes {
            let Some((file, value)) = write.instead.take() else {
                continue;
            };
            let there = |name: &str| {
                self.home_of(write).is_some_and(|dir| {
                    file::read_optional(&dir.fd, name).is_ok_and(|t| t.is_some())
                })
            };
            if !there(&write.file) && there(&file) {
                (write.file, write.value) = (file, value);
            }
        }
        writes
    }

    fn version(&self, controller: &str) -> Version {
        match self.v1(controller) {
            Some(_) => Version::V1,
            None => Version::V2,
        }
    }

    fn write_all(
        &self,
        writes: &[Write],
        table: Option<&Table>,
        undo: &mut Vec<Undo>,
    ) -> Result<(), Error> {
        if let Some(table) = table {
            self.write_devices(table, true, undo)?;
        }
        for write in writes {
            let before = self
                .home_of(write)
                .map(|dir| file::read_optional(&dir.fd, &write.file))
                .transpose()
                .map_err(failed("reading", &write.file))?;
            self.write_one(write)?;
            if let Some(before) = before.flatten() {
                undo.push(Undo::File(write.clone(), before));
            }
        }
        Ok(())
    }

    fn home_of(&self, write: &Write) -> Option<&Dir> {
        if write.field == "unified" {
            // In the v2 hierarchy, whatever v1 has beside it.
            return self.v2().filter(|dir| dir.offers(&write.controller));
        }
        self.with(&write.controller)
    }

    fn write_one(&self, write: &Write) -> Result<(), Error> {
        let Some(dir) = self.home_of(write) else {
            return self.lacking(write);
        };
        let source = match file::write(&dir.fd, &write.file, &write.value) {
            Ok(()) => return Ok(()),
            Err(error) => error,
        };
        if source.kind() == io::ErrorKind::NotFound && write.optional {
            return Ok(());
        }
        let memory = write.file == "memory.limit_in_bytes";
        if memory && source.raw_os_error() == Some(Errno::EBUSY as i32) {
            return Err(Error::BelowUsage {
                limit: write.value.parse().unwrap_or(0),
                usage: file::number(&dir.fd, "memory.usage_in_bytes").unwrap_or(0),
            });
        }
        Err(Error::System {
            what: format!(
                "{}: setting {} to {:?}",
                write.field, write.file, write.value
            ),
            source,
        })
    }

    fn lacking(&self, write: &Write) -> Result<(), Error> {
        let v1 = |dir: &Dir| !dir.v2 && !dir.controllers.starts_with("name=");
        if write.optional || (write.field == "unified" && self.dirs.iter().any(v1)) {
            return Ok(());
        }
        Err(Error::NoController {
            field: write.field,
            controller: write.controller.clone().into(),
        })
    }

    /// v2 kills processes when a limit is set below what is in use. Memory is
    /// reclaimed first, and if that is not enough the limit is refused.
    fn make_room(&self, writes: &[Write]) -> Result<(), Error> {
        let limit = writes
            .iter()
            .filter(|write| write.file == "memory.max")
            .find_map(|write| write.value.parse::<u64>().ok());
        let (Some(limit), Some(dir)) = (limit, self.v2()) else {
            return Ok(());
        };
        let usage = || file::number(&dir.fd, "memory.current").unwrap_or(0);
        let Some(excess) = usage().checked_sub(limit).filter(|excess| *excess > 0) else {
            return Ok(());
        };
        match file::write(&dir.fd, "memory.reclaim", &excess.to_string()) {
            Ok(()) => {}
            // Before Linux 5.19; or less could be reclaimed than was asked for.
            Err(error)
                if error.kind() == io::ErrorKind::NotFound
                    || error.raw_os_error() == Some(Errno::EAGAIN as i32) => {}
            Err(error) => return Err(failed("writing", "memory.reclaim")(error)),
        }
        match usage() {
            usage if usage > limit => Err(Error::BelowUsage { limit, usage }),
            _ => Ok(()),
        }
    }

    fn roll_back(&self, cause: Error, undo: Vec<Undo>) -> Error {
        let steps = undo.into_iter().rev();
        let left = steps.filter_map(|step| self.take_back(step).err());
        Error::with_undo(cause, left.collect())
    }

    fn take_back(&self, step: Undo) -> Result<(), Error> {
        match step {
            Undo::File(write, before) => {
                for value in values_before(&write, &before) {
                    let write = Write {
                        value,
                        ..write.clone()
                    };
                    self.write_one(&write)?;
                }
                Ok(())
            }
            Undo::DevicesV1(table) => self.write_devices(&table, true, &mut Vec::new()),
            Undo::DevicesV2 { new, old } => {
                let Some(dir) = self.v2() else {
                    return Ok(());
                };
                let done = match &old {
                    Some(old) => bpf::attach_device_program(&dir.fd, old, Some(&new)),
                    None => bpf::detach_device_program(&dir.fd, &new),
                };
                done.map_err(failed("restoring", "the device program"))
            }
        }
    }

    fn write_devices(&self, table: &Table, known: bool, undo: &mut Vec<Undo>) -> Result<(), Error> {
        if let Some(dir) = self.v1("devices") {
            return write_devices_v1(dir, table, known, undo);
        }
        let dir = self.v2().ok_or(Error::NoController {
            field: "devices",
            controller: "devices".into(),
        })?;
        let replaced = replace_program(dir, table);
        undo.push(replaced.map_err(failed("attaching", "the device program"))?);
        Ok(())
    }

    /// The limits that the order of an update depends on.
    fn current(&self) -> Result<Current, Error> {
        let mut current = Current::default();
        if let Some(dir) = self.with("memory") {
            let limit = |name| file::number(&dir.fd, name).filter(|value| *value < NO_LIMIT);
            if dir.v2 {
                current.memory = limit("memory.max");
            } else {
                current.memory = limit("memory.limit_in_bytes");
                current.memory_and_swap = limit("memory.memsw.limit_in_bytes");
            }
        }
        if let Some(dir) = self.with("cpu") {
            if dir.v2 {
                let text = file::read(&dir.fd, "cpu.max").map_err(failed("reading", "cpu.max"))?;
                let mut numbers = text.split_ascii_whitespace().map(|one| one.parse().ok());
                current.quota = numbers.next().flatten();
                current.period = numbers.next().flatten().unwrap_or(0);
            } else {
                current.quota = file::number(&dir.fd, "cpu.cfs_quota_us");
                current.period = file::number(&dir.fd, "cpu.cfs_period_us").unwrap_or(0);
            }
        }
        Ok(current)
    }
}

fn table_of(resources: &Resources) -> Result<Option<Table>, Error> {
    if resources.devices.is_empty() {
        return Ok(None);
    }
    Table::from_rules(&resources.devices).map(Some)
}

/// What to write so that a file reads as `before`.
fn values_before(write: &Write, before: &str) -> Vec<String> {
    // These hold one line per device; one that was not there has no limits.
    if write.file.starts_with("blkio.throttle.") {
        let device = write.value.split(' ').next().unwrap_or_default();
        let line = before
            .lines()
            .find(|line| line.split(' ').next() == Some(device));
        return vec![line.map_or(format!("{device} 0"), str::to_owned)];
    }
    if matches!(write.file.as_str(), "io.max" | "io.latency") {
        let device = write.value.split(' ').next().unwrap_or_default();
        let line = before
            .lines()
            .find(|line| line.split(' ').next() == Some(device));
        let none = match write.file.as_str() {
            "io.max" => format!("{device} rbps=max wbps=max riops=max wiops=max"),
            _ => format!("{device} target=0"),
        };
        return vec![line.map_or(none, str::to_owned)];
    }
    match before.trim_end() {
        // An empty cpuset is written as an empty line; nothing would be no write at all.
        "" => vec!["\n".to_owned()],
        lines => lines.lines().map(str::to_owned).collect(),
    }
}

fn write_devices_v1(
    dir: &Dir,
    table: &Table,
    known: bool,
    undo: &mut Vec<Undo>,
) -> Result<(), Error> {
    let now = if known {
        let list = file::read(&dir.fd, "devices.list");
        Table::from_list(&list.map_err(failed("reading", "devices.list"))?)
    } else {
        None
    };
    if let Some(now) = &now {
        undo.push(Undo::DevicesV1(now.clone()));
    }
    for (name, line) in table.v1_writes(now.as_ref()) {
        file::write(&dir.fd, name, &line).map_err(Error::system(format!(
            "devices: writing {line:?} to {name}"
        )))?;
    }
    Ok(())
}

/// Attaches the program for `table`, in place of an earlier one of ours: there is
/// no moment without either.
fn replace_program(dir: &Dir, table: &Table) -> io::Result<Undo> {
    let new = bpf::load_device_program(&assemble(table), PROGRAM)?;
    let mut ours = bpf::device_programs(dir.fd.as_fd())?
        .into_iter()
        .filter(|(_, name)| name == PROGRAM)
        .map(|(program, _)| program);
    let old = ours.next();
    bpf::attach_device_program(&dir.fd, &new, old.as_ref())?;
    for surplus in ours {
        bpf::detach_device_program(&dir.fd, &surplus)?;
    }
    Ok(Undo::DevicesV2 { new, old })
}
