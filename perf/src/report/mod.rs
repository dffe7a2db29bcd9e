//! Results for people: a table on the terminal, percentile files, one HTML page.

mod compare;
mod hgrm;
mod html;
mod plots;
mod svg;
mod table;

pub(crate) use compare::keys;
pub use compare::{Change, Verdict, changes, changes_to_baseline, comparison};
pub use hgrm::{hgrm, write_hgrm};
pub use html::html;
pub(crate) use table::between;
pub use table::{grid, tables};
