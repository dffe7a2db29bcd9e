//! The harness: builds hosts in network namespaces, runs traffic between their containers over one
//! path or another, and says what each path really does and costs.
//!
//! - [`testbed`] builds hosts, pods and wires, and removes them however the program ends.

pub mod testbed;
