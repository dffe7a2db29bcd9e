//! What a reload does with each key of the file.

/// What a reload does with a key whose value has changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OnReload {
    /// The new value is in force when the reload ends.
    Apply,
    /// The old value stays in force until a restart, with a warning; the rest is reloaded.
    Restart,
    /// Nothing is reloaded, and the error names the key: peers are checked against its value, and
    /// their default ports come from it.
    Refuse,
}

impl OnReload {
    /// The word for it in docs/STANDALONE.md.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Self::Apply => "applied",
            Self::Restart => "restart",
            Self::Refuse => "refused",
        }
    }

    /// What a reload does with a key of `[interface]`.
    #[must_use]
    pub(crate) fn of(key: &str) -> Self {
        let found = ON_RELOAD.iter().find(|(table, name, _)| *table == "interface" && *name == key);
        found.map_or(Self::Restart, |(_, _, effect)| *effect)
    }
}

/// Every key, by table. A reload follows this list; docs/STANDALONE.md shows it.
pub const ON_RELOAD: [(&str, &str, OnReload); 28] = [
    ("peer", "name", OnReload::Apply),
    ("peer", "endpoint", OnReload::Apply),
    ("peer", "subnets", OnReload::Apply),
    ("interface", "device_queue", OnReload::Apply),
    ("interface", "listen", OnReload::Refuse),
    ("interface", "address", OnReload::Refuse),
    ("interface", "local", OnReload::Refuse),
    ("interface", "name", OnReload::Restart),
    ("interface", "mtu", OnReload::Restart),
    ("interface", "underlay_mtu", OnReload::Restart),
    ("interface", "queues", OnReload::Restart),
    ("interface", "engine", OnReload::Restart),
    ("interface", "offload", OnReload::Restart),
    ("interface", "ingress_check", OnReload::Restart),
    ("interface", "peer_sources", OnReload::Restart),
    ("interface", "source_ports", OnReload::Restart),
    ("interface", "steering", OnReload::Restart),
    ("interface", "fast_path", OnReload::Restart),
    ("interface", "keep_forwarding", OnReload::Restart),
    ("interface", "pinning", OnReload::Restart),
    ("interface", "scheduling", OnReload::Restart),
    ("interface", "busy_poll_us", OnReload::Restart),
    ("interface", "socket_buffer", OnReload::Restart),
    ("interface", "socket", OnReload::Restart),
    ("interface", "socket_group", OnReload::Restart),
    ("interface", "metrics", OnReload::Restart),
    ("interface", "telemetry", OnReload::Restart),
    ("interface", "probe_seconds", OnReload::Restart),
];
