//! Is the gateway on this machine alive? Asked over loopback, at the port in the same configuration; at the plain one if
//! there are two.
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use super::load::load;
use crate::tls::Trusting;

const PATIENCE: Duration = Duration::from_secs(2);

pub(super) fn run(file: Option<&Path>) -> Result<(), String> {
    let config = load(file)?;
    let tls = &config.server.tls;
    let (scheme, bind) = match (tls.files(), tls.plain_address()) {
        (Some(_), None) => ("https", config.bind()),
        (Some(_), plain) => ("http", plain),
        (None, _) => ("http", config.bind()),
    };
    let bind = bind.ok_or("server.bind: expected ADDRESS:PORT")?;
    let url = format!("{scheme}://{}/health/live", reachable(bind));
    let trusting = Trusting::config().map_err(|error| error.to_string())?;
    actix_rt::System::new().block_on(async {
        let connector = awc::Connector::new().rustls_0_23(Arc::new(trusting)).timeout(PATIENCE);
        let client = awc::Client::builder().connector(connector).timeout(PATIENCE).disable_redirects().finish();
        match client.get(&url).send().await {
            Ok(response) if response.status().is_success() => Ok(()),
            Ok(response) => Err(format!("{url}: status {}", response.status().as_u16())),
            Err(error) => Err(format!("{url}: {error}")),
        }
    })
}

/// If the gateway listens on all interfaces, it is reached through loopback.
fn reachable(bind: SocketAddr) -> SocketAddr {
    let ip = match bind.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => Ipv4Addr::LOCALHOST.into(),
        IpAddr::V6(ip) if ip.is_unspecified() => Ipv6Addr::LOCALHOST.into(),
        ip => ip,
    };
    SocketAddr::new(ip, bind.port())
}
