//! UpdateContainerResources: other limits for a container that exists.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use berth_cgroup::{Layout, Resources};
use berth_phase::Phase;
use berth_proto::cri::{LinuxContainerResources, UpdateContainerResourcesRequest};

use super::{Container, oom_score::Scores, state::State};
use crate::{
    cgroup::Changed,
    error::{Error, Result},
    node::{Node, blocking},
    operation::{Context, Fingerprint, Request, Value, Verb},
    spec,
};

/// Changes limits: what is 0 or empty in the request stays as it is. All of them are
/// changed and on record, or none.
///
/// # Errors
/// NotFound; InvalidArgument for limits that cannot be; FailedPrecondition for memory
/// below what is in use.
pub(crate) async fn update(
    node: &Arc<Node>,
    request: UpdateContainerResourcesRequest,
    deadline: Option<tokio::time::Instant>,
) -> Result<()> {
    let container = node.container(&request.container_id)?;
    let fingerprint = Fingerprint::of_message(&request);
    if request.windows.is_some() {
        return Err(Error::invalid(
            "limits for Windows on a node that runs Linux",
        ));
    }
    let given = request
        .linux
        .ok_or_else(|| Error::invalid("the request has no limits: linux is missing"))?;
    let limits = limits(&given)?;
    let operation = Request::new(Verb::UpdateContainer, container.id.to_string())
        .fingerprint(fingerprint)
        .deadline(deadline);
    let node_in = node.clone();
    node.operations
        .run(operation, move |context| async move {
            let _turn = container.turn.lock().await;
            change(&node_in, &container, &given, limits, &context).await?;
            Ok(Value::Done)
        })
        .await
        .map(drop)
}

async fn change(
    node: &Arc<Node>,
    container: &Container,
    given: &LinuxContainerResources,
    limits: Resources,
    context: &Context,
) -> Result<()> {
    context.enter(Phase::Validate, "")?;
    let record = container.record();
    if record.removing || matches!(record.state, State::Creating) {
        return Err(Error::precondition(format!(
            "container {} is being {}",
            container.id.short(),
            if record.removing {
                "removed"
            } else {
                "created"
            }
        )));
    }
    // Nothing is left to limit, and a kubelet must not stumble over the end of a
    // container that it is resizing.
    if !record.state.may_live() {
        return Ok(());
    }
    let merged = merge(&record.resources, given);
    // Those that contradict what is there already.
    self::limits(&merged)?;

    let effects = Effects::default();
    let undo = effects.clone();
    context.undo.push("limits", move || async move {
        blocking("set limits back", move || undo.take_back()).await
    });
    context.enter(Phase::Cgroup, "limits")?;
    let (held, layout, path) = (effects.clone(), node.layout.clone(), record.cgroup.clone());
    blocking("change limits", move || {
        held.set_limits(&layout, &path, &limits)
    })
    .await?;
    context.enter(Phase::Cgroup, "oom score")?;
    let from = record.oom_score_adj;
    // 0 means "as it is" here, too.
    let to = i32::try_from(given.oom_score_adj)
        .ok()
        .filter(|&to| to != 0 && to != from);
    let granted = match to {
        Some(to) => blocking("change oom_score_adj", move || effects.set_score(from, to)).await?,
        None => true,
    };
    context.enter(Phase::Record, "limits")?;
    container
        .change(node, |record| {
            record.resources = merged;
            if let Some(to) = to {
                record.oom_score_adj_clamped = !granted;
                record.oom_score_adj = if granted { to } else { from };
            }
            Ok(())
        })
        .await?;
    tracing::info!(container = %container.id, "limits are changed");
    Ok(())
}

/// What has been changed so far; clones share it.
#[derive(Clone, Debug, Default)]
struct Effects(Arc<Mutex<Made>>);

#[derive(Debug, Default)]
struct Made {
    limits: Option<Changed>,
    scores: Scores,
}

impl Effects {
    fn lock(&self) -> MutexGuard<'_, Made> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn set_limits(&self, layout: &Layout, path: &str, limits: &Resources) -> Result<()> {
        self.lock().limits = Some(crate::cgroup::update(layout, path, limits)?);
        Ok(())
    }

    fn set_score(&self, from: i32, to: i32) -> Result<bool> {
        let mut made = self.lock();
        let Made { limits, scores } = &mut *made;
        scores.change(from, to, || {
            limits.as_ref().map_or(Ok(Vec::new()), Changed::processes)
        })
    }

    fn take_back(&self) -> Result<()> {
        let mut made = self.lock();
        made.scores.restore();
        made.limits.take().map_or(Ok(()), Changed::restore)
    }
}

