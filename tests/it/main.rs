//! The integration tests: one binary, a module for each topic.

mod support;

mod architecture;
mod command_line;
mod language;
mod language_laws;
mod plan;
mod registry;
mod output;
mod sandbox;
mod store;
