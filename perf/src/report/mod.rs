//! Results for people: tables, percentile files, one HTML page.

mod compare;
mod hgrm;
mod html;
mod layout;
mod plots;
mod svg;
mod table;
mod verdict;

pub(crate) use compare::{Verdict, changes, changes_to_baseline, comparison, keys};
pub(crate) use hgrm::write_hgrm;
pub(crate) use html::html;
pub(crate) use layout::Layout;
pub(crate) use table::{between, tables};
