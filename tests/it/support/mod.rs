//! What the integration tests stand on: an environment of their own, the program under test, and outcomes
//! that print everything when a test fails.

mod actions_cache;
mod counting_proxy;
mod env;
mod fake_registry;
mod outcome;
mod program;

pub(crate) use actions_cache::ActionsCache;
pub(crate) use counting_proxy::{CountingProxy, Passed};
pub(crate) use env::{TestEnv, copy};
pub(crate) use fake_registry::{FakeRegistry, Fault, Received, Wants};
pub(crate) use outcome::Outcome;
pub(crate) use program::compile;
