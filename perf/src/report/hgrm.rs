//! Percentile files for HdrHistogram's plotter.

use crate::results::Results;
use crate::workload::Workload;
use hdrhistogram::Histogram;
use std::fmt::Write as _;
use std::path::Path;
use std::{fs, io};

/// Steps in each half of the distance to 100 %, as HdrHistogram's own tools write them.
const STEPS: u32 = 5;

/// A histogram of nanoseconds in the format of HdrHistogram's plotter, in microseconds.
pub(crate) fn hgrm(times: &Histogram<u64>) -> String {
    let mut text = format!(
        "{:>12} {:>14} {:>10} {:>14}\n\n",
        "Value", "Percentile", "TotalCount", "1/(1-Percentile)"
    );
    let mut total = 0;
    for step in times.iter_quantiles(STEPS) {
        total += step.count_since_last_iteration();
        let value = step.value_iterated_to() as f64 * 1e-3;
        let quantile = step.quantile_iterated_to();
        let _ = write!(text, "{value:12.3} {quantile:1.12} {total:>10}");
        if quantile < 1.0 {
            let _ = write!(text, " {:14.2}", 1.0 / (1.0 - quantile));
        }
        text.push('\n');
    }
    let us = |ns: f64| ns * 1e-3;
    let _ = writeln!(
        text,
        "#[Mean    = {:12.3}, StdDeviation   = {:12.3}]\n#[Max     = {:12.3}, Total count    = \
         {:>12}]\n#[Buckets = {:>12}, SubBuckets     = {:>12}]",
        us(times.mean()),
        us(times.stdev()),
        us(times.max() as f64),
        times.len(),
        26,
        2048
    );
    text
}

/// Writes one file for each wire, workload and path that timed something; returns how many.
///
/// # Errors
/// When the folder or a file cannot be written.
pub(crate) fn write_hgrm(results: &Results, folder: &Path) -> io::Result<usize> {
    fs::create_dir_all(folder)?;
    let mut written = 0;
    for cell in &results.cells {
        let timed = if cell.workload.parse().is_ok_and(|workload: Workload| workload.is_timed()) {
            "rtt"
        } else {
            "one_way"
        };
        if let Some(times) = cell.times(timed) {
            let name = format!("{}-{}-{}.hgrm", cell.wire, cell.workload, cell.path);
            let name = name.replace(['/', ':', ','], "_");
            fs::write(folder.join(name), hgrm(&times))?;
            written += 1;
        }
    }
    Ok(written)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sample::histogram;

    #[test]
    fn the_last_line_of_numbers_is_the_maximum_of_all() {
        let mut times = histogram();
        for us in 1..=1000 {
            times.record(us * 1000).unwrap();
        }

        let text = hgrm(&times);

        let last = text.lines().rfind(|line| !line.starts_with('#')).unwrap();
        let fields: Vec<_> = last.split_whitespace().collect();
        assert_eq!(fields[1..], ["1.000000000000", "1000"]);
        assert!((fields[0].parse::<f64>().unwrap() - 1000.0).abs() < 2.0, "{last}");
    }
}
