//! The container's control group as a scope of systemd.

use anyhow::{Context as _, Result, bail};
use berth_cgroup::{Group, GroupPath, Resources};
use berth_engine::{Holder, Program};
use berth_systemd::{Manager, Property, Scope, Value, check_unit, slice_path};
use oci_spec::runtime::Spec;

use crate::group;

/// Annotations of this form set properties of the unit.
const ANNOTATION: &str = "org.systemd.property.";
/// Where containers go that name no slice.
const DEFAULT_SLICE: &str = "system.slice";
/// Begins the names of units of containers that say nothing else.
const DEFAULT_PREFIX: &str = "berth";

/// A scope that is to be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Unit {
    slice: String,
    pub(crate) name: String,
    properties: Vec<Property>,
}

impl Unit {
    /// What `linux.cgroupsPath` names: `slice:prefix:name`, each of which may be empty.
    pub(crate) fn of(spec: &Spec, id: &str) -> Result<Self> {
        let linux = spec.linux().as_ref();
        let given = linux.and_then(|linux| linux.cgroups_path().as_ref());
        let text = given.map(|path| path.to_string_lossy().into_owned());
        let text = text
            .filter(|text| !text.is_empty())
            .unwrap_or_else(|| format!("::{id}"));
        let [slice, prefix, name] = text.split(':').collect::<Vec<_>>()[..] else {
            bail!("linux.cgroupsPath {text:?}: with --systemd-cgroup expected SLICE:PREFIX:NAME");
        };
        let or = |text: &str, default: &str| match text {
            "" => default.to_owned(),
            text => text.to_owned(),
        };
        if name.ends_with(".slice") {
            bail!("linux.cgroupsPath {text:?}: a container cannot be a slice of systemd");
        }
        let prefix = or(prefix, DEFAULT_PREFIX);
        let unit = Self {
            slice: or(slice, DEFAULT_SLICE),
            name: format!("{prefix}-{}.scope", or(name, id)),
            properties: properties(spec)?,
        };
        check_unit(&unit.name, ".scope").context("linux.cgroupsPath")?;
        slice_path(&unit.slice).context("linux.cgroupsPath")?;
        Ok(unit)
    }

    /// Where it will be, if systemd is process 1 and not itself in a group.
    pub(crate) fn path(&self) -> Result<GroupPath> {
        let slice = slice_path(&self.slice)?;
        Ok(GroupPath::parse(&format!("{slice}/{}", self.name))?)
    }

    /// Makes it; it lasts as long as the holder, or what enters it.
    pub(crate) fn make(
        &self,
        program: &Program,
        limits: &Resources,
    ) -> Result<(Group, GroupPath, Holder)> {
        let holder = Holder::start(program)?;
        let pid = holder.pid()?;
        let mut properties = of_limits(limits);
        properties.extend(self.properties.iter().cloned());
        let made = Manager::connect()?.start_scope(&Scope {
            name: &self.name,
            slice: &self.slice,
            description: "container of berth-oci",
            pid: pid.unsigned_abs(),
            properties: &properties,
        })?;
        let path = GroupPath::parse(&made)?;
        let group = Group::adopt(&group::layout()?, &path, limits, pid)?;
        Ok((group, path, holder))
    }
}

/// Tells systemd of other limits, so that it does not write the old ones back.
pub(crate) fn update(name: &str, limits: &Resources) -> Result<()> {
    let properties = of_limits(limits);
    if name.is_empty() || properties.is_empty() {
        return Ok(());
    }
    Ok(Manager::connect()?.set_properties(name, &properties)?)
}

fn properties(spec: &Spec) -> Result<Vec<Property>> {
    let annotations = spec.annotations().iter().flatten();
    let given = annotations.filter_map(|(key, value)| Some((key.strip_prefix(ANNOTATION)?, value)));
    let mut properties = given
        .map(|(name, value)| Property::parse(name, value).map_err(Into::into))
        .collect::<Result<Vec<_>>>()?;
    // In the map's own order two equal containers would differ.
    properties.sort_by(|one, other| one.name.cmp(&other.name));
    Ok(properties)
}

/// The limits as systemd knows them; what it does not know is written to the files alone.
fn of_limits(limits: &Resources) -> Vec<Property> {
    let bytes = |amount: i64| Value::U64(u64::try_from(amount).unwrap_or(u64::MAX));
    let mut properties = Vec::new();
    let mut add = |name: &str, value: Option<Value>| {
        properties.extend(value.map(|value| Property::new(name, value)));
    };
    add("MemoryMax", limits.memory_limit.map(bytes));
    add("MemoryLow", limits.memory_reservation.map(bytes));
    add("TasksMax", limits.pids_limit.map(bytes));
    add("CPUWeight", limits.cpu_weight().map(Value::U64));
    let quota = limits.cpu_quota.map(|quota| {
        let period = limits.cpu_period.unwrap_or(100_000).max(1);
        match u64::try_from(quota) {
            // In whole steps of 10 ms per second, as systemd has them, and not below.
            Ok(quota) => Value::U64((quota * 1_000_000 / period).next_multiple_of(10_000)),
            Err(_unlimited) => Value::U64(u64::MAX),
        }
    });
    add("CPUQuotaPerSecUSec", quota);
    properties
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn unit(path: Option<&str>) -> Result<Unit> {
        let mut config = json!({"ociVersion": "1.0.2", "linux": {}});
        if let Some(path) = path {
            config["linux"]["cgroupsPath"] = path.into();
        }
        Unit::of(&serde_json::from_value(config)?, "c1")
    }

    #[test]
    fn a_path_names_slice_prefix_and_name() {
        for (path, slice, name) in [
            (None, "system.slice", "berth-c1.scope"),
            (
                Some("machine.slice:libpod:abc"),
                "machine.slice",
                "libpod-abc.scope",
            ),
            (Some("::x"), "system.slice", "berth-x.scope"),
            (Some("a-b.slice::"), "a-b.slice", "berth-c1.scope"),
        ] {
            let unit = unit(path).unwrap();
            assert_eq!((unit.slice.as_str(), unit.name.as_str()), (slice, name));
        }
        for bad in [
            "/a/b",
            "a:b",
            "../x.slice:p:n",
            "a.slice:p:n/m",
            "a.slice:p:n.slice",
            "a:b:c:d",
        ] {
            assert!(unit(Some(bad)).is_err(), "{bad}");
        }
        let path = unit(Some("a-b.slice:p:n")).unwrap().path().unwrap();
        assert_eq!(path.as_str(), "a.slice/a-b.slice/p-n.scope");
    }

    #[test]
    fn limits_are_told_in_the_units_of_systemd() {
        let limits = Resources {
            memory_limit: Some(-1),
            cpu_quota: Some(25_000),
            cpu_period: Some(100_000),
            cpu_shares: Some(1024),
            ..Resources::default()
        };
        let shown: Vec<_> = of_limits(&limits)
            .into_iter()
            .map(|property| (property.name, property.value))
            .collect();
        assert_eq!(
            shown,
            [
                ("MemoryMax".to_owned(), Value::U64(u64::MAX)),
                ("CPUWeight".to_owned(), Value::U64(100)),
                ("CPUQuotaPerSecUSec".to_owned(), Value::U64(250_000)),
            ]
        );
    }
}
