//! Certificates and keys: what Go's TLS takes is taken, and what is not is named with the true cause.

use super::cluster::{Cluster, NETWORK};
use super::etcd::Transport;

/// Extensions of a server's certificate at the address `$IP`.
const SERVER: &str = "subjectAltName=IP:$IP";

/// Makes ca.pem and ca.key, an authority with a new key of its own kind, by openssl's words for a key.
fn authority(key: &str) -> String {
    format!(
        "openssl req -x509 -newkey {key} -nodes -keyout ca.key -out ca.pem -days 2 -subj /CN=ca\n"
    )
}

/// Makes NAME.pem and NAME.key, signed by ca.key.
fn signed(name: &str, key: &str, extensions: &str) -> String {
    format!(
        "openssl req -newkey {key} -nodes -keyout {name}.key -out {name}.csr -subj /CN={name}
         printf '%b\\n' \"{extensions}\" >{name}.ext
         openssl x509 -req -in {name}.csr -CA ca.pem -CAkey ca.key -CAcreateserial -days 2 \
             -extfile {name}.ext -out {name}.pem\n"
    )
}

const RSA: &str = "rsa:2048";
const P521: &str = "ec -pkeyopt ec_paramgen_curve:P-521";
const P384: &str = "ec -pkeyopt ec_paramgen_curve:P-384";

/// A server and a client of one authority, all with keys of this kind.
fn all_of(key: &str) -> String {
    let any = format!("{SERVER}\\nextendedKeyUsage=serverAuth,clientAuth");
    authority(key)
        + &signed("server", key, &any)
        + &signed("client", key, "keyUsage=digitalSignature")
}

/// The same, then something else is made of it.
fn usual(change: &str) -> String {
    all_of(RSA) + change
}

#[test]
fn certificates_and_keys_that_go_takes_open_etcd() {
    let Some(mut cluster) = Cluster::with("certificates", 1, Transport::Tls) else { return };
    cluster.etcd.configure(NETWORK);
    let kinds: Vec<(&str, String)> = vec![
        ("P-521", all_of(P521)),
        ("P-384", all_of(P384)),
        ("Ed25519", all_of("ed25519")),
        ("RSA of 4096 bits", all_of("rsa:4096")),
        (
            "a self-signed certificate as openssl makes it (CA:TRUE)",
            usual(
                "openssl req -x509 -newkey rsa:2048 -nodes -keyout server.key -out server.pem -days 2 \
                 -subj /CN=server -addext subjectAltName=IP:$IP
                 cat ca.pem server.pem >both.pem; mv both.pem ca.pem",
            ),
        ),
        (
            "a self-signed certificate that is no authority's",
            usual(
                "openssl req -x509 -newkey rsa:2048 -nodes -keyout server.key -out server.pem -days 2 \
                 -subj /CN=server -addext subjectAltName=IP:$IP -addext basicConstraints=CA:FALSE
                 cat ca.pem server.pem >both.pem; mv both.pem ca.pem",
            ),
        ),
        (
            "an authority's certificate that another one has signed",
            authority(RSA)
                + &signed("server", P521, &format!("{SERVER}\\nbasicConstraints=CA:TRUE"))
                + &signed("client", RSA, "keyUsage=digitalSignature"),
        ),
        (
            "any extended key usage",
            authority(RSA)
                + &signed("server", RSA, &format!("{SERVER}\\nextendedKeyUsage=anyExtendedKeyUsage"))
                + &signed("client", RSA, "keyUsage=digitalSignature"),
        ),
        (
            "an authority in between",
            authority(RSA)
                + "cp ca.pem root.pem\n"
                + &signed("middle", RSA, "basicConstraints=CA:TRUE")
                + &signed("client", RSA, "keyUsage=digitalSignature")
                + "mv middle.pem ca.pem; mv middle.key ca.key\n"
                + &signed("server", RSA, &format!("{SERVER}\\nbasicConstraints=CA:TRUE"))
                + "cat ca.pem >>server.pem; mv root.pem ca.pem",
        ),
        (
            "a client certificate of X.509 version 1",
            usual(
                "openssl req -newkey rsa:2048 -nodes -keyout client.key -out client.csr -subj /CN=client
                 openssl x509 -req -in client.csr -CA ca.pem -CAkey ca.key -CAcreateserial -days 2 \
                     -out client.pem",
            ),
        ),
        ("a PKCS#1 key", usual("openssl rsa -in client.key -traditional -out key; mv key client.key")),
        (
            "a SEC1 key behind its parameters",
            usual(
                "openssl ecparam -name prime256v1 -genkey -out client.key
                 openssl req -new -key client.key -out client.csr -subj /CN=client
                 openssl x509 -req -in client.csr -CA ca.pem -CAkey ca.key -CAcreateserial -days 2 \
                     -extfile client.ext -out client.pem",
            ),
        ),
        (
            "text before the certificate, and lines that end as in DOS",
            usual(
                "openssl x509 -in client.pem -text >text; sed 's/$/\\r/' text >client.pem",
            ),
        ),
    ];
    let files = ["ca.pem", "client.pem", "client.key"].map(|name| cluster.etcd.file(name));
    let [ca, cert, key] = &files;
    let flags = ["-etcd-cafile", ca, "-etcd-certfile", cert, "-etcd-keyfile", key];
    for (kind, script) in kinds {
        println!("{kind}");
        cluster.etcd.use_certificates(&script);

        let mut node = cluster.running(0, &flags);

        assert!(node.stop().success(), "{kind}: {}", node.log());
    }
}

