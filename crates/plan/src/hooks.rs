//! Hooks, checked.

use berth_proto::shim::HookPlan;
use oci_spec::runtime::Hook;

use crate::error::PlanError;

/// The hooks of one kind; `field` is their place in the configuration.
///
/// # Errors
/// [`PlanError::Invalid`] for a relative path, a timeout of 0, or an environment that is none.
pub fn hooks(field: &'static str, given: &Option<Vec<Hook>>) -> Result<Vec<HookPlan>, PlanError> {
    given
        .iter()
        .flatten()
        .map(|hook| one(field, hook))
        .collect()
}

fn one(field: &'static str, hook: &Hook) -> Result<HookPlan, PlanError> {
    let path = hook.path();
    if !path.is_absolute() {
        let reason = "the path of a hook must be absolute";
        return Err(PlanError::invalid(field, path.display(), reason));
    }
    let timeout_ms = match hook.timeout() {
        None => 0,
        Some(seconds) => u64::try_from(seconds)
            .ok()
            .filter(|&seconds| seconds > 0)
            .and_then(|seconds| seconds.checked_mul(1000))
            .ok_or_else(|| PlanError::invalid(field, seconds, "a timeout is above 0 seconds"))?,
    };
    let strings = |strings: &Option<Vec<String>>| -> Vec<Vec<u8>> {
        let strings = strings.iter().flatten();
        strings.map(|text| text.clone().into_bytes()).collect()
    };
    for pair in hook.env().iter().flatten() {
        if pair.find('=').is_none_or(|at| at == 0) {
            return Err(PlanError::invalid(field, pair, "expected NAME=value"));
        }
    }
    let plan = HookPlan {
        path: path.as_os_str().as_encoded_bytes().to_vec(),
        args: strings(hook.args()),
        env: strings(hook.env()),
        timeout_ms,
    };
    let all = plan.args.iter().chain(&plan.env).chain([&plan.path]);
    if all.into_iter().any(|text| text.contains(&0)) {
        return Err(PlanError::invalid(field, path.display(), "contains NUL"));
    }
    Ok(plan)
}
