//! The machine around the gateway: links, routes, firewall, files.
