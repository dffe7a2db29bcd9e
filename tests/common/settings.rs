//! The settings that tests' gateways have in common.

use ipnet::IpNet;
use std::net::SocketAddr;
use std::time::Duration;
use twill::config::{Mtu, Pinning, QueueCount, Settings, SourcePorts, Steering};
use twill::engine::EngineChoice;
use twill_datapath::IngressCheck;
use twill_datapath::offload::feature::FeatureSet;

/// One queue on `tun0`, every offload, flannel's MTU; a test changes what it is about.
pub(crate) fn settings(listen: SocketAddr, address: IpNet, local: IpNet) -> Settings {
    Settings {
        device: "tun0".to_owned(),
        addresses: vec![address],
        mtu: Mtu::try_from(1472).unwrap(),
        listen,
        local: vec![local],
        queues: QueueCount::ONE,
        engine: EngineChoice::Auto,
        offloads: FeatureSet::ALL,
        gso_forced: false,
        ingress_check: IngressCheck::Strict,
        peer_sources: Vec::new(),
        source_ports: SourcePorts::Fixed,
        steering: Steering::Peers,
        busy_poll: Duration::ZERO,
        pinning: Pinning::None,
        socket_buffer: 1 << 20,
        device_queue: 1000,
        telemetry: true,
    }
}
