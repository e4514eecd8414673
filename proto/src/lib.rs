//! The wire schemas of Berth and the code generated from them.
//!
//! `shim` is all that `berth-shim` sees; `cri` and `berth` need the feature
//! `grpc`. The schemas are compiled at build time by `build.rs`, without protoc.

/// The shim protocol: what the agent says to `berth-shim`.
#[allow(
    missing_docs,
    clippy::large_enum_variant,
    reason = "generated; the documentation is in shim.proto"
)]
pub mod shim {
    include!(concat!(env!("OUT_DIR"), "/berth.shim.v1.rs"));

    /// Oldest protocol version that this build speaks.
    pub const PROTOCOL_OLDEST: u32 = 1;
    /// Newest protocol version that this build speaks.
    pub const PROTOCOL_NEWEST: u32 = 1;
    /// Largest message, in bytes, that is sent in a datagram; anything bigger goes by memfd.
    pub const MAX_INLINE: usize = 64 * 1024;
    /// Most descriptors in one message: the kernel's SCM_MAX_FD is 253.
    pub const MAX_SLOTS: usize = 250;

    /// The highest version that both sides speak, if there is one.
    #[must_use]
    pub fn negotiate(oldest: u32, newest: u32) -> Option<u32> {
        let common = newest.min(PROTOCOL_NEWEST);
        (common >= oldest.max(PROTOCOL_OLDEST)).then_some(common)
    }
}

// The nesting is that of the packages, since generated code names its
// neighbours by `super`.
#[cfg(feature = "grpc")]
#[allow(
    clippy::all,
    clippy::pedantic,
    clippy::restriction,
    missing_docs,
    missing_debug_implementations,
    unreachable_pub,
    reason = "generated code"
)]
#[doc(hidden)]
pub mod runtime {
    pub mod v1 {
        include!(concat!(env!("OUT_DIR"), "/runtime.v1.rs"));
    }
}

/// The Kubernetes Container Runtime Interface, `runtime.v1`.
#[cfg(feature = "grpc")]
pub use runtime::v1 as cri;

// The derived Debug would print the credentials.
#[cfg(feature = "grpc")]
impl std::fmt::Debug for cri::AuthConfig {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("AuthConfig")
            .field("username", &self.username)
            .field("server_address", &self.server_address)
            .finish_non_exhaustive()
    }
}

/// What people ask of a node beyond the CRI.
#[cfg(feature = "grpc")]
#[allow(
    clippy::all,
    clippy::pedantic,
    clippy::restriction,
    missing_docs,
    missing_debug_implementations,
    unreachable_pub,
    reason = "generated code"
)]
pub mod berth {
    /// `berth.v1`.
    pub mod v1 {
        include!(concat!(env!("OUT_DIR"), "/berth.v1.rs"));
    }
}

/// The encoded descriptor set of `runtime.v1` and `berth.v1`, for gRPC reflection.
#[cfg(feature = "grpc")]
pub const DESCRIPTORS: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/grpc.fds"));