#[test]
fn certificates_that_go_refuses_are_refused_with_the_true_cause() {
    let Some(mut cluster) = Cluster::with("bad certificates", 1, Transport::Tls) else { return };
    let kinds: Vec<(&str, String, &str)> = vec![
        (
            "another host's",
            authority(RSA)
                + &signed("server", RSA, "subjectAltName=IP:198.51.100.7")
                + &signed("client", RSA, "keyUsage=digitalSignature"),
            "198.51.100.7",
        ),
        (
            "for another use",
            authority(RSA)
                + &signed("server", RSA, &format!("{SERVER}\\nextendedKeyUsage=codeSigning"))
                + &signed("client", RSA, "keyUsage=digitalSignature"),
            "extended key usage",
        ),
        (
            "expired",
            usual(
                "openssl x509 -req -in server.csr -CA ca.pem -CAkey ca.key -CAcreateserial -days -1 \
                 -extfile server.ext -out server.pem",
            ),
            "expired",
        ),
        (
            "without a name but the subject's",
            authority(RSA)
                + &signed("server", RSA, "keyUsage=digitalSignature")
                + &signed("client", RSA, "keyUsage=digitalSignature"),
            "not valid for",
        ),
        (
            "a stranger's with another name",
            usual(
                "openssl req -x509 -newkey rsa:2048 -nodes -keyout s.key -out s.pem -days 2 -subj /CN=s\n",
            ) + "mv s.key server.key; mv s.pem server.pem",
            "none of the authorities that are trusted here",
        ),
        (
            "a stranger's",
            usual("cp server.pem s; cp server.key k\n")
                + &authority(RSA)
                + &signed("client", RSA, "keyUsage=digitalSignature")
                + "mv s server.pem; mv k server.key",
            "did not sign the server's certificate",
        ),
    ];
    let files = ["ca.pem", "client.pem", "client.key"].map(|name| cluster.etcd.file(name));
    let [ca, cert, key] = &files;
    let flags = ["-etcd-cafile", ca, "-etcd-certfile", cert, "-etcd-keyfile", key];
    for (kind, script, cause) in kinds {
        println!("{kind}");
        cluster.etcd.use_unusable_certificates(&script);
        let mut node = cluster.node(0);

        node.start(&cluster.on_underlay(&flags));

        node.wait_for("Couldn't fetch network config");
        assert!(node.log().contains(cause), "{kind}: {}", node.log());
    }
}

#[test]
fn a_short_rsa_key_that_go_still_takes_is_named() {
    let Some(mut cluster) = Cluster::with("short key", 1, Transport::Tls) else { return };
    let files = ["ca.pem", "client.pem", "client.key"].map(|name| cluster.etcd.file(name));
    let [ca, cert, key] = &files;
    let flags = ["-etcd-cafile", ca, "-etcd-certfile", cert, "-etcd-keyfile", key];
    let server = signed("server", "rsa:1024", SERVER);
    let client = signed("client", RSA, "keyUsage=digitalSignature");
    cluster.etcd.use_certificates(&(authority(RSA) + &server + &client));
    let mut node = cluster.node(0);

    node.start(&cluster.on_underlay(&flags));

    node.wait_for("has an RSA key of 1024 bits: at least 2048 are needed");
}

#[test]
fn files_that_tls_cannot_use_are_named_with_the_true_cause() {
    let Some(cluster) = Cluster::with("bad files", 1, Transport::Tls) else { return };
    let files = ["ca.pem", "client.pem", "client.key"].map(|name| cluster.etcd.file(name));
    let [ca, cert, key] = &files;
    let flags = ["-etcd-cafile", ca, "-etcd-certfile", cert, "-etcd-keyfile", key];
    for (script, cause) in [
        (
            "openssl pkey -in client.key -aes128 -passout pass:x -out e; mv e client.key",
            "encrypted",
        ),
        (
            "openssl rsa -in client.key -traditional -aes128 -passout pass:x -out e; mv e client.key",
            "encrypted",
        ),
        ("cp ca.key client.key", "does not belong to the client certificate"),
        ("echo hello >client.key", "the client key"),
        ("echo hello >client.pem", "the client certificate: no usable certificate"),
        ("echo hello >ca.pem", "the authority: no usable certificate"),
    ] {
        cluster.etcd.script(&all_of(RSA));
        cluster.etcd.script(script);
        let mut node = cluster.node(0);

        node.start(&cluster.on_underlay(&flags));

        assert_eq!(node.end().code(), Some(1), "{script}");
        assert!(node.log().contains(cause), "{script}: {}", node.log());
    }
}
