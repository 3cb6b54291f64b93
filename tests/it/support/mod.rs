//! What the integration tests stand on: an environment of their own, the program under test, and outcomes
//! that print everything when a test fails.

mod env;
mod outcome;

pub(crate) use env::TestEnv;
pub(crate) use outcome::Outcome;
