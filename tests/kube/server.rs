//! A kube-apiserver with its etcd, and what an administrator does with it.

use rustix::process::Signal;
use serde_json::{Value, json};
use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};
use twill_testbed::{Background, Namespace, Testbed, within};

const PORT: u16 = 6443;
const TOKEN: &str = "admin-token";
const MERGE: &str = "application/merge-patch+json";

/// Where `tests/kube/build` puts programs.
pub(crate) fn program(name: &str) -> PathBuf {
    let target =
        std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| "target".into(), PathBuf::from);
    Path::new(env!("CARGO_MANIFEST_DIR")).join(target).join("kube").join(name)
}

/// Whether there is a kube-apiserver; says so where there is none, and fails where one is required.
pub(crate) fn is_built(test: &str) -> bool {
    are_built(test, &["etcd", "kube-apiserver"])
}

/// The same of other programs that `tests/kube/build` makes.
pub(crate) fn are_built(test: &str, programs: &[&str]) -> bool {
    let Some(missing) = programs.iter().find(|name| !program(name).exists()) else { return true };
    let required = std::env::var("TWILL_TEST_KUBE").is_ok_and(|word| word == "require");
    assert!(!required, "{test}: no {missing} in target/kube: run tests/kube/build");
    // Past the test harness, which keeps what `eprintln` says of a test that passes.
    let _ = writeln!(std::io::stderr(), "SKIPPED {test}: run tests/kube/build (needs Go)");
    false
}

pub(crate) struct Server {
    namespace: Namespace,
    address: String,
    folder: PathBuf,
    etcd: Option<Background>,
    api: Option<Background>,
    starts: u32,
}

impl Server {
    /// Starts a server in a namespace that has this address.
    pub(crate) fn start(bed: &Testbed, namespace: &Namespace, address: &str) -> Self {
        let folder = bed.folder().join(format!("kube-{}", namespace.label()));
        fs::create_dir_all(&folder).unwrap();
        let mut server = Self {
            namespace: namespace.clone(),
            address: address.to_owned(),
            folder,
            etcd: None,
            api: None,
            starts: 0,
        };
        server.make_keys();
        server.run_etcd();
        server.run();
        server
    }

    pub(crate) fn namespace(&self) -> &Namespace {
        &self.namespace
    }

    pub(crate) fn address(&self) -> &str {
        &self.address
    }

    pub(crate) fn url(&self) -> String {
        format!("https://{}:{PORT}", self.address)
    }

    /// A kubeconfig of the administrator.
    pub(crate) fn kubeconfig(&self) -> PathBuf {
        self.folder.join("admin.kubeconfig")
    }

    pub(crate) fn run_etcd(&mut self) {
        self.starts += 1;
        let mut command = self.namespace.command(program("etcd"));
        command.arg("--data-dir").arg(self.folder.join("data"));
        command.args(["--listen-client-urls", "http://127.0.0.1:2379"]);
        command.args(["--advertise-client-urls", "http://127.0.0.1:2379"]);
        command.args(["--listen-peer-urls", "http://127.0.0.1:2380"]);
        command.args(["--initial-advertise-peer-urls", "http://127.0.0.1:2380"]);
        command.args(["--initial-cluster", "default=http://127.0.0.1:2380"]);
        command.args(["--unsafe-no-fsync", "--log-level", "error"]);
        let name = format!("kube-etcd{}", self.starts);
        self.etcd = Some(self.namespace.spawn(&name, &mut command).unwrap());
    }

    /// Starts the API server and waits until it is ready.
    pub(crate) fn run(&mut self) {
        self.starts += 1;
        let mut command = self.namespace.command(program("kube-apiserver"));
        let file = |name: &str| self.folder.join(name).display().to_string();
        command.current_dir(&self.folder);
        command.arg("--etcd-servers=http://127.0.0.1:2379");
        command.arg(format!("--bind-address={}", self.address));
        command.arg(format!("--advertise-address={}", self.address));
        command.arg(format!("--secure-port={PORT}"));
        command.args(["--endpoint-reconciler-type=none", "--authorization-mode=RBAC"]);
        // As kubeadm does.
        command.arg("--allow-privileged=true");
        command.args(["--service-cluster-ip-range=10.0.0.0/24", "--profiling=false", "--v=0"]);
        for (flag, name) in [
            ("tls-cert-file", "api.crt"),
            ("tls-private-key-file", "api.key"),
            ("client-ca-file", "ca.crt"),
            ("token-auth-file", "tokens.csv"),
            ("service-account-key-file", "sa.pub"),
            ("service-account-signing-key-file", "sa.key"),
        ] {
            command.arg(format!("--{flag}={}", file(name)));
        }
        command.arg("--service-account-issuer=https://kubernetes.default.svc");
        let name = format!("kube-apiserver{}", self.starts);
        self.api = Some(self.namespace.spawn(&name, &mut command).unwrap());
        within(Duration::from_secs(90), "the API server", || {
            self.try_call("GET", "/readyz", None, "").is_ok()
        });
    }

