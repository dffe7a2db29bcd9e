//! Fuzzes joining packets.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| twill_fuzz::coalesce(data));
