//! What images are called: references, digests, platforms.
//!
//! All of it comes from people, registries and archives, so each has a type
//! that only a validated value can have.

mod digest;
mod platform;
mod reference;

pub use digest::{Algorithm, Digest, DigestError, Hasher};
pub use platform::Platform;
pub use reference::{Reference, ReferenceError};
