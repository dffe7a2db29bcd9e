use crate::guard::Guard;
use crate::{Background, TestbedError};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};
use std::fs::{self, File};
use std::io::{self, Write};
use std::os::fd::AsFd;
use std::os::unix::fs::MetadataExt;
use std::panic;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::thread;

/// Where `ip netns` keeps its names.
pub(super) const NAMESPACES: &str = "/run/netns";

/// Whether devices of this MTU have IPv6: Linux gives it to none below its least (RFC 8200 section
/// 5), and a kernel without it to no device.
#[must_use]
pub fn has_ipv6(mtu: u16) -> bool {
    mtu >= 1280 && fs::exists("/proc/sys/net/ipv6").unwrap_or(false)
}

/// A network namespace with a name that `ip netns` knows.
#[derive(Debug, Clone)]
pub struct Namespace {
    guard: Arc<Guard>,
    name: String,
    label: String,
}

impl Namespace {
    pub(super) fn create(guard: &Arc<Guard>, label: &str) -> Result<Self, TestbedError> {
        let name = format!("{}{label}", guard.prefix());
        run(Command::new("ip").args(["netns", "add", &name]), None)?;
        let namespace = Self { guard: Arc::clone(guard), name, label: label.to_owned() };
        namespace.quieten()?;
        namespace.ip("link set lo up")?;
        Ok(namespace)
    }

    /// Another namespace of the same test bed.
    pub(super) fn sibling(&self, label: &str) -> Result<Self, TestbedError> {
        Self::create(&self.guard, label)
    }

    /// No packet that nobody asked for: IPv6 without link-local addresses, duplicate address
    /// detection and router solicitations. Holds for devices made later too, TUN devices included.
    fn quieten(&self) -> Result<(), TestbedError> {
        for (key, value) in [
            ("net.ipv4.conf.all.rp_filter", "0"),
            ("net.ipv4.conf.default.rp_filter", "0"),
            ("net.ipv6.conf.default.accept_dad", "0"),
            ("net.ipv6.conf.default.accept_ra", "0"),
            ("net.ipv6.conf.default.router_solicitations", "0"),
            ("net.ipv6.conf.default.addr_gen_mode", "1"),
        ] {
            match self.sysctl(key, value) {
                // A kernel without IPv6 is quiet.
                Err(_) if key.starts_with("net.ipv6") => {}
                other => other?,
            }
        }
        Ok(())
    }

    /// The name that `ip netns exec` takes.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The short name, unique within the test bed.
    #[must_use]
    pub fn label(&self) -> &str {
        &self.label
    }

    /// A command that runs inside. Its process number is the program's own.
    #[must_use]
    pub fn command(&self, program: impl AsRef<std::ffi::OsStr>) -> Command {
        let mut command = Command::new("ip");
        command.args(["netns", "exec", &self.name]).arg(program);
        command
    }

    /// Runs a program inside to its end and returns what it printed.
    ///
    /// # Errors
    /// When it cannot be started or ends with an error; the message has its output.
    pub fn run(&self, program: &str, args: &[&str]) -> Result<String, TestbedError> {
        run(self.command(program).args(args), None)
    }

    /// Runs `ip` commands inside, one a line.
    ///
    /// # Errors
    /// When one of them fails; those before it stay in effect.
    pub fn ip(&self, lines: &str) -> Result<(), TestbedError> {
        let mut command = Command::new("ip");
        run(command.args(["-n", &self.name, "-batch", "-"]), Some(lines)).map(drop)
    }

    /// Starts a program inside that runs until it is stopped or dropped; its output is kept.
    /// `command` comes from [`Namespace::command`].
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn spawn(&self, name: &str, command: &mut Command) -> Result<Background, TestbedError> {
        let log = self.guard.folder().join(format!("{}-{name}.log", self.label));
        Background::start(name, command, log)
    }

    /// Runs a closure inside, on a thread of its own, and returns what it returns. Sockets made
    /// there stay inside. A panic goes on in the caller.
    pub fn enter<T: Send>(&self, work: impl FnOnce() -> T + Send) -> T {
        thread::scope(|scope| {
            let inside = scope.spawn(|| {
                self.join().expect("the namespace exists as long as its handle");
                work()
            });
            inside.join().unwrap_or_else(|panic| panic::resume_unwind(panic))
        })
    }

    /// Moves the calling thread inside, for good.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn join(&self) -> io::Result<()> {
        let namespace = File::open(format!("{NAMESPACES}/{}", self.name))?;
        move_into_link_name_space(namespace.as_fd(), Some(LinkNameSpaceType::Network))?;
        Ok(())
    }

    /// Sets a kernel parameter, `net.ipv4.ip_forward` for one. A device's name in the key may not
    /// hold dots.
    ///
    /// # Errors
    /// When the kernel has no such parameter or refuses the value.
    pub fn sysctl(&self, key: &str, value: &str) -> Result<(), TestbedError> {
        let path = format!("/proc/sys/{}", key.replace('.', "/"));
        // /proc/sys/net shows the namespace of the thread that looks.
        self.enter(|| fs::write(&path, value))
            .map_err(TestbedError::io(format!("setting {key} to {value}")))
    }

    /// Joins this namespace and another by a pair of veth devices, both up.
    ///
    /// # Errors
    /// When `ip` fails.
    pub fn link(
        &self,
        device: &str,
        other: &Self,
        other_device: &str,
        mtu: u16,
    ) -> Result<(), TestbedError> {
        let there = &other.name;
        self.ip(&format!(
            "link add {device} mtu {mtu} type veth peer name {other_device} mtu {mtu} netns {there}
             link set {device} up"
        ))?;
        other.ip(&format!("link set {other_device} up"))
    }

    /// The processes whose main thread is inside.
    #[must_use]
    pub fn processes(&self) -> Vec<u32> {
        let Ok(own) = fs::metadata(format!("{NAMESPACES}/{}", self.name)) else {
            return Vec::new();
        };
        let Ok(all) = fs::read_dir("/proc") else {
            return Vec::new();
        };
        all.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok())
            .filter(|pid: &u32| {
                fs::metadata(format!("/proc/{pid}/ns/net"))
                    .is_ok_and(|net| (net.dev(), net.ino()) == (own.dev(), own.ino()))
            })
            .collect()
    }
}

/// Runs a command to its end, with `input`, and returns its output.
fn run(command: &mut Command, input: Option<&str>) -> Result<String, TestbedError> {
    let line = command_line(command);
    let mut child = command
        .stdin(if input.is_some() { Stdio::piped() } else { Stdio::null() })
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(TestbedError::io(format!("starting `{line}`")))?;
    if let (Some(text), Some(mut stdin)) = (input, child.stdin.take()) {
        // A command that ends early closes its input; its status tells why.
        let _ = stdin.write_all(text.as_bytes());
    }
    let output =
        child.wait_with_output().map_err(TestbedError::io(format!("waiting for `{line}`")))?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    if output.status.success() {
        return Ok(text);
    }
    let said = format!("{}{text}", String::from_utf8_lossy(&output.stderr));
    let command = match input {
        Some(input) => format!("{line}` with `{}", input.trim()),
        None => line,
    };
    Err(TestbedError::Command { command, output: said.trim().to_owned() })
}

fn command_line(command: &Command) -> String {
    let mut line = command.get_program().to_string_lossy().into_owned();
    for arg in command.get_args() {
        line.push(' ');
        line.push_str(&arg.to_string_lossy());
    }
    line
}
