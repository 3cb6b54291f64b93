//! The command line: help, refusals and exit codes.