    /// Ends the API server without warning.
    pub(crate) fn kill(&mut self) {
        self.api = None;
    }

    /// Replaces all data, as if the disk had been lost.
    pub(crate) fn wipe(&mut self) {
        self.kill();
        self.etcd = None;
        fs::remove_dir_all(self.folder.join("data")).unwrap();
        self.run_etcd();
        self.run();
    }

    pub(crate) fn freeze(&self) {
        self.api.as_ref().unwrap().freeze().unwrap();
    }

    pub(crate) fn thaw(&self) {
        self.api.as_ref().unwrap().signal(Signal::CONT).unwrap();
    }

    /// Adds a node with a pod network; with none if it is empty.
    pub(crate) fn add_node(&self, name: &str, pod_cidr: &str) {
        let mut node = json!({"metadata": {"name": name}});
        if !pod_cidr.is_empty() {
            node["spec"] = json!({"podCIDR": pod_cidr, "podCIDRs": [pod_cidr]});
        }
        self.call("POST", "/api/v1/nodes", Some(&node));
    }

    pub(crate) fn delete_node(&self, name: &str) {
        self.call("DELETE", &format!("/api/v1/nodes/{name}"), None);
    }

    pub(crate) fn node(&self, name: &str) -> Value {
        self.call("GET", &format!("/api/v1/nodes/{name}"), None)
    }

    pub(crate) fn give_pod_cidr(&self, name: &str, pod_cidr: &str) {
        let patch = json!({"spec": {"podCIDR": pod_cidr, "podCIDRs": [pod_cidr]}});
        self.merge(&format!("/api/v1/nodes/{name}"), &patch);
    }

    /// What a kubelet and the cloud's controller manager say: types and addresses.
    pub(crate) fn set_addresses(&self, name: &str, addresses: &[(&str, &str)]) {
        let one = |(kind, address): &(&str, &str)| json!({"type": kind, "address": address});
        let all: Vec<_> = addresses.iter().map(one).collect();
        let patch = json!({"status": {"addresses": all}});
        self.merge(&format!("/api/v1/nodes/{name}/status"), &patch);
    }

    /// Sets annotations; `null` removes one.
    pub(crate) fn annotate(&self, name: &str, annotations: &Value) {
        let patch = json!({"metadata": {"annotations": annotations}});
        self.merge(&format!("/api/v1/nodes/{name}/status"), &patch);
    }

    /// A service account in the namespace `default`, without any right yet.
    pub(crate) fn add_service_account(&self, name: &str) {
        let account = json!({"metadata": {"name": name}});
        self.call("POST", "/api/v1/namespaces/default/serviceaccounts", Some(&account));
    }

    /// Gives a service account these rights, and no others.
    pub(crate) fn allow(&self, account: &str, rules: &Value) {
        let api = "/apis/rbac.authorization.k8s.io/v1";
        let _ = self.try_call("DELETE", &format!("{api}/clusterroles/{account}"), None, "");
        let role = json!({"metadata": {"name": account}, "rules": rules});
        self.call("POST", &format!("{api}/clusterroles"), Some(&role));
        let binding = json!({
            "metadata": {"name": account},
            "roleRef": {
                "apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": account,
            },
            "subjects": [{"kind": "ServiceAccount", "name": account, "namespace": "default"}],
        });
        let path = format!("{api}/clusterrolebindings");
        // There is one from the time before.
        let _ = self.try_call("POST", &path, Some(&binding), "application/json");
    }

    /// A kubeconfig with a token of a service account in the namespace `default`.
    pub(crate) fn kubeconfig_of(&self, account: &str) -> PathBuf {
        self.kubeconfig_with(account, &self.token("default", account, None))
    }

    /// A token of a service account; bound to a pod, as a kubelet gives it, if one is named.
    pub(crate) fn token(&self, namespace: &str, account: &str, pod: Option<&str>) -> String {
        let path = format!("/api/v1/namespaces/{namespace}/serviceaccounts/{account}/token");
        let mut request = json!({"spec": {"expirationSeconds": 3600}});
        if let Some(pod) = pod {
            request["spec"]["boundObjectRef"] =
                json!({"apiVersion": "v1", "kind": "Pod", "name": pod});
        }
        self.call("POST", &path, Some(&request))["status"]["token"].as_str().unwrap().to_owned()
    }

