//! Asking a gateway, and printing numbers and text for people.

use super::Outcome;
use crate::control::{Request, call};
use crate::telemetry::status::{GatewayStatus, Histograms};
use std::path::Path;

/// Asks a gateway for its numbers.
pub(super) fn status(socket: &Path) -> Result<GatewayStatus, Box<dyn std::error::Error>> {
    Ok(serde_json::from_value(call(socket, Request::Status)?)?)
}

/// Asks a gateway for its histograms.
pub(super) fn histograms(socket: &Path) -> Result<Histograms, Box<dyn std::error::Error>> {
    Ok(serde_json::from_value(call(socket, Request::Histograms)?)?)
}

/// Prints to standard output. A reader that has closed the pipe is no error.
pub(super) fn print(text: &str) -> Outcome {
    Ok(twill_shell::print(text)?)
}

/// Bytes with three digits and a binary prefix: `1.21 GiB`.
pub(super) fn bytes(bytes: u64) -> String {
    scaled(bytes as f64, 1024.0, &["B", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB"])
}

/// A count with three digits and a decimal prefix: `12.3 M`.
pub(super) fn count(count: f64) -> String {
    let text = scaled(count, 1000.0, &["", "k", "M", "G", "T", "P", "E"]);
    text.trim_end().to_owned()
}

/// A rate of bits: `9.41 Gbit/s`.
pub(super) fn bits_per_second(rate: f64) -> String {
    scaled(rate, 1000.0, &["bit/s", "kbit/s", "Mbit/s", "Gbit/s", "Tbit/s"])
}

/// A duration in a fitting unit: `12.3 µs`.
pub(super) fn time_ns(time_ns: u64) -> String {
    scaled(time_ns as f64, 1000.0, &["ns", "µs", "ms", "s"])
}

/// A long duration, in its two largest units: `3h 12m`.
pub(super) fn age(seconds: f64) -> String {
    let seconds = seconds.max(0.0) as u64;
    match seconds {
        0..60 => format!("{seconds}s"),
        60..3600 => format!("{}m {}s", seconds / 60, seconds % 60),
        3600..86_400 => format!("{}h {}m", seconds / 3600, seconds % 3600 / 60),
        _ => format!("{}d {}h", seconds / 86_400, seconds % 86_400 / 3600),
    }
}

fn scaled(mut value: f64, step: f64, units: &[&str]) -> String {
    let mut unit = 0;
    // A value that would round up to 1 of the next unit is shown in that unit.
    while value.abs() >= step - 0.5 && unit + 1 < units.len() {
        value /= step;
        unit += 1;
    }
    let unit_name = units[unit];
    let digits = match value.abs() {
        _ if unit == 0 && value.fract() == 0.0 => 0,
        ..9.995 => 2,
        ..99.95 => 1,
        _ => 0,
    };
    format!("{value:.digits$} {unit_name}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_have_three_digits_and_a_fitting_unit() {
        assert_eq!(bytes(0), "0 B");
        assert_eq!(bytes(1023), "1023 B");
        assert_eq!(bytes(1024), "1.00 KiB");
        assert_eq!(bytes(1_300_000_000), "1.21 GiB");
        assert_eq!(bytes(u64::MAX), "16.0 EiB");
        assert_eq!(count(999.0), "999");
        assert_eq!(count(12_345_678.0), "12.3 M");
        assert_eq!(count(0.5), "0.50");
        assert_eq!(bits_per_second(9_412_000_000.0), "9.41 Gbit/s");
        assert_eq!(time_ns(999), "999 ns");
        assert_eq!(time_ns(12_345), "12.3 µs");
        assert_eq!(time_ns(999_999), "1.00 ms");
        assert_eq!(time_ns(60_000_000_000), "60.0 s");
    }

    #[test]
    fn ages_have_two_units() {
        assert_eq!(age(0.4), "0s");
        assert_eq!(age(61.0), "1m 1s");
        assert_eq!(age(3.0 * 3600.0 + 720.0), "3h 12m");
        assert_eq!(age(400_000.0), "4d 15h");
    }
}
