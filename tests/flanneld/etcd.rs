//! An etcd server, and what an administrator does with it.

use rustix::process::Signal;
use std::fs;
use std::net::TcpStream;
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;
use twill_testbed::{Background, Namespace, Testbed, within};

/// Where all keys of these tests are.
pub(crate) const PREFIX: &str = "/coreos.com/network";

/// How a server is reached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Transport {
    Plain,
    /// Server and client certificates, made by [`Etcd::start`] in the test bed's folder.
    Tls,
}

pub(crate) struct Etcd {
    namespace: Namespace,
    address: String,
    port: u16,
    transport: Transport,
    folder: PathBuf,
    user: Option<(String, String)>,
    /// Further flags of the server.
    flags: Vec<String>,
    process: Option<Background>,
    starts: u32,
}

impl Etcd {
    /// Starts a server in a namespace that has this address.
    pub(crate) fn start(
        bed: &Testbed,
        namespace: &Namespace,
        address: &str,
        transport: Transport,
    ) -> Self {
        let folder = bed.folder().join(format!("etcd-{}", namespace.label()));
        fs::create_dir_all(&folder).unwrap();
        let mut etcd = Self {
            namespace: namespace.clone(),
            address: address.to_owned(),
            port: 2379,
            transport,
            folder,
            user: None,
            flags: Vec::new(),
            process: None,
            starts: 0,
        };
        if transport == Transport::Tls {
            etcd.make_certificates();
        }
        etcd.run();
        etcd
    }

    /// A namespace with nothing but a server.
    pub(crate) fn alone(bed: &Testbed) -> (Namespace, Self) {
        let namespace = bed.namespace("etcd").unwrap();
        let etcd = Self::start(bed, &namespace, "127.0.0.1", Transport::Plain);
        (namespace, etcd)
    }

    pub(crate) fn endpoint(&self) -> String {
        let scheme = if self.transport == Transport::Tls { "https" } else { "http" };
        format!("{scheme}://{}:{}", self.address, self.port)
    }

    /// A file of the certificates: `ca.pem`, `client.pem`, `client.key`.
    pub(crate) fn file(&self, name: &str) -> String {
        self.folder.join(name).display().to_string()
    }

    pub(crate) fn run(&mut self) {
        self.spawn();
        until("etcd's answer", || self.try_ctl(&["get", "x"]).is_ok());
    }

    fn spawn(&mut self) {
        self.starts += 1;
        let mut command = self.namespace.command(server());
        let data = self.folder.join("data");
        let url = self.endpoint();
        command.arg("--data-dir").arg(data).args(["--logger", "zap", "--log-level", "error"]);
        command.args(["--listen-client-urls", &url, "--advertise-client-urls", &url]);
        command.args(["--listen-peer-urls", "http://127.0.0.1:2380"]);
        command.args(["--heartbeat-interval", "100", "--election-timeout", "1000"]);
        if self.transport == Transport::Tls {
            command.args(["--cert-file", &self.file("server.pem")]);
            command.args(["--key-file", &self.file("server.key")]);
            command.args(["--trusted-ca-file", &self.file("ca.pem"), "--client-cert-auth"]);
        }
        command.args(&self.flags);
        let process = self.namespace.spawn(&format!("etcd{}", self.starts), &mut command).unwrap();
        self.process = Some(process);
    }

    /// Runs it for a while where none of its usual clients looks for it.
    pub(crate) fn run_out_of_sight(&mut self, work: impl FnOnce(&Self)) {
        self.port += 1000;
        self.run();
        work(self);
        self.kill();
        self.port -= 1000;
        self.run();
    }

    /// Gives out JSON Web Tokens from now on, each for ten minutes.
    pub(crate) fn use_json_web_tokens(&mut self) {
        let script =
            "openssl genrsa -out jwt.key 2048; openssl rsa -in jwt.key -pubout -out jwt.pub";
        let folder = self.folder.display().to_string();
        let command = format!("cd {folder}; {script}");
        self.namespace.run("sh", &["-c", &command]).unwrap();
        let keys = format!("pub-key={0}/jwt.pub,priv-key={0}/jwt.key", folder);
        self.flags = vec![format!("--auth-token=jwt,{keys},sign-method=RS256,ttl=10m")];
        self.kill();
        self.run();
    }

