//! What `dist/kubernetes` says, as a real API server takes it.

use super::server::{Server, are_built, is_built, program};
use serde::Deserialize;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::fs;
use std::path::PathBuf;
use std::process::Command;
use twill_testbed::Testbed;

#[test]
fn every_manifest_is_accepted_by_the_api_server_to_the_last_field() {
    let Some((_bed, server)) = cluster("manifests") else { return };
    let expected = [
        "Namespace",
        "ServiceAccount",
        "ClusterRole",
        "ClusterRoleBinding",
        "ConfigMap",
        "DaemonSet",
        "ValidatingAdmissionPolicy",
        "ValidatingAdmissionPolicyBinding",
    ];
    let base = kustomized("base");
    server.call("POST", "/api/v1/namespaces", base.get("Namespace kube-flannel"));

    objects(&read("flannel-pods.yaml")).values().for_each(|object| accept(&server, object));
    let own = objects(&read("own-node-only.yaml"));
    let all = base.iter().chain(&own);
    let others = all.clone().filter(|(name, _)| *name != "Namespace kube-flannel");
    others.for_each(|(_, object)| accept(&server, object));
    let fast = kustomized("fast-path");
    accept(&server, &fast["DaemonSet kube-flannel-ds"]);
    kustomized("node-by-node").values().for_each(|object| accept(&server, object));
    let no_plugin =
        &["flannel.skipCNIPluginInstallation=true", "flannel.skipCNIConfigInstallation=true"];
    for values in [&[][..], &["flannel.healthz.port=0"], no_plugin, EVERY_VALUE] {
        templated(values).unwrap().values().for_each(|object| accept(&server, object));
    }

    let mut kinds: Vec<_> = all.map(|(_, object)| object["kind"].as_str().unwrap()).collect();
    kinds.sort_by_key(|kind| expected.iter().position(|known| known == kind));
    assert_eq!(kinds, expected);
    let config = net_conf(&base);
    assert_eq!(
        (config.networks().to_string(), config.backend.port),
        ("10.244.0.0/16".into(), 8285)
    );
}

#[test]
fn flannels_daemon_set_is_replaced_in_place_or_kept_off_a_labelled_node() {
    let Some((_bed, server)) = cluster("in place") else { return };
    let base = kustomized("base");
    server.call("POST", "/api/v1/namespaces", base.get("Namespace kube-flannel"));
    server.call("POST", DAEMON_SETS, Some(&flannels_daemon_set()));
    let flannels = format!("{DAEMON_SETS}/kube-flannel-ds");

    // As `kubectl patch --patch-file` does.
    let patch: Value =
        serde_norway::from_str(&read("node-by-node/flannel-elsewhere.yaml")).unwrap();
    server.strategic_merge(&flannels, &patch);
    let patched = server.call("GET", &flannels, None);
    let beside = kustomized("node-by-node");
    server.call("POST", DAEMON_SETS, beside.get("DaemonSet twill-ds"));
    // The selector cannot be changed: the server would refuse another.
    server.call("PUT", &flannels, base.get("DaemonSet kube-flannel-ds"));
    let replaced = server.call("GET", &flannels, None);

    let terms = |set: &Value| {
        set["spec"]["template"]["spec"]["affinity"]["nodeAffinity"]
            ["requiredDuringSchedulingIgnoredDuringExecution"]["nodeSelectorTerms"]
            .clone()
    };
    assert_eq!(
        terms(&patched),
        json!([{"matchExpressions": [
            {"key": "kubernetes.io/os", "operator": "In", "values": ["linux"]},
            {"key": "twill", "operator": "DoesNotExist"},
        ]}])
    );
    assert_eq!(beside.len(), 1, "only a DaemonSet: all else is flannel's");
    let set = &beside["DaemonSet twill-ds"]["spec"];
    assert_eq!(set["template"]["spec"]["nodeSelector"], json!({"twill": "true"}));
    assert_eq!(set["selector"]["matchLabels"], json!({"app": "twill"}));
    let command = &replaced["spec"]["template"]["spec"]["containers"][0]["command"];
    assert_eq!(*command, json!(["/usr/bin/twill", "flanneld"]));
}

