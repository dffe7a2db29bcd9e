//! What `dist/kubernetes` says, as a real API server takes it.

use super::server::{Server, is_built};
use serde_json::Value;
use std::fs;
use std::path::Path;
use twill_testbed::Testbed;

#[test]
fn every_manifest_is_taken_by_the_api_server_and_its_role_is_enough() {
    if !is_built("manifests") {
        return;
    }
    let Some(bed) = Testbed::for_test("manifests") else { return };
    let namespace = bed.namespace("kube").unwrap();
    let server = Server::start(&bed, &namespace, "127.0.0.1");
    let base =
        ["namespace", "rbac", "configmap", "daemonset"].map(|name| format!("base/{name}.yaml"));
    let files = base.iter().map(String::as_str).chain(["own-node-only.yaml"]);

    let mut kinds = Vec::new();
    for object in files.flat_map(objects) {
        kinds.push(object["kind"].as_str().unwrap().to_owned());
        server.call("POST", &collection(&object), Some(&object));
    }

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
    assert_eq!(kinds, expected);
    let config = &objects("base/configmap.yaml")[0]["data"]["net-conf.json"];
    let config = twill::subnet::NetworkConfig::parse(config.as_str().unwrap()).unwrap();
    assert_eq!(config.network.to_string(), "10.244.0.0/16");
}

/// The objects of a file below `dist/kubernetes`.
fn objects(name: &str) -> Vec<Value> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("dist/kubernetes").join(name);
    let text = fs::read_to_string(path).unwrap();
    let documents = serde_norway::Deserializer::from_str(&text);
    documents.map(|document| serde::Deserialize::deserialize(document).unwrap()).collect()
}

/// Where objects of a kind are made.
fn collection(object: &Value) -> String {
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
