//! A Postgres of one's own, to be killed, frozen and cut off.
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use sea_orm::{ConnectionTrait, Database};

use crate::address::free_address;

/// Networks so far, for names and addresses that do not meet. Those of other processes differ by their process id.
static NETWORKS: AtomicU32 = AtomicU32::new(0);

/// Says what this test did not do, past the harness, which keeps what a test that passes prints.
pub fn leave_out(what: &str) {
    let thread = std::thread::current();
    let _ = writeln!(std::io::stderr(), "LEFT OUT: {what}: {}", thread.name().unwrap_or("a test"));
}

pub struct Postgres {
    programs: PathBuf,
    data: tempfile::TempDir,
    host: String,
    port: u16,
    network: Option<Network>,
}

/// A network of the server's own, at the other end of a cable.
struct Network {
    name: String,
}

impl Network {
    /// `None` without root, or without `ip`.
    fn new(host: &str, peer: &str) -> Option<Self> {
        let name = format!("gw{}x{}", std::process::id(), NETWORKS.fetch_add(1, Ordering::Relaxed));
        let (near, far) = (format!("{name}n"), format!("{name}f"));
        let network = Self { name: name.clone() };
        let steps = [
            format!("netns add {name}"),
            format!("link add {near} type veth peer name {far} netns {name}"),
            format!("address add {host}/30 dev {near}"),
            format!("link set {near} up"),
            format!("-n {name} address add {peer}/30 dev {far}"),
            format!("-n {name} link set {far} up"),
            format!("-n {name} link set lo up"),
        ];
        steps.iter().all(|step| ip(step)).then_some(network)
    }

    fn cut(&self, is_cut: bool) {
        let state = if is_cut { "down" } else { "up" };
        assert!(ip(&format!("-n {name} link set {name}f {state}", name = self.name)));
    }
}

impl Drop for Network {
    fn drop(&mut self) {
        // The cable goes with it.
        ip(&format!("netns delete {}", self.name));
    }
}

fn ip(arguments: &str) -> bool {
    let mut command = Command::new("ip");
    command.args(arguments.split(' ')).stderr(Stdio::null());
    command.status().is_ok_and(|status| status.success())
}

fn is_root() -> bool {
    std::fs::read_to_string("/proc/self/status").unwrap().contains("\nUid:\t0\t")
}

impl Postgres {
    /// Starts a server with what Debian ships, behind a cable that can be cut if `apart`. `None`, and a line that says
    /// so, with `SKIP_POSTGRES=1`.
    pub async fn start(apart: bool) -> Option<Self> {
        if std::env::var("SKIP_POSTGRES").is_ok_and(|value| value == "1") {
            leave_out("Postgres (SKIP_POSTGRES=1)");
            return None;
        }
        let mut versions: Vec<PathBuf> = std::fs::read_dir("/usr/lib/postgresql")
            .map(|entries| entries.map(|entry| entry.unwrap().path().join("bin")).collect())
            .unwrap_or_default();
        versions.retain(|programs| programs.join("initdb").exists());
        versions.sort();
        let programs = versions.pop().expect(
            "this test needs Debian's package postgresql; `tests/run chaos` installs it, SKIP_POSTGRES=1 leaves the test out",
        );
        // Not below TMPDIR, which the user postgres may not reach.
        let data = tempfile::Builder::new().prefix("gateway-chaos-").tempdir_in("/tmp").unwrap();
        if is_root() {
            assert!(Command::new("chown").args(["postgres:"]).arg(data.path()).status().unwrap().success());
        }
        let port = free_address().port();
        let part = std::process::id() % 60_000;
        let net = format!("10.{}.{}", 200 + part / 256 % 50, part % 256);
        let network = if apart { Network::new(&format!("{net}.1"), &format!("{net}.2")) } else { None };
        let host = if network.is_some() { format!("{net}.2") } else { "127.0.0.1".to_owned() };
        let server = Self { programs, data, host, port, network };
        let folder = server.folder();
        server.run(
            "initdb",
            &["-D", &folder, "-U", "postgres", "--auth=trust", "--encoding=UTF8", "--no-locale", "--no-sync"],
        );
        let trust = format!("host all all {net}.0/30 trust\n");
        let access = Path::new(&folder).join("pg_hba.conf");
        let old = std::fs::read_to_string(&access).unwrap();
        std::fs::write(&access, old + &trust).unwrap();
        server.up();
        Some(server)
    }

