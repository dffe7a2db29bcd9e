//! The harness: builds hosts in network namespaces, sends traffic between their containers over
//! several paths, and reports what each path carries and costs.
//!
//! - [`twill_testbed`] builds hosts, pods and wires, and removes them however the program ends.
//! - [`path`] joins the pods: by the kernel, by twill, or by a gateway that the user brings.
//! - [`workload`] generates traffic and accounts for every packet.
//! - `measure` reads from kernel counters what a run cost and where packets were lost; `books`
//!   reads the status of a twill.
//! - [`sample`] holds the numbers of one run, `metric` says what each of them means.
//! - `experiment` interleaves runs in rounds; [`results`] stores them with their `environment`;
//!   `stats` computes medians, intervals and ratios.
//! - `report` writes tables, percentile files and one HTML page.
//! - `soak` keeps gateways under load for hours while faults come from a plan.
//! - `targets` compares results with required numbers.

// Printing panics when the reader goes away: `cli::output` is the one place that prints.
#![warn(clippy::print_stdout, clippy::print_stderr)]

mod books;
pub mod cli;
mod environment;
mod experiment;
mod measure;
mod metric;
pub mod path;
mod report;
pub mod results;
pub mod sample;
mod soak;
mod stats;
mod sys;
mod targets;
pub mod workload;