/// What is written to the groups, checked; devices and the number of processes are
/// none of CRI's limits and stay.
fn limits(given: &LinuxContainerResources) -> Result<Resources> {
    let limits = spec::limits(given)?;
    limits.validate().map_err(crate::cgroup::convert)?;
    Ok(limits)
}

/// `old` with everything that is said in `new`.
pub(crate) fn merge(
    old: &LinuxContainerResources,
    new: &LinuxContainerResources,
) -> LinuxContainerResources {
    let number = |old: i64, new: i64| if new == 0 { old } else { new };
    let text = |old: &String, new: &String| if new.is_empty() { old } else { new }.clone();
    let mut merged = LinuxContainerResources {
        cpu_period: number(old.cpu_period, new.cpu_period),
        cpu_quota: number(old.cpu_quota, new.cpu_quota),
        cpu_shares: number(old.cpu_shares, new.cpu_shares),
        memory_limit_in_bytes: number(old.memory_limit_in_bytes, new.memory_limit_in_bytes),
        memory_swap_limit_in_bytes: number(
            old.memory_swap_limit_in_bytes,
            new.memory_swap_limit_in_bytes,
        ),
        oom_score_adj: number(old.oom_score_adj, new.oom_score_adj),
        cpuset_cpus: text(&old.cpuset_cpus, &new.cpuset_cpus),
        cpuset_mems: text(&old.cpuset_mems, &new.cpuset_mems),
        hugepage_limits: old.hugepage_limits.clone(),
        unified: old.unified.clone(),
    };
    for page in &new.hugepage_limits {
        let same = |other: &&mut berth_proto::cri::HugepageLimit| other.page_size == page.page_size;
        match merged.hugepage_limits.iter_mut().find(same) {
            Some(known) => known.limit = page.limit,
            None => merged.hugepage_limits.push(page.clone()),
        }
    }
    let unified = new.unified.iter();
    merged
        .unified
        .extend(unified.map(|(name, value)| (name.clone(), value.clone())));
    merged
}

#[cfg(test)]
mod tests {
    use berth_proto::cri::HugepageLimit;

    use super::*;

    fn page(size: &str, limit: u64) -> HugepageLimit {
        HugepageLimit {
            page_size: size.to_owned(),
            limit,
        }
    }

    #[test]
    fn what_is_not_said_stays_and_maps_are_merged() {
        let pair = |name: &str, value: &str| (name.to_owned(), value.to_owned());
        let old = LinuxContainerResources {
            cpu_shares: 512,
            cpu_quota: 50_000,
            memory_limit_in_bytes: 1 << 30,
            cpuset_cpus: "0".to_owned(),
            hugepage_limits: vec![page("2MB", 0), page("1GB", 0)],
            unified: [pair("memory.oom.group", "1"), pair("memory.high", "max")].into(),
            ..LinuxContainerResources::default()
        };
        let new = LinuxContainerResources {
            cpu_shares: 1024,
            cpuset_mems: "0".to_owned(),
            hugepage_limits: vec![page("2MB", 4 << 20)],
            unified: [pair("memory.high", "1")].into(),
            ..LinuxContainerResources::default()
        };
        let merged = merge(&old, &new);
        assert_eq!((merged.cpu_shares, merged.cpu_quota), (1024, 50_000));
        assert_eq!(merged.memory_limit_in_bytes, 1 << 30);
        assert_eq!((&*merged.cpuset_cpus, &*merged.cpuset_mems), ("0", "0"));
        assert_eq!(
            merged.hugepage_limits,
            [page("2MB", 4 << 20), page("1GB", 0)]
        );
        assert_eq!(
            merged.unified,
            [pair("memory.high", "1"), pair("memory.oom.group", "1")].into()
        );
        assert_eq!(merge(&old, &LinuxContainerResources::default()), old);
    }

    #[test]
    fn limits_that_cannot_be_are_refused_before_anything_is_touched() {
        let refused = |change: fn(&mut LinuxContainerResources)| {
            let mut given = LinuxContainerResources::default();
            change(&mut given);
            limits(&given).unwrap_err().sentence()
        };
        assert!(refused(|r| r.cpu_shares = -1).contains("cpu_shares"));
        assert!(refused(|r| r.cpu_quota = 1).contains("cpu_quota"));
        assert!(refused(|r| r.memory_limit_in_bytes = 5).contains("memory"));
        assert!(refused(|r| r.oom_score_adj = 1001).contains("oom_score_adj"));
        assert!(refused(|r| r.cpuset_cpus = "x".to_owned()).contains("cpuset_cpus"));
        let fine = limits(&LinuxContainerResources::default()).unwrap();
        assert!(fine.devices.is_empty() && fine.pids_limit.is_none());
    }
}