#[test]
fn pods_that_take_over_from_each_other_start_beside_the_old_one_and_share_its_socket() {
    let Some((_bed, server)) = cluster("hand-over") else { return };
    let objects = kustomized("hand-over");
    server.call("POST", "/api/v1/namespaces", objects.get("Namespace kube-flannel"));

    server.call("POST", DAEMON_SETS, objects.get("DaemonSet kube-flannel-ds"));

    let set = &server.call("GET", &format!("{DAEMON_SETS}/kube-flannel-ds"), None)["spec"];
    let rolling = &set["updateStrategy"]["rollingUpdate"];
    assert_eq!(*rolling, json!({"maxSurge": 1, "maxUnavailable": 0}));
    assert_eq!(set["minReadySeconds"], 10);
    let pod = &set["template"]["spec"];
    let gateway = &pod["containers"][0];
    for name in ["TWILL_TAKE_OVER", "TWILL_WAIT_AFTER_HAND_OVER"] {
        let variables = gateway["env"].as_array().unwrap();
        assert!(
            variables.contains(&json!({"name": name, "value": "true"})),
            "{name}: {variables:?}"
        );
    }
    // Two pods of a node could not have one host port; they share the folder of the control socket.
    assert!(gateway["ports"].is_null());
    for probe in ["startupProbe", "livenessProbe", "readinessProbe"] {
        assert_eq!(gateway[probe]["httpGet"]["port"], 8081, "{probe}");
    }
    let volumes = pod["volumes"].as_array().unwrap();
    assert!(volumes.iter().any(|volume| volume["hostPath"]["path"] == "/run/twill"));
}

#[test]
fn the_chart_is_the_kustomize_base_or_the_fast_path_with_the_value_for_it() {
    if !are_built("chart", &["helm", "kustomize"]) {
        return;
    }
    for (folder, value) in
        [("base", "flannel.fastPath=off"), ("fast-path", "flannel.fastPath=auto")]
    {
        let mut kustomized = kustomized(folder);
        kustomized.extend(objects(&read("own-node-only.yaml")));
        // Helm makes the namespace, with --create-namespace.
        kustomized.remove("Namespace kube-flannel");

        let chart = templated(&["ownNodeOnly=true", value]).unwrap();

        assert_eq!(chart.keys().collect::<Vec<_>>(), kustomized.keys().collect::<Vec<_>>());
        for (name, object) in chart {
            // Blanks in a file's text are no difference.
            let expected = with_parsed_files(kustomized[&name].clone());
            assert_eq!(with_parsed_files(object), expected, "{folder}: {name}");
        }
        let pod = &kustomized["DaemonSet kube-flannel-ds"]["spec"]["template"]["spec"];
        let image = &pod["containers"][0]["image"];
        assert_eq!(*image, format!("twill:{}", env!("CARGO_PKG_VERSION")));
        let has_bpf = pod.to_string().contains("/sys/fs/bpf");
        assert_eq!(has_bpf, folder == "fast-path", "no more than the pod needs: {pod}");
    }
    let default = templated(&["ownNodeOnly=true"]).unwrap();
    assert_eq!(default, templated(&["ownNodeOnly=true", "flannel.fastPath=off"]).unwrap());
    helm(&["lint", "--strict", &folder("chart")]).unwrap();
}

