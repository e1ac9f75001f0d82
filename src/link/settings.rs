//! The settings of the link between gateways.
use std::net::SocketAddr;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

/// The least length of a secret.
const MIN_SECRET: usize = 16;

/// How gateways on one Postgres reach each other, so that one of them schedules for all.
#[derive(Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ClusterSettings {
    /// Address and port on which this gateway listens for the others, such as `0.0.0.0:8001`. Only gateways need to
    /// reach it. `null` = no link: gateways on one Postgres then divide the slots. Default `null`.
    pub bind: Option<String>,
    /// `http://HOST:PORT` under which the others reach that address: this gateway's own, not a load balancer's.
    /// `null` = the address of `bind`. Default `null`.
    pub advertise: Option<String>,
    /// What gateways prove to each other that they know, at least 16 characters, the same for all. `null` = one is made
    /// and kept in the database. Default `null`.
    pub secret: Option<String>,
    /// A file that holds the secret, instead of `secret`. Default `null`.
    pub secret_file: Option<PathBuf>,
}

/// Keeps the secret out of logs.
impl std::fmt::Debug for ClusterSettings {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let mut formatter = formatter.debug_struct("ClusterSettings");
        formatter.field("bind", &self.bind).field("advertise", &self.advertise).finish_non_exhaustive()
    }
}

impl ClusterSettings {
    /// The address to listen on; `None` if there is none, or it is no address.
    pub fn address(&self) -> Option<SocketAddr> {
        self.bind.as_ref()?.replacen("localhost:", "127.0.0.1:", 1).parse().ok()
    }

    /// The mistakes: the setting's name, what is wrong, and what would be right.
    pub fn flaws(&self) -> Vec<(&'static str, &'static str, &'static str)> {
        let mut flaws = Vec::new();
        if self.bind.is_some() && self.address().is_none() {
            flaws.push(("bind", "expected ADDRESS:PORT", "such as 0.0.0.0:8001"));
        }
        match &self.advertise {
            Some(url) if host_and_port(url).is_none() => {
                flaws.push(("advertise", "expected http://HOST:PORT", "such as http://gateway-1:8001"));
            }
            None if self.address().is_some_and(|address| address.ip().is_unspecified()) => {
                let message = "expected http://HOST:PORT, as `cluster.bind` names no host that others could reach";
                flaws.push(("advertise", message, "such as http://gateway-1:8001"));
            }
            _ => {}
        }
        if self.secret.is_some() && self.secret_file.is_some() {
            flaws.push(("secret_file", "`cluster.secret` is given as well", "give one of them"));
        }
        if self.secret.as_ref().is_some_and(|secret| !is_fit(secret)) {
            flaws.push(("secret", "expected at least 16 characters", "`openssl rand -hex 32` makes a good one"));
        }
        flaws
    }

    /// The secret that is configured.
    ///
    /// # Errors
    /// The file cannot be read, or what it holds is too short.
    pub fn configured_secret(&self) -> Result<Option<String>, String> {
        let Some(file) = &self.secret_file else { return Ok(self.secret.clone()) };
        let complain = |why: &str| format!("cluster.secret_file: {}: {why}", file.display());
        let secret = std::fs::read_to_string(file).map_err(|error| complain(&error.to_string()))?;
        let secret = secret.trim();
        if is_fit(secret) { Ok(Some(secret.to_owned())) } else { Err(complain("expected at least 16 characters")) }
    }
}

fn is_fit(secret: &str) -> bool {
    secret.trim().len() >= MIN_SECRET
}

/// What stands after `http://`, if it is a host and a port.
pub(super) fn host_and_port(url: &str) -> Option<&str> {
    let rest = url.strip_prefix("http://")?.trim_end_matches('/');
    let (host, port) = rest.rsplit_once(':')?;
    (!host.is_empty() && !host.contains(['/', '@', ',', ' ']) && port.parse::<u16>().is_ok()).then_some(rest)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_advertised_address_is_a_host_and_a_port() {
        for good in ["http://a:1", "http://10.0.0.1:8001/", "http://[::1]:8001"] {
            assert!(host_and_port(good).is_some(), "{good}");
        }
        for bad in ["a:1", "https://a:1", "http://a", "http://:1", "http://a/b:1", "http://u@a:1", "http://a:b"] {
            assert!(host_and_port(bad).is_none(), "{bad}");
        }
    }

    #[test]
    fn an_address_for_any_interface_needs_another_to_be_reached_at() {
        let of = |bind: &str, advertise: Option<&str>| {
            let settings = ClusterSettings {
                bind: Some(bind.to_owned()),
                advertise: advertise.map(str::to_owned),
                ..ClusterSettings::default()
            };
            settings.flaws().into_iter().map(|(key, ..)| key).collect::<Vec<_>>()
        };
        assert_eq!(of("0.0.0.0:1", None), ["advertise"]);
        assert!(of("0.0.0.0:1", Some("http://a:1")).is_empty());
        assert!(of("127.0.0.1:1", None).is_empty());
        assert_eq!(of("here", None), ["bind"]);
    }
}
