//! What the manifests let a node's service account do: all that twill needs, and no more.

use super::manifests::{Objects, collection, objects, read};
use super::nodes::{Cluster, Node, PATIENCE};
use super::server::Server;
use serde_json::{Value, json};
use twill::subnet::kube::annotations::DEFAULT_PREFIX;
use twill_testbed::within;

#[test]
fn the_cluster_role_is_enough_and_no_verb_of_it_is_superfluous() {
    let role = objects(&read("base/rbac.yaml"))["ClusterRole flannel"]["rules"].clone();
    let verbs: Vec<_> = verbs_of(&role).collect();
    let names = verbs.iter().map(|(resource, verb)| format!("{verb} {resource}"));
    assert_eq!(
        names.collect::<Vec<_>>(),
        ["get nodes", "list nodes", "watch nodes", "patch nodes/status"]
    );
    let Some(cluster) = Cluster::new("rights", 1 + verbs.len() as u8) else { return };
    let server = &cluster.server;

    let mut full = node_with(&cluster, 1, &role);
    full.wait_for("Running backend.");
    within(PATIENCE, "readiness", || full.probe("/readyz").starts_with("200"));
    // A new node is listed, watched and read; our own annotations are written a second time.
    let key = |name: &str| format!("{DEFAULT_PREFIX}/{name}");
    server.add_node("late", "10.244.99.0/24");
    server.annotate(
        "late",
        &json!({key("kube-subnet-manager"): "true", key("public-ip"): "198.51.100.9"}),
    );
    within(PATIENCE, "the new node", || full.status().to_string().contains("198.51.100.9"));
    server.annotate("n1", &json!({key("public-ip"): null}));
    within(PATIENCE, "our annotation", || {
        server.node("n1")["metadata"]["annotations"][key("public-ip")] == "192.0.2.1"
    });
    assert!(!full.log().contains("forbidden"), "{}", full.log());

    for (host, (resource, verb)) in (2..).zip(&verbs) {
        let mut node = node_with(&cluster, host, &without(&role, resource, verb));

        node.wait_for(&format!("cannot {verb} resource \"{resource}\""));
    }
}

#[test]
fn under_the_policy_a_pod_changes_the_status_of_its_own_node_only() {
    let Some(cluster) = Cluster::new("own node", 2) else { return };
    let server = &cluster.server;
    make(server, &objects(&read("base/namespace.yaml")));
    make(server, &objects(&read("base/rbac.yaml")));
    let token = token_of_pod_on(server, "n1");
    let mark = json!({"example.com/mark": "1"});
    server.annotate_as(&token, "n2", &mark).unwrap();

    make(server, &objects(&read("own-node-only.yaml")));

    // The server takes a moment to follow its own policies.
    let refusal = "flannel may change the status of its own node only";
    within(PATIENCE, "the policy", || {
        server.annotate_as(&token, "n2", &mark).is_err_and(|error| error.contains(refusal))
    });
    server.annotate_as(&token, "n1", &mark).unwrap();
    let unbound = server.token("kube-flannel", "flannel", None);
    let refused = server.annotate_as(&unbound, "n1", &mark).unwrap_err();
    assert!(refused.contains(refusal), "{refused}");
    // Other users are not concerned.
    server.annotate("n2", &mark);

    let mut own = cluster.node(1, "n1");
    own.kubeconfig = server.kubeconfig_with("own", &token);
    own.start(&[]);
    own.wait_for("Running backend.");
    assert_eq!(server.node("n1")["status"]["conditions"][0]["reason"], "FlannelIsUp");
    let mut other = cluster.node(2, "n2");
    other.kubeconfig = own.kubeconfig.clone();
    other.start(&[]);
    other.wait_for(refusal);
}

#[test]
fn a_pod_of_flannels_finds_its_node_while_twill_takes_its_place() {
    let Some(cluster) = Cluster::new("flannel's pods", 1) else { return };
    let server = &cluster.server;
    make(server, &objects(&read("base/namespace.yaml")));
    make(server, &objects(&read("base/rbac.yaml")));
    let token = token_of_pod_on(server, "n1");
    let pod = "/api/v1/namespaces/kube-flannel/pods/twill-on-n1";
    let ask = || server.get_as(&token, pod);
    assert!(ask().is_err_and(|refused| refused.contains("cannot get resource")));

    make(server, &objects(&read("flannel-pods.yaml")));

    within(PATIENCE, "the right", || ask().is_ok_and(|pod| pod.contains("\"nodeName\": \"n1\"")));
}

