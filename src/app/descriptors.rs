//! How many files may the process have open, and how many of them may be client connections?
//!
//! A gateway that runs out of file descriptors can neither reach its nodes nor write its local file. So clients beyond
//! their share wait to be accepted, which costs no descriptor.
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// For databases, listeners, logs and the runtime.
const OWN: u64 = 64;
/// For probes, listings, loads and idle connections.
const PER_NODE: u64 = 8;
/// This many clients are served even with very few descriptors.
const LEAST_CLIENTS: u64 = 16;

/// Raises the soft limit to the hard one, and returns it; `None` = no limit.
pub(super) fn raise() -> Option<u64> {
    let Rlimit { current, maximum } = getrlimit(Resource::Nofile);
    if current != maximum && setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum }).is_ok() {
        return maximum;
    }
    current
}

/// The most client connections at a time: each may need one to a node as well.
pub(super) fn most_clients(descriptors: u64, nodes: usize) -> u64 {
    let kept = OWN + PER_NODE * nodes as u64;
    (descriptors.saturating_sub(kept) / 2).max(LEAST_CLIENTS)
}

/// A warning for the operator if fewer clients can connect than requests may wait.
pub(super) fn shortage(descriptors: u64, nodes: usize, max_queued: usize) -> Option<String> {
    let clients = most_clients(descriptors, nodes);
    let wanted = OWN + PER_NODE * nodes as u64 + 2 * max_queued as u64;
    (clients < max_queued as u64).then(|| {
        format!(
            "{descriptors} file descriptors are enough for {clients} clients at a time, but queue.max_queued is \
             {max_queued}: raise the limit to {wanted} (systemd's LimitNOFILE, or ulimit -Hn), or clients beyond that \
             wait to be accepted"
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn some_are_kept_for_nodes_and_for_the_gateway_itself() {
        assert_eq!(most_clients(256, 3), 84);
        assert_eq!(most_clients(1_048_576, 100), 523_856);
        assert_eq!(most_clients(32, 3), LEAST_CLIENTS);
        for (descriptors, nodes) in [(256, 0), (256, 3), (1024, 8), (65_536, 64)] {
            let clients = most_clients(descriptors, nodes);
            assert!(2 * clients + OWN + PER_NODE * nodes as u64 <= descriptors.max(128), "{descriptors} {nodes}");
        }
    }

    #[test]
    fn too_few_for_the_queue_are_told_with_the_number_that_is_enough() {
        let told = shortage(256, 3, 1000).unwrap();
        assert!(told.contains("84 clients") && told.contains("2088"), "{told}");
        assert_eq!(shortage(2088, 3, 1000), None);
    }

    #[test]
    fn the_soft_limit_is_raised_to_the_hard_one() {
        let raised = raise();
        assert_eq!(raised, getrlimit(Resource::Nofile).current);
    }
}