#[test]
fn values_of_flannels_chart_do_what_their_names_say() {
    if !are_built("values", &["helm"]) {
        return;
    }

    let chart = templated(EVERY_VALUE).unwrap();

    let config = net_conf(&chart);
    assert_eq!(config.networks().to_string(), "10.42.0.0/16");
    assert_eq!((config.backend.port, config.backend.mtu), (8286, Some(1400)));
    assert!(config.nftables);
    let pod = &chart["DaemonSet kube-flannel-ds"]["spec"]["template"]["spec"];
    let gateway = &pod["containers"][0];
    assert_eq!(gateway["image"], "registry.example/twill:v7");
    assert_eq!(
        gateway["args"],
        json!(["--kube-subnet-mgr", "-iface=eth1", "-healthz-ip=127.0.0.1", "-healthz-port=9090"])
    );
    assert_eq!(gateway["ports"][0]["containerPort"], 9090);
    assert_eq!(gateway["livenessProbe"]["periodSeconds"], 7);
    assert_eq!(gateway["resources"]["requests"]["memory"], "99Mi");
    assert_eq!(gateway["securityContext"]["privileged"], true);
    let variable = json!({"name": "TWILL_NODE_ADDRESS", "value": "external-ip"});
    assert_eq!(gateway["env"][1], variable);
    assert_eq!(gateway["env"][2], json!({"name": "TWILL_FAST_PATH", "value": "bpf"}));
    let plugins = pod["initContainers"].as_array().unwrap();
    assert_eq!(plugins.len(), 1, "the CNI configuration is somebody else's");
    assert_eq!(plugins[0]["image"], "registry.example/plugin:v8");
    let path = |name: &str| {
        let volumes = pod["volumes"].as_array().unwrap();
        volumes.iter().find(|volume| volume["name"] == name).unwrap()["hostPath"]["path"].clone()
    };
    assert_eq!((path("cni-plugin"), path("cni")), (json!("/k3s/bin"), json!("/k3s/net.d")));
    assert_eq!(pod["nodeSelector"], json!({"pool": "a"}));
    assert_eq!(pod["tolerations"], json!([{"operator": "Exists"}]));
    assert_eq!(pod["imagePullSecrets"], json!([{"name": "secret"}]));
    let no_plugin = templated(&["flannel.skipCNIPluginInstallation=true"]).unwrap();
    let pod = &no_plugin["DaemonSet kube-flannel-ds"]["spec"]["template"]["spec"];
    assert_eq!(pod["initContainers"][0]["name"], "install-cni");
    assert!(pod["initContainers"][1].is_null());
    let both = net_conf(&templated(&["podCidrv6=fd00:42::/48"]).unwrap());
    assert_eq!(both.networks().to_string(), "10.244.0.0/16, fd00:42::/48");
    let only_v6 = net_conf(&templated(&["podCidr=", "podCidrv6=fd00:42::/48"]).unwrap());
    assert_eq!(only_v6.networks().to_string(), "fd00:42::/48");
    let without = templated(&["flannel.healthz.port=0"]).unwrap();
    let gateway =
        &without["DaemonSet kube-flannel-ds"]["spec"]["template"]["spec"]["containers"][0];
    assert_eq!(gateway["args"], json!(["-ip-masq", "-kube-subnet-mgr"]));
    assert!(gateway["livenessProbe"].is_null() && gateway["startupProbe"].is_null());
}