    /// Runs a script in the folder of the certificates; `$IP` is the server's address.
    pub(crate) fn script(&self, script: &str) {
        let folder = self.folder.display().to_string();
        let script = format!("set -e; cd {folder}; IP={}; {script}", self.address);
        self.namespace.run("sh", &["-c", &script]).unwrap();
    }

    /// Serves with certificates that a script makes: `server`, `client` and `ca`. Go's client, etcdctl,
    /// must take them.
    pub(crate) fn use_certificates(&mut self, script: &str) {
        self.script(script);
        self.kill();
        self.run();
    }

    /// Serves with certificates that Go's client must not take.
    pub(crate) fn use_unusable_certificates(&mut self, script: &str) {
        self.script(script);
        self.kill();
        self.spawn();
        let to = format!("{}:{}", self.address, self.port);
        until("a server", || self.namespace.enter(|| TcpStream::connect(&to).is_ok()));
        assert!(self.try_ctl(&["get", "x"]).is_err(), "etcdctl takes them");
    }

    /// Makes new certificates of a new authority in the places of the old ones, and uses them.
    pub(crate) fn renew_certificates(&mut self) {
        self.make_certificates();
        self.kill();
        self.run();
    }

    /// Starts a member beside it that only learns; its process and its endpoint.
    pub(crate) fn with_learner(&self) -> (Background, String) {
        let (peer, url) = ("http://127.0.0.1:3380", format!("http://{}:3379", self.address));
        self.ctl(&["member", "add", "learner", "--learner", "--peer-urls", peer]);
        let members = format!("default=http://localhost:2380,learner={peer}");
        let mut command = self.namespace.command(server());
        command.args(["--name", "learner", "--data-dir"]).arg(self.folder.join("learner"));
        command.args(["--listen-client-urls", &url, "--advertise-client-urls", &url]);
        command.args(["--listen-peer-urls", peer, "--initial-advertise-peer-urls", peer]);
        command.args(["--initial-cluster", &members, "--initial-cluster-state", "existing"]);
        (self.beside("learner", &mut command, 3379), url)
    }

    /// Starts etcd's own proxy before it, one that refuses frequent pings; its process and its endpoint.
    pub(crate) fn with_proxy(&self) -> (Background, String) {
        let listen = format!("{}:3379", self.address);
        let mut command = self.namespace.command(server());
        command.args(["grpc-proxy", "start", "--endpoints", &self.endpoint()]);
        command.args(["--listen-addr", &listen]);
        if let Some(flag) = rarest_pings() {
            command.arg(flag);
        }
        (self.beside("proxy", &mut command, 3379), format!("http://{listen}"))
    }

    fn beside(&self, name: &str, command: &mut Command, port: u16) -> Background {
        let process = self.namespace.spawn(name, command).unwrap();
        let to = format!("{}:{port}", self.address);
        until(name, || self.namespace.enter(|| TcpStream::connect(&to).is_ok()));
        process
    }

    /// Ends it without warning.
    pub(crate) fn kill(&mut self) {
        self.process = None;
    }

    /// Removes all its data, as if the disk had been replaced.
    pub(crate) fn wipe(&mut self) {
        self.kill();
        fs::remove_dir_all(self.folder.join("data")).unwrap();
    }

    pub(crate) fn freeze(&self) {
        self.process.as_ref().unwrap().freeze().unwrap();
    }

    pub(crate) fn thaw(&self) {
        self.process.as_ref().unwrap().signal(Signal::CONT).unwrap();
    }

    /// Demands a password from now on; etcdctl has it.
    pub(crate) fn demand_password(&mut self, user: &str, password: &str) {
        self.ctl(&["user", "add", &format!("{user}:{password}")]);
        self.ctl(&["user", "grant-role", user, "root"]);
        self.ctl(&["auth", "enable"]);
        self.user = Some((user.to_owned(), password.to_owned()));
    }

    pub(crate) fn ctl(&self, args: &[&str]) -> String {
        self.try_ctl(args).unwrap()
    }

    fn try_ctl(&self, args: &[&str]) -> Result<String, twill_testbed::TestbedError> {
        let endpoints = format!("--endpoints={}", self.endpoint());
        let mut all = vec!["ETCDCTL_API=3", "etcdctl", "--command-timeout=3s", &endpoints];
        let (ca, cert, key) = (
            format!("--cacert={}", self.file("ca.pem")),
            format!("--cert={}", self.file("client.pem")),
            format!("--key={}", self.file("client.key")),
        );
        if self.transport == Transport::Tls {
            all.extend([ca.as_str(), &cert, &key]);
        }
        let user = self.user.as_ref().map(|(name, password)| format!("--user={name}:{password}"));
        all.extend(user.as_deref());
        all.extend(args);
        self.namespace.run("env", &all)
    }

