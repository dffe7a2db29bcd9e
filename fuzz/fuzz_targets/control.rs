//! Fuzzes lines from clients of the control socket.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| twill_fuzz::control(data));
