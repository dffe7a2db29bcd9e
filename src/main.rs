//! twill: parse, resolve, run.

fn main() {}