#[test]
fn a_pod_without_node_name_asks_for_its_node_and_takes_prefix_address_and_condition_from_flags() {
    let Some(cluster) = Cluster::new("pod's node", 1) else { return };
    let server = &cluster.server;
    make(server, &objects(&read("base/namespace.yaml")));
    make(server, &objects(&read("base/rbac.yaml")));
    let key = |name: &str| format!("example.com/net-{name}");
    server.annotate("n1", &json!({key("node-public-ip"): "203.0.113.9"}));
    let mut node = cluster.node(1, "n1");
    node.kubeconfig = server.kubeconfig_with("pod", &token_of_pod_on(server, "n1"));
    node.variables =
        vec![("NODE_NAME", ""), ("POD_NAME", "twill-on-n1"), ("POD_NAMESPACE", "kube-flannel")];
    node.start(&["-kube-annotation-prefix=example.com/net", "-set-node-network-unavailable=false"]);

    node.wait_for("cannot get resource \"pods\"");
    make(server, &objects(&read("flannel-pods.yaml")));
    node.wait_for("Running backend.");

    let object = server.node("n1");
    let annotations = &object["metadata"]["annotations"];
    assert_eq!(annotations[key("public-ip")], "203.0.113.9");
    assert_eq!(annotations[key("kube-subnet-manager")], "true");
    assert!(!annotations.to_string().contains(DEFAULT_PREFIX), "{annotations}");
    assert!(!object["status"]["conditions"].to_string().contains("NetworkUnavailable"));
}

/// A node whose service account has these rights.
fn node_with(cluster: &Cluster, host: usize, rules: &Value) -> Node {
    let (name, account) = (format!("n{host}"), format!("account{host}"));
    cluster.server.add_service_account(&account);
    cluster.server.allow(&account, rules);
    let mut node = cluster.node(host, &name);
    node.kubeconfig = cluster.server.kubeconfig_of(&account);
    node.start(&[]);
    node
}

/// Every resource and verb of a role.
fn verbs_of(rules: &Value) -> impl Iterator<Item = (String, String)> + '_ {
    let words = |value: &Value| -> Vec<String> {
        value.as_array().unwrap().iter().map(|word| word.as_str().unwrap().to_owned()).collect()
    };
    rules.as_array().unwrap().iter().flat_map(move |rule| {
        let verbs = words(&rule["verbs"]);
        words(&rule["resources"]).into_iter().flat_map(move |resource| {
            verbs.clone().into_iter().map(move |verb| (resource.clone(), verb))
        })
    })
}

/// The same rules, except for one verb on one resource.
fn without(rules: &Value, resource: &str, verb: &str) -> Value {
    let left = verbs_of(rules).filter(|(r, v)| (r.as_str(), v.as_str()) != (resource, verb));
    left.map(
        |(resource, verb)| json!({"apiGroups": [""], "resources": [resource], "verbs": [verb]}),
    )
    .collect()
}

fn make(server: &Server, objects: &Objects) {
    // A namespace and an account first: their kinds come last in the order of names.
    let (before, after): (Vec<_>, Vec<_>) =
        objects.values().partition(|object| object["kind"] == "Namespace");
    for object in before.into_iter().chain(after) {
        server.call("POST", &collection(object), Some(object));
    }
}

/// A token as a kubelet gives it to a pod of the DaemonSet on this node.
fn token_of_pod_on(server: &Server, node: &str) -> String {
    let name = format!("twill-on-{node}");
    let pod = json!({
        "metadata": {"name": name, "namespace": "kube-flannel"},
        "spec": {
            "nodeName": node, "serviceAccountName": "flannel", "hostNetwork": true,
            "containers": [{"name": "kube-flannel", "image": "twill:test"}],
        },
    });
    server.call("POST", "/api/v1/namespaces/kube-flannel/pods", Some(&pod));
    server.token("kube-flannel", "flannel", Some(&name))
}
