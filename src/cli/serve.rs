//! How is a real gateway started, and what does it print?
use std::path::Path;

use super::load::load;
use super::{admin_key, process};
use crate::app::App;
use crate::config::Config;
use crate::fleet::Resolver;
use crate::store::KeyDigest;

pub(super) fn run(file: Option<&Path>) -> Result<(), String> {
    let config = load(file)?;
    let log = config.log.install();
    let admin = admin_key::find(&config)?;
    actix_rt::System::new().block_on(async {
        let stop = process::stop_signal()?;
        let digest = KeyDigest::of(&admin.key);
        let named = file.map(Path::to_path_buf);
        let read = move || load(named.as_deref());
        let app = App::build_with(config.clone(), digest, Resolver::system(), read);
        let app = app.await.map_err(|error| error.to_string())?;
        process::reload_on_hangup(app.reloader())?;
        print_banner(&app, &config, &admin);
        process::logged(&log, app.run(stop)).await.map_err(|error| error.to_string())
    })
}

fn print_banner(app: &App, config: &Config, admin: &admin_key::Found) {
    let is_secure = config.server.tls.files().is_some();
    let base = format!("{}://{}", if is_secure { "https" } else { "http" }, app.address());
    println!("ollama-gateway {}", env!("CARGO_PKG_VERSION"));
    if config.server.console {
        println!("  console   {base}/console");
    }
    println!("  API       {base}/v1");
    println!("  docs      {base}/docs");
    println!("  health    {base}/health");
    println!("  metrics   {base}/metrics");
    if let Some(plain) = app.plain_address() {
        println!("  plain     http://{plain}");
    }
    for node in &config.nodes {
        println!("  node      {} at {}, {}", node.name, node.url, node.slots_in_words());
    }
    println!("  users     {}", app.accounts().count());
    if let Some(path) = &admin.made {
        println!("\n  admin key {}\n  Shown only this once, and kept in {} (mode 0600).", admin.key, path.display());
    }
    if app.accounts().count() == 0 {
        println!("\nCreate a user:\n");
        println!("  curl {base}/admin/users -H 'Authorization: Bearer <admin key>' -d '{{\"user_id\":\"user-123\"}}'");
    }
    if !is_secure && !app.address().ip().is_loopback() {
        println!(
            "\nKeys are sent unencrypted: set server.tls, or put TLS in front of an address that others can reach."
        );
    }
    println!();
}
