//! The numbers inside a running gateway, and the ways to read them.
