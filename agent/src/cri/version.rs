//! What this runtime calls itself.

/// Prefix of container ids in a pod's status: never to be changed.
pub(crate) const RUNTIME_NAME: &str = "berth";
/// A kubelet refuses any other.
pub(super) const KUBELET_API: &str = "0.1.0";
/// Of the CRI.
pub(super) const RUNTIME_API: &str = "v1";
/// Of this program.
pub(crate) const VERSION: &str = env!("CARGO_PKG_VERSION");
