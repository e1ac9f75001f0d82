//! Is the gateway on this machine alive? Asked over loopback, at the port in the same configuration.
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::Path;
use std::time::Duration;

use super::load::load;

const PATIENCE: Duration = Duration::from_secs(2);

pub(super) fn run(file: Option<&Path>) -> Result<(), String> {
    let config = load(file)?;
    let bind = config.bind().ok_or("server.bind: expected ADDRESS:PORT")?;
    let url = format!("http://{}/health/live", reachable(bind));
    actix_rt::System::new().block_on(async {
        let client = awc::Client::builder().timeout(PATIENCE).disable_redirects().finish();
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
