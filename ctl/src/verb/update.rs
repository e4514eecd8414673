//! `update`: other limits for containers that exist.

use berth_proto::cri;

use super::{Context, bulk, limits};
use crate::{
    failure::{Failure, Outcome},
    lookup,
};

/// Stands for "no limit" where a limit is given.
const UNLIMITED: &str = "unlimited";

#[derive(Debug, clap::Args)]
#[command(after_help = "\
What is not given stays as it is. All of it is changed, or nothing.

Examples:
  berthctl update --memory 512m web
  berthctl update --cpus unlimited --memory unlimited web")]
pub(crate) struct Args {
    /// Containers
    #[arg(value_name = "CONTAINER", required = true)]
    containers: Vec<String>,
    /// Most memory: bytes, or with k, m, g; or `unlimited`
    #[arg(short, long, value_name = "SIZE")]
    memory: Option<String>,
    /// Most memory and swap together; or `unlimited`
    #[arg(long, value_name = "SIZE")]
    memory_swap: Option<String>,
    /// Most CPUs: 0.5 is half of one; or `unlimited`
    #[arg(long, value_name = "NUMBER")]
    cpus: Option<String>,
    /// Weight against other containers, 2 to 262144; 1024 is usual
    #[arg(long, value_name = "WEIGHT", value_parser = clap::value_parser!(i64).range(2..=262_144))]
    cpu_shares: Option<i64>,
    /// CPUs that it may run on, such as 0-3,8
    #[arg(long, value_name = "LIST")]
    cpuset_cpus: Option<String>,
    /// Memory nodes that it may use
    #[arg(long, value_name = "LIST")]
    cpuset_mems: Option<String>,
    /// How gladly it is killed for lack of memory, -1000 to 1000; not 0
    #[arg(long, value_name = "SCORE", allow_hyphen_values = true,
          value_parser = clap::value_parser!(i64).range(-1000..=1000))]
    oom_score_adj: Option<i64>,
    /// A file of cgroup v2 and its value
    #[arg(long, value_name = "FILE=VALUE", value_parser = super::pods::label)]
    unified: Vec<(String, String)>,
}

pub(crate) async fn run(context: &Context, args: &Args) -> Outcome<u8> {
    let resources = resources(args)?;
    if resources == cri::LinuxContainerResources::default() {
        return Err(Failure::usage(
            "nothing to change",
            "give at least one limit, such as --memory 512m",
        ));
    }
    let connection = context.connect().await?;
    bulk::each(&args.containers, async |name| {
        let container = lookup::container(&connection, name).await?;
        let request = cri::UpdateContainerResourcesRequest {
            container_id: container.id,
            linux: Some(resources.clone()),
            ..Default::default()
        };
        connection
            .runtime()
            .update_container_resources(connection.change(request))
            .await
            .map_err(|status| {
                Failure::refused(format!("cannot change the limits of {name}"), &status)
            })?;
        Ok(())
    })
    .await
}

fn resources(args: &Args) -> Outcome<cri::LinuxContainerResources> {
    let size = |option: &str, text: &Option<String>| match text.as_deref() {
        None => Ok(0),
        Some(UNLIMITED) => Ok(-1),
        Some(text) => limits::memory(option, text),
    };
    let (cpu_period, cpu_quota) = match args.cpus.as_deref() {
        None => (0, 0),
        Some(UNLIMITED) => (0, -1),
        Some(text) => (limits::CPU_PERIOD, limits::cpu_quota(text)?),
    };
    Ok(cri::LinuxContainerResources {
        cpu_period,
        cpu_quota,
        cpu_shares: args.cpu_shares.unwrap_or_default(),
        memory_limit_in_bytes: size("--memory", &args.memory)?,
        memory_swap_limit_in_bytes: size("--memory-swap", &args.memory_swap)?,
        oom_score_adj: args.oom_score_adj.unwrap_or_default(),
        cpuset_cpus: args.cpuset_cpus.clone().unwrap_or_default(),
        cpuset_mems: args.cpuset_mems.clone().unwrap_or_default(),
        hugepage_limits: Vec::new(),
        unified: args.unified.iter().cloned().collect(),
    })
}
