//! The part of berthctl's credentials that reads files and names of registries.

#[path = "../../ctl/src/credentials/content.rs"]
mod content;
#[path = "../../ctl/src/credentials/registry.rs"]
mod registry;

pub(crate) use content::Content;
pub(crate) use registry::Registry;
