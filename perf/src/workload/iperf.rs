//! Bulk TCP by iperf3, to check the own generator.

use super::{Course, Window, WorkloadError};
use crate::measure::Meter;
use crate::sample::Sample;
use std::thread;
use std::time::Duration;
use twill_testbed::{Background, TestbedError};

/// The server's mark for a second that it leaves out.
const OMITTED: &str = "(omitted)";
/// How long it may take to start, to connect and to exchange its results.
const CONNECT: Duration = Duration::from_secs(5);

/// One TCP stream of `iperf3`.
pub(super) fn run(
    course: Course<'_>,
    window: &Window,
    meter: &mut Meter,
) -> Result<Sample, WorkloadError> {
    let address = course.to.address().to_string();
    let mut command = course.to.command("iperf3");
    command.args(["--server", "--one-off", "--forceflush", "--bind", &address]);
    let mut server = course.to.spawn("iperf3", &mut command)?;
    server.wait_for("Server listening", CONNECT)?;

    // Whole seconds are all that its clock of intervals knows.
    let measure = Duration::from_secs(window.measure.as_secs().max(1));
    let omit = Duration::from_secs(window.warm_up.as_secs().max(1));
    let [time, omitted] = [measure, omit].map(|time| time.as_secs().to_string());
    let mut command = course.from.command("iperf3");
    command.args(["--client", &address, "--time", &time, "--omit", &omitted]);
    command.args(["--json", "--zerocopy"]);
    let mut client = course.from.spawn("iperf3", &mut command)?;

    // What it leaves out must not cost either: a line for each such second, when that is over. A
    // client that ended has said why.
    let over = |server: &Background| {
        let seconds = server.log().matches(OMITTED).count() as u64;
        seconds >= omit.as_secs() || client.ended().is_some()
    };
    server.wait_until("end of its warm-up", CONNECT + omit, over)?;
    meter.begin();
    thread::sleep(measure);
    meter.end();
    client.finish(CONNECT)?;

    let said = client.log();
    let (seconds, bytes) = received(&said).ok_or_else(|| TestbedError::Command {
        command: "iperf3 --client".to_owned(),
        output: said,
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
