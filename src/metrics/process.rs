//! What does this process use of its machine? Read from `/proc` at each scrape; on systems other than Linux, values
//! never change.
use prometheus::{Counter, Error, Gauge, Registry};

use super::declare::Declare;

/// Fixed by Linux' interface for programs, whatever unit the kernel counts in.
const TICKS_PER_SECOND: f64 = 100.0;

/// The families that Prometheus' own libraries export as well.
#[derive(Debug)]
pub(super) struct Process {
    cpu: Counter,
    resident: Gauge,
    virtual_memory: Gauge,
    open_files: Gauge,
    max_files: Gauge,
    threads: Gauge,
    started: Gauge,
}

impl Process {
    pub(super) fn declare(registry: &Registry) -> Result<Self, Error> {
        let declare = Declare(registry);
        let process = Self {
            cpu: declare.process_counter("cpu_seconds_total", "CPU time used, user and system.")?,
            resident: declare.process_gauge("resident_memory_bytes", "Resident memory.")?,
            virtual_memory: declare.process_gauge("virtual_memory_bytes", "Virtual memory.")?,
            open_files: declare.process_gauge("open_fds", "Open file descriptors, connections included.")?,
            max_files: declare.process_gauge("max_fds", "Limit of open file descriptors.")?,
            threads: declare.process_gauge("threads", "Threads.")?,
            started: declare.process_gauge("start_time_seconds", "Unix time when the process started.")?,
        };
        if let Some(started) = started() {
            process.started.set(started);
        }
        Ok(process)
    }

    pub(super) fn look(&self) {
        if let Some(spent) = stat(11).zip(stat(12)).map(|(user, system)| (user + system) / TICKS_PER_SECOND) {
            self.cpu.inc_by((spent - self.cpu.get()).max(0.0));
        }
        let status = read("/proc/self/status");
        let number = |name: &str| number_after(status.as_deref()?, name);
        let kilobytes = [(&self.resident, "VmRSS:"), (&self.virtual_memory, "VmSize:")];
        for (gauge, name) in kilobytes {
            number(name).into_iter().for_each(|kilobytes| gauge.set(kilobytes * 1024.0));
        }
        number("Threads:").into_iter().for_each(|threads| self.threads.set(threads));
        if let Ok(files) = std::fs::read_dir("/proc/self/fd") {
            self.open_files.set(files.count() as f64);
        }
        let limits = read("/proc/self/limits");
        let most = limits.and_then(|limits| number_after(&limits, "Max open files"));
        most.into_iter().for_each(|most| self.max_files.set(most));
    }
}

fn read(path: &str) -> Option<String> {
    std::fs::read_to_string(path).ok()
}

/// The first number of the line that begins with `name`.
fn number_after(text: &str, name: &str) -> Option<f64> {
    let line = text.lines().find_map(|line| line.strip_prefix(name))?;
    line.split_whitespace().next()?.parse().ok()
}

/// A field of `/proc/self/stat`, counted from the one after the name, which may contain spaces and brackets.
fn stat(index: usize) -> Option<f64> {
    let text = read("/proc/self/stat")?;
    let (_, fields) = text.rsplit_once(')')?;
    fields.split_whitespace().nth(index)?.parse().ok()
}

/// In seconds since 1970.
fn started() -> Option<f64> {
    let booted = number_after(&read("/proc/stat")?, "btime")?;
    Some(booted + stat(19)? / TICKS_PER_SECOND)
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use super::*;

    #[test]
    fn the_numbers_are_those_of_this_process() {
        let process = Process::declare(&Registry::new()).unwrap();
        process.look();
        let megabyte = 1024.0 * 1024.0;
        assert!(process.resident.get() > megabyte && process.resident.get() < process.virtual_memory.get());
        assert!(process.open_files.get() >= 3.0 && process.open_files.get() < process.max_files.get());
        assert!(process.threads.get() >= 1.0);
        let age = std::time::UNIX_EPOCH.elapsed().unwrap().as_secs_f64() - process.started.get();
        assert!((-2.0..3600.0).contains(&age), "{age}");
    }
}
