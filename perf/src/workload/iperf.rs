use super::{Course, Window, WorkloadError};
use crate::measure::Meter;
use crate::sample::Sample;
use crate::testbed::TestbedError;
use std::time::Duration;

/// One TCP stream of `iperf3`, as a witness that is not ours.
pub(super) fn run(
    course: Course<'_>,
    window: &Window,
    meter: &mut Meter,
) -> Result<Sample, WorkloadError> {
    let address = course.to.address().to_string();
    let mut command = course.to.command("iperf3");
    command.args(["--server", "--one-off", "--forceflush", "--bind", &address]);
    let mut server = course.to.spawn("iperf3", &mut command)?;
    server.wait_for("Server listening", Duration::from_secs(5))?;

    // Whole seconds are all that its clock of intervals knows.
    let seconds = window.measure.as_secs().max(1).to_string();
    let omit = window.warm_up.as_secs().max(1).to_string();
    meter.begin();
    let said = course.from.run(
        "iperf3",
        &["--client", &address, "--time", &seconds, "--omit", &omit, "--json", "--zerocopy"],
    )?;
    meter.end();

    let (seconds, bytes) = received(&said).ok_or_else(|| TestbedError::Command {
        command: "iperf3 --client".to_owned(),
        output: said.clone(),
    })?;
    let mut sample = Sample::new(seconds);
    sample.set("goodput", bytes * 8e-9 / seconds);
    sample.bytes = bytes as u64;
    Ok(sample)
}

fn received(json: &str) -> Option<(f64, f64)> {
    let report: serde_json::Value = serde_json::from_str(json).ok()?;
    let sum = report.get("end")?.get("sum_received")?;
    Some((sum.get("seconds")?.as_f64()?, sum.get("bytes")?.as_f64()?))
}
