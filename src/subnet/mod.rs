//! Who should hold which subnet: leases and peers, before they become routes.