#[test]
fn values_that_twill_cannot_serve_are_refused_with_the_cure() {
    if !are_built("refused", &["helm"]) {
        return;
    }
    for (value, words) in [
        ("flannel.backend=vxlan", r#"flannel.backend is "vxlan": twill serves "udp" only"#),
        ("podCidr=", "set them to the cluster's --cluster-cidr"),
        ("netpol.enabled=true", "install kube-network-policies by its own manifests"),
        ("flannel.args={-ip-masq}", "flannel.args has no -kube-subnet-mgr"),
        ("flannel.image.repository=ghcr.io/flannel-io/flannel", "set flannel.image.repository"),
        ("flannel.backendPort=many", "'/flannel/backendPort': got string, want null or integer"),
        ("flannel.fastPath=fou", "'/flannel/fastPath'"),
        ("flannel.nodeAddress=dns", "'/flannel/nodeAddress'"),
        ("flannel.mtu=70000", "'/flannel/mtu': maximum: got 70,000"),
        ("flannel.cniBinDir=bin", "'/flannel/cniBinDir'"),
    ] {
        let error = templated(&[value]).unwrap_err();

        assert!(error.contains(words), "{value}: {error}");
    }
}

#[test]
fn helm_installs_upgrades_and_removes_the_chart() {
    let Some((bed, server)) = cluster("helm") else { return };
    let kubeconfig = server.kubeconfig().display().to_string();
    let data = bed.folder().join("helm").display().to_string();
    let run = |args: &[&str]| {
        let chart = folder("chart");
        let mut command = server.namespace().command(program("helm"));
        command.args(["--kubeconfig", &kubeconfig, "-n", "kube-flannel"]).args(args);
        command.env("HOME", &data);
        if args[0] != "uninstall" {
            command.arg(chart);
        }
        let output = command.output().unwrap();
        assert!(output.status.success(), "{args:?}: {}", String::from_utf8_lossy(&output.stderr));
    };
    let config = "/api/v1/namespaces/kube-flannel/configmaps/kube-flannel-cfg";
    let network = || {
        let object = server.call("GET", config, None);
        let text = object["data"]["net-conf.json"].as_str().unwrap().to_owned();
        twill::subnet::NetworkConfig::parse(&text).unwrap().networks().to_string()
    };

    run(&["install", "--create-namespace", "flannel"]);
    let installed = network();
    run(&["upgrade", "--set", "podCidr=10.42.0.0/16", "flannel"]);
    let upgraded = network();
    run(&["uninstall", "flannel"]);

    assert_eq!((installed.as_str(), upgraded.as_str()), ("10.244.0.0/16", "10.42.0.0/16"));
    let left = server.call("GET", DAEMON_SETS, None);
    assert_eq!(left["items"], json!([]));
}

const DAEMON_SETS: &str = "/apis/apps/v1/namespaces/kube-flannel/daemonsets";
const EVERY_VALUE: &[&str] = &[
    "podCidr=10.42.0.0/16",
    "ownNodeOnly=true",
    "global.imagePullSecrets[0].name=secret",
    "flannel.image.repository=registry.example/twill",
    "flannel.image.tag=v7",
    "flannel.image_cni.repository=registry.example/plugin",
    "flannel.image_cni.tag=v8",
    "flannel.cniBinDir=/k3s/bin",
    "flannel.cniConfDir=/k3s/net.d",
    "flannel.skipCNIConfigInstallation=true",
    "flannel.enableNFTables=true",
    "flannel.args={--kube-subnet-mgr,-iface=eth1}",
    "flannel.backendPort=8286",
    "flannel.mtu=1400",
    "flannel.resources.requests.memory=99Mi",
    "flannel.healthz.port=9090",
    "flannel.healthz.livenessProbe.periodSeconds=7",
    "flannel.tolerations[0].operator=Exists",
    "flannel.nodeSelector.pool=a",
    "flannel.privileged=true",
    "flannel.nodeAddress=external-ip",
    "flannel.fastPath=bpf",
    // Of another backend: changes nothing.
    "flannel.vni=1",
];

/// Objects by kind and name.
pub(super) type Objects = BTreeMap<String, Value>;

/// A server; nothing if the test is to be skipped.
fn cluster(test: &str) -> Option<(Testbed, Server)> {
    if !is_built(test) || !are_built(test, &["helm", "kustomize"]) {
        return None;
    }
    let bed = Testbed::for_test(test)?;
    let namespace = bed.namespace("kube").unwrap();
    let server = Server::start(&bed, &namespace, "127.0.0.1");
    Some((bed, server))
}

/// Asserts that the server would take an object, without a field that it does not know.
fn accept(server: &Server, object: &Value) {
    let path = format!("{}?dryRun=All&fieldValidation=Strict", collection(object));
    let made = server.call("POST", &path, Some(object));
    assert_eq!(made["metadata"]["name"], object["metadata"]["name"]);
}

/// What `kubectl apply -k` applies.
fn kustomized(name: &str) -> Objects {
    let output =
        Command::new(program("kustomize")).args(["build", &folder(name)]).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    objects(&String::from_utf8(output.stdout).unwrap())
}

/// What the chart becomes with these values.
fn templated(values: &[&str]) -> Result<Objects, String> {
    let folder = folder("chart");
    let mut args = vec!["template", "flannel", &folder, "-n", "kube-flannel"];
    args.extend(values.iter().flat_map(|value| ["--set", value]));
    helm(&args).map(|text| objects(&text))
}

fn helm(args: &[&str]) -> Result<String, String> {
    let output = Command::new(program("helm")).args(args).output().unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    if output.status.success() { Ok(text(output.stdout)) } else { Err(text(output.stderr)) }
}

fn folder(name: &str) -> String {
    let root = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("dist/kubernetes");
    root.join(name).display().to_string()
}

pub(super) fn read(name: &str) -> String {
    fs::read_to_string(folder(name)).unwrap()
}

pub(super) fn objects(text: &str) -> Objects {
    let documents = serde_norway::Deserializer::from_str(text);
    let values = documents.map(|document| Value::deserialize(document).unwrap());
    values
        .filter(|object| !object.is_null())
        .map(|object| {
            let word = |value: &Value| value.as_str().unwrap().to_owned();
            (format!("{} {}", word(&object["kind"]), word(&object["metadata"]["name"])), object)
        })
        .collect()
}

fn net_conf(objects: &Objects) -> twill::subnet::NetworkConfig {
    let text = objects["ConfigMap kube-flannel-cfg"]["data"]["net-conf.json"].as_str().unwrap();
    twill::subnet::NetworkConfig::parse(text).unwrap()
}

/// An object whose JSON files are values instead of texts.
fn with_parsed_files(mut object: Value) -> Value {
    for (_, file) in object["data"].as_object_mut().into_iter().flatten() {
        *file = serde_json::from_str(file.as_str().unwrap()).unwrap();
    }
    object
}

/// The DaemonSet of a cluster with flannel: its names, labels and selector.
fn flannels_daemon_set() -> Value {
    let terms = json!([{"matchExpressions": [
        {"key": "kubernetes.io/os", "operator": "In", "values": ["linux"]},
    ]}]);
    json!({
        "apiVersion": "apps/v1", "kind": "DaemonSet",
        "metadata": {
            "name": "kube-flannel-ds", "namespace": "kube-flannel",
            "labels": {"app": "flannel", "k8s-app": "flannel", "tier": "node"},
        },
        "spec": {
            "selector": {"matchLabels": {"app": "flannel"}},
            "template": {
                "metadata": {"labels": {"app": "flannel", "tier": "node"}},
                "spec": {
                    "affinity": {"nodeAffinity": {
                        "requiredDuringSchedulingIgnoredDuringExecution":
                            {"nodeSelectorTerms": terms},
                    }},
                    "hostNetwork": true,
                    "containers": [{"name": "kube-flannel", "image": "flannel:test"}],
                },
            },
        },
    })
}

/// Where objects of a kind are made.
pub(super) fn collection(object: &Value) -> String {
    let version = object["apiVersion"].as_str().unwrap();
    let root = if version == "v1" { "/api/v1".to_owned() } else { format!("/apis/{version}") };
    let plural = match object["kind"].as_str().unwrap() {
        "ValidatingAdmissionPolicy" => "validatingadmissionpolicies".to_owned(),
        kind => format!("{}s", kind.to_lowercase()),
    };
    match object["metadata"]["namespace"].as_str() {
        Some(namespace) => format!("{root}/namespaces/{namespace}/{plural}"),
        None => format!("{root}/{plural}"),
    }
}
