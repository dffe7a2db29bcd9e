//! Where leases are kept: opened from the command line's words. Nothing is sent yet.

use crate::config::flanneld::Etcd;
#[cfg(feature = "kube")]
use crate::config::flanneld::Kube;
use crate::host::Previous;
use crate::subnet::etcd::EtcdStore;
use crate::subnet::etcd::client::{Access, AccessError};
#[cfg(feature = "kube")]
use crate::subnet::kube::{self, KubeStore};
use std::time::Duration;
use tracing::{info, warn};

/// etcd. Certificates that are of no use are found here, before anything else.
pub(super) fn etcd(
    etcd: &Etcd,
    margin: Duration,
    previous: Previous,
) -> Result<EtcdStore, AccessError> {
    let access = Access::new(etcd.endpoints.clone(), etcd.tls.as_ref(), etcd.credentials.clone())?;
    warn_of_plain(&access, etcd.tls.is_some());
    let before = previous.subnets;
    let before = if before.is_empty() { "None".to_owned() } else { before.to_string() };
    info!("Created subnet manager: Etcd Local Manager with Previous Subnet: {before}");
    Ok(EtcdStore::new(access, &etcd.prefix, margin))
}

/// flannel's words for those who look for them, if they are true.
fn warn_of_plain(access: &Access, is_certified: bool) {
    let plain: Vec<_> = access.plain_endpoints().collect();
    let plain = plain.join(", ");
    match is_certified {
        _ if plain.is_empty() => {}
        false => warn!(
            "no certificate provided: connecting to etcd with http. This is insecure ({plain})"
        ),
        true => warn!(
            "connecting to etcd with http in spite of a certificate: {plain}. This is insecure: \
             write https://"
        ),
    }
}

/// The nodes of a Kubernetes cluster.
#[cfg(feature = "kube")]
pub(super) fn kube(kube: Kube) -> Result<KubeStore, kube::AccessError> {
    let access = kube::Access::new(&kube.access)?;
    if access.trusts_anybody() {
        warn!("insecure-skip-tls-verify is set: anybody can pose as the API server");
    }
    info!("Created subnet manager: Kubernetes Subnet Manager");
    Ok(KubeStore::new(access, kube.membership))
}
