//! Is the configuration valid? Prints every mistake at once, and never a secret. Asks Postgres, if it answers, for other
//! gateways.
use std::path::Path;

use super::load::load;
use crate::clock::Clock;
use crate::config::{Config, DEFAULT_FILE};
use crate::store::OtherGateways;

pub(super) fn run(file: Option<&Path>) -> Result<(), String> {
    let config = load(file)?;
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
        look_for_others(&config);
    }
    let now = Clock::start().now().unix_ms / 1_000;
    if let Ok(Some(certificate)) = config.server.tls.certificate()
        && let Some(warning) = certificate.warning(now)
    {
        eprintln!("warning: {warning}");
    }
    Ok(())
}

/// Gateways on one Postgres have one scheduler if each has a link.
fn look_for_others(config: &Config) {
    let found = actix_rt::System::new().block_on(OtherGateways::find(&config.database));
    let Ok(OtherGateways { count, unlinked }) = found else {
        return println!(
            "  gateways    unknown: the database did not answer. Several on one Postgres need `cluster.bind`"
        );
    };
    let others = match count {
        0 => "no other gateway is alive on this Postgres".to_owned(),
        1 => "another gateway is alive on this Postgres".to_owned(),
        _ => format!("{count} other gateways are alive on this Postgres"),
    };
    println!("  gateways    {others}");
    let effect =
        "each gateway schedules for its own clients only, within a share of the slots; see docs/operate/cluster.md";
    if config.cluster.bind.is_none() && count > 0 {
        eprintln!("warning: {others}, and `cluster.bind` is not set here: {effect}");
    } else if unlinked > 0 {
        eprintln!("warning: {others}, {unlinked} of them without `cluster.bind`: {effect}");
    }
}
