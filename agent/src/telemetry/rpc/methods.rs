//! The methods that exist. A path comes from the client, so that only what is
//! in the schema becomes a label or the name of a span.

use std::{collections::HashSet, sync::LazyLock};

use prost::Message;

/// What every other path is called.
pub(super) const OTHER: &str = "other";

/// `package.Service/Method` of the call to `path`, or [`OTHER`].
pub(super) fn method(path: &str) -> &'static str {
    let wanted = path.strip_prefix('/').unwrap_or_default();
    METHODS.get(wanted).copied().unwrap_or(OTHER)
}

static METHODS: LazyLock<HashSet<&'static str>> = LazyLock::new(|| {
    // Health and reflection stay "other": they are none of the agent's work.
    let files = FileDescriptorSet::decode(berth_proto::DESCRIPTORS).unwrap_or_default();
    let mut all = HashSet::new();
    for file in files.file {
        for service in &file.service {
            for method in &service.method {
                let name = format!("{}.{}/{}", file.package, service.name, method.name);
                // Once per process, and needed until its end.
                all.insert(&*name.leak());
            }
        }
    }
    all
});

/// The little of `google/protobuf/descriptor.proto` that is needed.
#[derive(Clone, PartialEq, Message)]
struct FileDescriptorSet {
    #[prost(message, repeated, tag = "1")]
    file: Vec<FileDescriptor>,
}

#[derive(Clone, PartialEq, Message)]
struct FileDescriptor {
    #[prost(string, tag = "2")]
    package: String,
    #[prost(message, repeated, tag = "6")]
    service: Vec<ServiceDescriptor>,
}

#[derive(Clone, PartialEq, Message)]
struct ServiceDescriptor {
    #[prost(string, tag = "1")]
    name: String,
    #[prost(message, repeated, tag = "2")]
    method: Vec<MethodDescriptor>,
}

#[derive(Clone, PartialEq, Message)]
struct MethodDescriptor {
    #[prost(string, tag = "1")]
    name: String,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn methods_of_the_schema_have_names_and_nothing_else_has() {
        assert_eq!(
            method("/runtime.v1.RuntimeService/RunPodSandbox"),
            "runtime.v1.RuntimeService/RunPodSandbox"
        );
        assert_eq!(
            method("/runtime.v1.ImageService/PullImage"),
            "runtime.v1.ImageService/PullImage"
        );
        assert!(METHODS.iter().any(|name| name.starts_with("berth.v1.")));
        for strange in [
            "",
            "/",
            "runtime.v1.RuntimeService/RunPodSandbox",
            "//runtime.v1.RuntimeService/RunPodSandbox",
            "/runtime.v1.RuntimeService/0123456789abcdef",
            "/grpc.health.v1.Health/Check",
        ] {
            assert_eq!(method(strange), OTHER, "{strange}");
        }
    }
}
