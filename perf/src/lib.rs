//! The harness: builds hosts in network namespaces, runs traffic between their containers over one
//! path or another, and says what each path really does and costs.
//!
//! - [`twill_testbed`] builds hosts, pods and wires, and removes them however the program ends.
//! - [`path`] is what joins the pods: the kernel, twill, or a gateway that the user brings.
//! - [`workload`] is the traffic: generators and sinks that account for every packet.
//! - [`measure`] reads what a run cost and where it lost, from the kernel's books; [`books`] what a
//!   twill says of itself.
//! - [`sample`] holds the numbers of one run, [`metric`] says what each of them means.
//! - [`experiment`] interleaves runs in rounds; [`results`] keeps them with the [`environment`] they
//!   were made in; [`stats`] makes medians, intervals and ratios of them.
//! - [`report`] shows results: tables, percentile files, one HTML page.
//! - [`targets`] compares them with what must be reached, or with what was.

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
mod stats;
mod sys;
mod targets;
pub mod workload;
