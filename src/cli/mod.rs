//! The command line: words as typed, and what they mean.
