//! Is the configuration valid? Prints every mistake at once, and never a secret. Asks Postgres, if it answers, for other
//! gateways.
use std::path::Path;

use super::admin_key;
use super::load::load;
use crate::clock::Clock;
use crate::config::{Config, DEFAULT_FILE};
use crate::fleet::twins_now;
use crate::store::{self, OtherGateways, StoreError};

pub(super) fn run(file: Option<&Path>) -> Result<(), String> {
    let config = load(file)?;
    let mistakes = mistakes_in_files(&config);
    if !mistakes.is_empty() {
        return Err(mistakes.join("\n"));
    }
    let mut warnings = Vec::new();
    if config.database.sqlite_path().is_none() {
        match actix_rt::System::new().block_on(store::try_postgres(&config.database)) {
            Err(error @ StoreError::SharedSessions) => return Err(error.to_string()),
            Err(error) => warnings.push(format!("Postgres could not be tried: {error}")),
            Ok(()) => {}
        }
    }
    let path = file.unwrap_or(Path::new(DEFAULT_FILE));
    let source =
        if path.exists() { path.display().to_string() } else { "no file; defaults and environment".to_owned() };
    println!("The configuration is good ({source}).");
    let over = if config.server.tls.files().is_some() { ", over TLS" } else { "" };
    println!("  listens on  {}{over}", config.server.bind);
    if let Some(plain) = &config.server.tls.plain_bind {
        println!("  and on      {plain}, without TLS");
    }
    let kind = if config.database.sqlite_path().is_some() { "SQLite" } else { "Postgres" };
    println!("  database    {kind}");
    if let Some(bind) = &config.cluster.bind {
        println!("  link        {bind}");
    }
    for node in &config.nodes {
        println!("  node        {} at {}, {}", node.name, node.url, node.slots_in_words());
    }
    if config.database.sqlite_path().is_none() {
        warnings.extend(look_for_others(&config));
    }
    for (one, other) in actix_rt::System::new().block_on(twins_now(&config.nodes)) {
        warnings.push(format!(
            "nodes `{one}` and `{other}` are the same engine, which would get twice the requests that it has slots for: \
             remove one of them"
        ));
    }
    let now = Clock::start().now().unix_ms / 1_000;
    if let Ok(Some(certificate)) = config.server.tls.certificate()
        && let Some(warning) = certificate.warning(now)
    {
        warnings.push(warning);
    }
    for warning in warnings {
        eprintln!("warning: {warning}");
    }
    Ok(())
}

/// What the gateway would not start with: files that cannot be read or written, and secrets in them that do not fit.
fn mistakes_in_files(config: &Config) -> Vec<String> {
    let secrets = [admin_key::known(config).map(drop), config.cluster.configured_secret().map(drop)];
    let of_store = store::try_files(&config.database, &config.keys);
    secrets.into_iter().filter_map(Result::err).chain(of_store.iter().map(ToString::to_string)).collect()
}

/// Gateways on one Postgres have one scheduler if each has a link. The warning if one lacks it.
fn look_for_others(config: &Config) -> Option<String> {
    let found = actix_rt::System::new().block_on(OtherGateways::find(&config.database));
    let Ok(OtherGateways { count, unlinked }) = found else {
        println!("  gateways    unknown; if there are several on this Postgres, each needs `cluster.bind`");
        return None;
    };
    let others = match count {
        0 => "no other gateway is alive on this Postgres".to_owned(),
        1 => "another gateway is alive on this Postgres".to_owned(),
        _ => format!("{count} other gateways are alive on this Postgres"),
    };
    println!("  gateways    {others}");
    let lack = match (&config.cluster.bind, unlinked) {
        (None, _) if count > 0 => "and `cluster.bind` is not set here".to_owned(),
        (Some(_), 1..) => format!("{unlinked} of them without `cluster.bind`"),
        _ => return None,
    };
    let effect =
        "each gateway schedules for its own clients only, within a share of the slots; see docs/operate/cluster.md";
    Some(format!("{others}, {lack}: {effect}"))
}
