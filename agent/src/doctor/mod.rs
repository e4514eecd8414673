//! `doctor`: whether this machine can run containers well, and what is on it that
//! nobody owns.

mod boot;
mod command;
mod host;

use std::sync::Arc;

use berth_proto::berth::v1;

use crate::{
    error::Result,
    image,
    node::Node,
    recovery::stray::{self, Stray},
};

pub(crate) use command::run as run_command;

/// How a check came out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// As it should be.
    Ok,
    /// Works, with something missing or at risk.
    Warn,
    /// Containers cannot run, or not safely.
    Fail,
}

impl Verdict {
    /// OK, WARN or FAIL.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Ok => "OK",
            Self::Warn => "WARN",
            Self::Fail => "FAIL",
        }
    }
}

/// One thing that was looked at.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Check {
    /// Stable, such as `cgroup`.
    pub(crate) name: &'static str,
    pub(crate) verdict: Verdict,
    /// What was found.
    pub(crate) found: String,
    /// What to do about it; empty if nothing is.
    pub(crate) remedy: String,
}

impl Check {
    fn ok(name: &'static str, found: impl Into<String>) -> Self {
        Self {
            name,
            verdict: Verdict::Ok,
            found: found.into(),
            remedy: String::new(),
        }
    }

    fn not_ok(
        name: &'static str,
        verdict: Verdict,
        found: impl Into<String>,
        remedy: impl Into<String>,
    ) -> Self {
        Self {
            name,
            verdict,
            found: found.into(),
            remedy: remedy.into(),
        }
    }
}

/// A stray, and what came of undoing it.
#[derive(Clone, Debug)]
pub(crate) struct Finding {
    pub(crate) stray: Stray,
    /// It was undone.
    pub(crate) undone: bool,
    /// Why it could not be; empty if it was not tried.
    pub(crate) error: String,
}

/// Everything that doctor has to say.
#[derive(Clone, Debug, Default)]
pub(crate) struct Report {
    pub(crate) checks: Vec<Check>,
    pub(crate) findings: Vec<Finding>,
}

/// Looks at host and node; with `fix`, undoes what nobody owns. `serving`: whether this
/// is the agent that serves, which looks after the network too.
///
/// # Errors
/// Internal if the ledger cannot be read.
pub(crate) async fn examine(node: &Arc<Node>, fix: bool, serving: bool) -> Result<Report> {
    let at = host::Facts::of(node, serving);
    let checks = crate::node::blocking("look at the host", move || Ok(host::checks(&at))).await?;
    let mut findings = Vec::new();
    for stray in stray::find(node).await? {
        let mut finding = Finding {
            stray,
            undone: false,
            error: String::new(),
        };
        if fix {
            match stray::undo(node, &finding.stray).await {
                Ok(()) => finding.undone = true,
                Err(error) => finding.error = error.sentence(),
            }
        }
        findings.push(finding);
    }
    if fix {
        // Layers and blobs are the image store's own to judge.
        image::collect(node).await?;
    }
    Ok(Report { checks, findings })
}

impl From<Report> for v1::DoctorResponse {
    fn from(report: Report) -> Self {
        Self {
            checks: report
                .checks
                .into_iter()
                .map(|check| v1::HostCheck {
                    name: check.name.to_owned(),
                    verdict: check.verdict.name().to_owned(),
                    found: check.found,
                    remedy: check.remedy,
                })
                .collect(),
            strays: report
                .findings
                .into_iter()
                .map(|finding| v1::Stray {
                    plan: finding.stray.plan(),
                    kind: finding.stray.kind.to_owned(),
                    owner: finding.stray.owner,
                    place: finding.stray.place,
                    age: finding.stray.age,
                    bytes: finding.stray.bytes,
                    undone: finding.undone,
                    error: finding.error,
                })
                .collect(),
        }
    }
}