    /// Whether it can be cut off.
    pub fn is_apart(&self) -> bool {
        self.network.is_some()
    }

    fn folder(&self) -> String {
        self.data.path().join("data").display().to_string()
    }

    fn command(&self, program: &str) -> Command {
        let program = self.programs.join(program);
        let mut command = match &self.network {
            Some(network) => {
                let mut command = Command::new("ip");
                command.args(["netns", "exec", &network.name]);
                command.args(["runuser", "-u", "postgres", "--"]).arg(program);
                command
            }
            None if is_root() => {
                let mut command = Command::new("runuser");
                command.args(["-u", "postgres", "--"]).arg(program);
                command
            }
            None => Command::new(program),
        };
        // A folder that this user may enter.
        command.current_dir("/");
        command
    }

    fn run(&self, program: &str, arguments: &[&str]) {
        // Not a pipe: the server would keep it open.
        let log = std::fs::File::create(self.data.path().join("run.log")).unwrap();
        let mut command = self.command(program);
        let status = command.args(arguments).stdout(log.try_clone().unwrap()).stderr(log).status().unwrap();
        assert!(status.success(), "{program} {arguments:?}");
    }

    /// Starts it, be it after an accident.
    pub fn up(&self) {
        let options =
            format!("-h {} -p {} -k {} -c max_connections=60", self.host, self.port, self.data.path().display());
        let began = Instant::now();
        loop {
            let mut command = self.command("pg_ctl");
            let log = self.data.path().join("log").display().to_string();
            command.args(["-D", &self.folder(), "-l", &log, "-o", &options, "-w", "-t", "30", "start"]);
            if command.stdout(Stdio::null()).stderr(Stdio::null()).status().unwrap().success() {
                return;
            }
            // What is left of the one that was killed holds the memory for a moment.
            assert!(began.elapsed() < Duration::from_secs(60), "Postgres does not start");
            std::thread::sleep(Duration::from_millis(100));
        }
    }

    /// A new database.
    pub async fn new_database(&self) -> String {
        let name = format!("chaos_{}", uuid::Uuid::now_v7().simple());
        self.execute(&format!("CREATE DATABASE {name}")).await;
        format!("postgres://postgres@{}:{}/{name}", self.host, self.port)
    }

    async fn execute(&self, sql: &str) {
        let url = format!("postgres://postgres@{}:{}/postgres", self.host, self.port);
        let began = Instant::now();
        // A cable that was cut takes a moment to be believed again.
        let db = loop {
            match Database::connect(&url).await {
                Ok(db) => break db,
                Err(error) => assert!(began.elapsed() < Duration::from_secs(20), "{error}"),
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        };
        db.execute_unprepared(sql).await.unwrap();
        db.close().await.unwrap();
    }

    /// The server and all its processes, the server first.
    fn processes(&self) -> Vec<String> {
        let file = std::fs::read_to_string(Path::new(&self.folder()).join("postmaster.pid")).unwrap();
        let server = file.lines().next().unwrap().to_owned();
        let children = Command::new("pgrep").args(["-P", &server]).output().unwrap();
        let children = String::from_utf8(children.stdout).unwrap();
        std::iter::once(server).chain(children.lines().map(str::to_owned)).collect()
    }

    fn signal(&self, signal: &str) {
        // One that has gone in the meantime is no matter.
        Command::new("kill").arg(signal).args(self.processes()).stderr(Stdio::null()).status().unwrap();
    }

    pub fn kill(&self) {
        self.signal("-KILL");
    }

    pub fn freeze(&self) {
        self.signal("-STOP");
    }

    pub fn thaw(&self) {
        self.signal("-CONT");
    }

    pub fn stop_at_once(&self) {
        self.run("pg_ctl", &["-D", &self.folder(), "-m", "immediate", "-w", "stop"]);
    }

    pub fn cut(&self, is_cut: bool) {
        self.network.as_ref().unwrap().cut(is_cut);
    }

    /// Ends the gateway's connections, whatever they are at.
    pub async fn hang_up(&self) {
        self.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'ollama-gateway'",
        )
        .await;
    }
}

impl Drop for Postgres {
    fn drop(&mut self) {
        if Path::new(&self.folder()).join("postmaster.pid").exists() {
            self.thaw();
            self.kill();
        }
        std::thread::sleep(Duration::from_millis(100));
    }
}