    /// A kubeconfig with a token.
    pub(crate) fn kubeconfig_with(&self, name: &str, token: &str) -> PathBuf {
        let text = fs::read_to_string(self.kubeconfig()).unwrap().replace(TOKEN, token);
        let path = self.folder.join(format!("{name}.kubeconfig"));
        fs::write(&path, text).unwrap();
        path
    }

    /// Reads an object with somebody's token: the object, or the server's refusal.
    pub(crate) fn get_as(&self, token: &str, path: &str) -> Result<String, String> {
        self.try_call_as(token, "GET", path, None, "").map_err(|refused| refused.to_string())
    }

    /// Sets annotations with somebody's token: the answer, or the server's refusal.
    pub(crate) fn annotate_as(
        &self,
        token: &str,
        name: &str,
        annotations: &Value,
    ) -> Result<(), String> {
        let patch = json!({"metadata": {"annotations": annotations}});
        let path = format!("/api/v1/nodes/{name}/status");
        self.try_call_as(token, "PATCH", &path, Some(&patch), MERGE)
            .map(drop)
            .map_err(|refused| refused.to_string())
    }

    /// Runs calls that a file for `curl --config` names, on four connections.
    pub(crate) fn call_all(&self, config: &Path) {
        let authority = self.folder.join("ca.crt").display().to_string();
        let config = config.display().to_string();
        let token = format!("Authorization: Bearer {TOKEN}");
        let all = ["-sS", "--fail", "--fail-early", "--parallel", "--parallel-max", "4"];
        let text = fs::read_to_string(&config).unwrap();
        // Each call of a file has options of its own.
        let options =
            format!("cacert = \"{authority}\"\nheader = \"{token}\"\noutput = /dev/null\n");
        let text = text.replace("@server", &self.url()).replace("@options\n", &options);
        fs::write(&config, text).unwrap();
        let args: Vec<_> = all.into_iter().chain(["--config", &config]).collect();
        self.namespace.run("curl", &args).unwrap();
    }

    /// A kubeconfig of a user that proves itself like this.
    pub(crate) fn kubeconfig_for(&self, name: &str, user: &Value) -> PathBuf {
        let text = fs::read_to_string(self.kubeconfig()).unwrap();
        let mut kubeconfig: Value = serde_json::from_str(&text).unwrap();
        kubeconfig["users"][0]["user"] = user.clone();
        let path = self.folder.join(format!("{name}.kubeconfig"));
        fs::write(&path, kubeconfig.to_string()).unwrap();
        path
    }

    /// A token of a service account that ends so many seconds from now: the server itself gives
    /// none for less than ten minutes.
    pub(crate) fn signed_token(&self, account: &str, ends_in: i64) -> String {
        let path = format!("/api/v1/namespaces/default/serviceaccounts/{account}");
        let uid = self.call("GET", &path, None)["metadata"]["uid"].clone();
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs();
        let issuer = "https://kubernetes.default.svc";
        let claims = json!({
            "iss": issuer, "aud": [issuer], "sub": format!("system:serviceaccount:default:{account}"),
            "exp": i64::try_from(now).unwrap() + ends_in, "nbf": now - 600, "iat": now - 600,
            "kubernetes.io": {
                "namespace": "default", "serviceaccount": {"name": account, "uid": uid},
            },
        });
        let script = r#"
            url() { openssl base64 -A | tr '+/' '-_' | tr -d '='; }
            text=$(printf '{"alg":"RS256","typ":"JWT"}' | url).$(printf %s "$2" | url)
            printf %s.%s "$text" "$(printf %s "$text" | openssl dgst -sha256 -sign "$1" | url)""#;
        let key = self.folder.join("sa.key").display().to_string();
        self.namespace.run("sh", &["-c", script, "sh", &key, &claims.to_string()]).unwrap()
    }

    /// The certificate of the server's authority.
    pub(crate) fn authority(&self) -> PathBuf {
        self.folder.join("ca.crt")
    }

    /// How many watches on nodes the server serves now, its own included.
    pub(crate) fn watches_on_nodes(&self) -> u32 {
        let page = self.try_call("GET", "/metrics", None, "").unwrap();
        let watches = page.lines().filter(|line| {
            line.starts_with("apiserver_longrunning_requests{")
                && line.contains("resource=\"nodes\"")
                && line.contains("verb=\"WATCH\"")
        });
        watches.map(|line| line.rsplit(' ').next().unwrap().parse::<u32>().unwrap()).sum()
    }

