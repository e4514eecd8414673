//! The CRI's own test suite, `critest`: the images that it wants, and what it
//! said about the agent.

pub mod images;
pub mod report;
