//! The disk is full.
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use serde_json::Value;

use crate::gateway::{Home, wait_for};
use crate::kills::nodes;
use crate::load::{Load, chat};
use crate::oracle::compare;
use crate::postgres::{Postgres, leave_out};
use crate::run::Random;

/// A small disk of one's own, for as long as it lasts.
struct Disk(tempfile::TempDir);

impl Disk {
    fn mount(megabytes: u32) -> Option<Self> {
        let folder = tempfile::tempdir().unwrap();
        let mut mount = Command::new("mount");
        mount.args(["-t", "tmpfs", "-o", &format!("size={megabytes}m"), "tmpfs"]).arg(folder.path());
        let mounted = mount.stderr(std::process::Stdio::null()).status().is_ok_and(|status| status.success());
        if !mounted {
            leave_out("a full disk, which needs root");
        }
        mounted.then_some(Self(folder))
    }

    /// Fills it to the last byte.
    fn fill(&self) -> PathBuf {
        let path = self.0.path().join("ballast");
        let mut file = std::fs::File::create(&path).unwrap();
        let mut size = 1 << 20;
        while size > 0 {
            // In ever smaller pieces, until not even one byte fits.
            if std::io::Write::write_all(&mut file, &vec![1; size]).is_err() {
                size /= 2;
            }
        }
        path
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("--lazy").arg(self.0.path()).status();
    }
}

async fn fill_and_free(database: impl Fn(&std::path::Path) -> String) {
    let Some(disk) = Disk::mount(12) else { return };
    let seed = Random::seed();
    println!("CHAOS_SEED={seed}");
    let mut random = Random::new(seed);
    let nodes = nodes(1).await;
    let database = database(disk.0.path());
    let home = Home::new(disk.0.path(), &[nodes[0].url()], &database);
    let gateway = home.start().await;
    let key = gateway.user("ann").await;
    gateway.settle().await;
    let load = Load::start(gateway.address, &key, 12, &mut random);
    let mut seen = 0;
    for _ in 0..3 {
        tokio::time::sleep(Duration::from_millis(300)).await;
        let ballast = disk.fill();
        wait_for("it is not ready", async || !gateway.is_ready().await).await;
        // Those that run have their time to end, and find room for their rows.
        tokio::time::sleep(Duration::from_millis(2500)).await;
        let refused = gateway.ask("POST", "/v1/chat/completions", &key, &chat("hi")).await;
        assert_eq!(refused.status, 503, "CHAOS_SEED={seed}: {}", refused.body);
        let error: Value = serde_json::from_str(&refused.body).unwrap();
        assert_eq!(error["error"]["code"], "storage_unavailable");
        std::fs::remove_file(ballast).unwrap();
        wait_for("it is ready again", async || gateway.is_ready().await).await;
        let before = seen;
        wait_for("requests are served again", async || {
            seen = load.sent.borrow().iter().filter(|sent| sent.is_acknowledged).count();
            seen > before + 5
        })
        .await;
    }
    let sent = load.finish().await;
    if database.starts_with("postgres") {
        wait_for("the outbox is empty", async || gateway.metric("gateway_usage_outbox_rows").await == 0.0).await;
    }
    gateway.stop().await;
    let verdict = compare(&database, &nodes, &sent, &[]).await;
    println!("disk: {verdict:?}");
    verdict.assert_clean(seed);
}

#[actix_rt::test]
async fn a_full_disk_admits_nothing_charges_what_runs_and_recovers() {
    fill_and_free(|folder| format!("sqlite://{}", folder.join("gateway.db").display())).await;
}

#[actix_rt::test]
async fn a_full_disk_in_front_of_postgres_admits_nothing_charges_what_runs_and_recovers() {
    let Some(postgres) = Postgres::start(false).await else { return };
    let database = postgres.new_database().await;
    fill_and_free(|_| database.clone()).await;
}