    /// How often nodes were read one by one, as far as the server counts it.
    pub(crate) fn reads_of_nodes(&self) -> u64 {
        let page = self.try_call("GET", "/metrics", None, "").unwrap();
        let reads = page.lines().filter(|line| {
            let words = ["resource=\"nodes\"", "scope=\"resource\"", "verb=\"GET\""];
            line.starts_with("apiserver_request_total{") && words.iter().all(|it| line.contains(it))
        });
        reads.map(|line| line.rsplit(' ').next().unwrap().parse::<u64>().unwrap()).sum()
    }

    /// The head of the answer to a request with this header.
    pub(crate) fn head_of(&self, path: &str, header: &str) -> String {
        let authority = self.authority().display().to_string();
        let url = format!("{}{path}", self.url());
        let token = format!("Authorization: Bearer {TOKEN}");
        let mut args = vec!["-sS", "--fail", "--max-time", "20", "--cacert", &authority];
        args.extend(["-H", &token, "-H", header, "-D", "-", "-o", "/dev/null", &url]);
        self.namespace.run("curl", &args).unwrap()
    }

    /// Has etcd forget all revisions but the newest.
    pub(crate) fn compact(&self) {
        let ask = |path: &str, body: Value| {
            let url = format!("http://127.0.0.1:2379/v3/kv/{path}");
            let body = body.to_string();
            let args = ["-sS", "--fail", "--max-time", "20", &url, "--data", &body];
            serde_json::from_str::<Value>(&self.namespace.run("curl", &args).unwrap()).unwrap()
        };
        let now = ask("range", json!({"key": "AA=="}))["header"]["revision"].clone();
        ask("compaction", json!({"revision": now, "physical": true}));
    }

    pub(crate) fn merge(&self, path: &str, patch: &Value) {
        self.try_call("PATCH", path, Some(patch), MERGE).unwrap();
    }

    pub(crate) fn strategic_merge(&self, path: &str, patch: &Value) {
        let kind = "application/strategic-merge-patch+json";
        self.try_call("PATCH", path, Some(patch), kind).unwrap();
    }

    pub(crate) fn call(&self, method: &str, path: &str, body: Option<&Value>) -> Value {
        let answer = self.try_call(method, path, body, "application/json").unwrap();
        serde_json::from_str(&answer).unwrap_or(Value::Null)
    }

    fn try_call(
        &self,
        method: &str,
        path: &str,
        body: Option<&Value>,
        content_type: &str,
    ) -> Result<String, twill_testbed::TestbedError> {
        self.try_call_as(TOKEN, method, path, body, content_type)
    }

    fn try_call_as(
        &self,
        token: &str,
        method: &str,
        path: &str,
        body: Option<&Value>,
        content_type: &str,
    ) -> Result<String, twill_testbed::TestbedError> {
        let authority = self.folder.join("ca.crt").display().to_string();
        let url = format!("{}{path}", self.url());
        let token = format!("Authorization: Bearer {token}");
        let content_type = format!("Content-Type: {content_type}");
        let body = body.map(Value::to_string);
        let mut args = vec!["-sS", "--fail-with-body", "--max-time", "20", "--cacert", &authority];
        args.extend(["-H", &token, "-H", &content_type, "-X", method, &url]);
        if let Some(body) = &body {
            args.extend(["--data-binary", body]);
        }
        self.namespace.run("curl", &args)
    }

    fn make_keys(&self) {
        let script = r#"
            set -e; cd "$1"
            openssl ecparam -name prime256v1 -genkey -noout -out ca.key
            openssl req -x509 -new -key ca.key -subj /CN=test-ca -days 2 -out ca.crt
            openssl ecparam -name prime256v1 -genkey -noout -out api.key
            printf 'subjectAltName=IP:%s,IP:127.0.0.1\n' "$2" >ext
            openssl req -new -key api.key -subj /CN=kube-apiserver -out api.csr
            openssl x509 -req -in api.csr -CA ca.crt -CAkey ca.key -CAcreateserial \
                -days 2 -extfile ext -out api.crt
            openssl genrsa -out sa.key 2048
            openssl rsa -in sa.key -pubout -out sa.pub
            echo "$3,admin,admin,system:masters" >tokens.csv"#;
        let folder = self.folder.display().to_string();
        let args = ["-c", script, "sh", &folder, &self.address, TOKEN];
        self.namespace.run("sh", &args).unwrap();
        let kubeconfig = json!({
            "apiVersion": "v1", "kind": "Config", "current-context": "test",
            "clusters": [{"name": "test", "cluster": {
                "server": self.url(), "certificate-authority": "ca.crt",
            }}],
            "users": [{"name": "admin", "user": {"token": TOKEN}}],
            "contexts": [{"name": "test", "context": {"cluster": "test", "user": "admin"}}],
        });
        fs::write(self.kubeconfig(), kubeconfig.to_string()).unwrap();
    }
}
