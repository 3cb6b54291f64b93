//! The integration tests: one binary, a module for each topic.

mod support;

mod architecture;
mod build;
mod cache_mounts;
mod chroot;
mod command_line;
mod contexts;
mod copy;
mod cut_off;
mod doctor;
mod examples;
mod explain;
mod hardening;
mod hints;
mod interrupt;
mod language;
mod language_laws;
mod limits;
mod odd_images;
mod output;
mod plan;
mod readme;
mod refusals;
mod registry;
mod remote_cache;
mod rootless;
mod run;
mod sandbox;
mod stat_cache;
mod steps;
mod store;
mod upkeep;
mod warm;