    /// The network's configuration.
    pub(crate) fn configure(&self, json: &str) {
        self.ctl(&["put", &format!("{PREFIX}/config"), json]);
    }

    pub(crate) fn put_lease(&self, subnet: &str, value: &str) {
        self.ctl(&["put", &lease_key(subnet), value]);
    }

    pub(crate) fn put_peer(&self, subnet: &str, public_ip: &str) {
        self.put_lease(subnet, &lease_value(public_ip));
    }

    pub(crate) fn delete_lease(&self, subnet: &str) {
        self.ctl(&["del", &lease_key(subnet)]);
    }

    /// A lease's value, if the key is there.
    pub(crate) fn lease(&self, subnet: &str) -> Option<String> {
        let value = self.ctl(&["get", "--print-value-only", &lease_key(subnet)]);
        let value = value.strip_suffix('\n').unwrap_or(&value);
        (!value.is_empty()).then(|| value.to_owned())
    }

    /// A field of a lease's key: `Lease`, `ModRevision`, …
    pub(crate) fn lease_field(&self, subnet: &str, field: &str) -> i64 {
        let fields = self.ctl(&["get", "-w", "fields", &lease_key(subnet)]);
        let line = fields.lines().find_map(|line| line.strip_prefix(&format!("\"{field}\" : ")));
        line.unwrap_or_else(|| panic!("{field} in {fields}")).parse().unwrap()
    }

    /// All leases' subnets, in order.
    pub(crate) fn subnets(&self) -> Vec<String> {
        let keys = self.ctl(&["get", "--prefix", "--keys-only", &format!("{PREFIX}/subnets/")]);
        let names = keys.lines().filter_map(|key| key.rsplit('/').next());
        names.filter(|name| !name.is_empty()).map(|name| name.replace('-', "/")).collect()
    }

    /// Forgets all revisions before now.
    pub(crate) fn compact(&self) {
        let status = self.ctl(&["get", "-w", "fields", "x"]);
        let line = status.lines().find_map(|line| line.strip_prefix("\"Revision\" : "));
        self.ctl(&["compaction", line.unwrap()]);
    }

    fn make_certificates(&self) {
        let script = r#"
            set -e; cd "$1"
            openssl req -x509 -newkey rsa:2048 -nodes -keyout ca.key -out ca.pem -days 2 -subj /CN=ca
            for name in server client; do
                openssl req -newkey rsa:2048 -nodes -keyout $name.key -out $name.csr -subj /CN=$name
                printf 'subjectAltName=IP:%s\nextendedKeyUsage=serverAuth,clientAuth\n' "$2" >ext
                openssl x509 -req -in $name.csr -CA ca.pem -CAkey ca.key -CAcreateserial \
                    -days 2 -extfile ext -out $name.pem
            done"#;
        let folder = self.folder.display().to_string();
        self.namespace.run("sh", &["-c", script, "sh", &folder, &self.address]).unwrap();
    }
}

/// The server program: Debian's, or the one that `TWILL_TEST_ETCD` names.
fn server() -> PathBuf {
    std::env::var_os("TWILL_TEST_ETCD").map_or_else(|| "etcd".into(), PathBuf::from)
}

/// What makes a proxy refuse frequent pings. Since etcd 3.5 it allows one every 5 s; before, one every five
/// minutes, without a flag.
fn rarest_pings() -> Option<&'static str> {
    let help = Command::new(server()).args(["grpc-proxy", "start", "--help"]).output().unwrap();
    let has_flag = String::from_utf8_lossy(&help.stdout).contains("--grpc-keepalive-min-time");
    has_flag.then_some("--grpc-keepalive-min-time=5m")
}

pub(crate) fn lease_key(subnet: &str) -> String {
    format!("{PREFIX}/subnets/{}", subnet.replace('/', "-"))
}

pub(crate) fn lease_value(public_ip: &str) -> String {
    format!(r#"{{"PublicIP":"{public_ip}","PublicIPv6":null}}"#)
}

/// Waits for something that will be so soon.
pub(crate) fn until(what: &str, condition: impl FnMut() -> bool) {
    within(Duration::from_secs(30), what, condition);
}
