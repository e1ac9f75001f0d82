//! How many files may the process have open, and how many of them may be clients' connections?
//!
//! A gateway that runs out of file descriptors can neither reach its nodes nor write its local file. Clients beyond their
//! share therefore wait to be accepted, which costs nothing here.
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// Databases, listeners, logs and what the runtime needs.
const OWN: u64 = 64;
/// Probes, listings, loads and idle connections.
const PER_NODE: u64 = 8;
/// However few there are, somebody is served.
const LEAST_CLIENTS: u64 = 16;

/// Raises the soft limit as far as it goes; what it is then. `None` = there is none.
pub(super) fn raise() -> Option<u64> {
    let Rlimit { current, maximum } = getrlimit(Resource::Nofile);
    if current != maximum && setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum }).is_ok() {
        return maximum;
    }
    current
}

/// Connections of clients at a time: each may need one to a node as well.
pub(super) fn most_clients(descriptors: u64, nodes: usize) -> u64 {
    let kept = OWN + PER_NODE * nodes as u64;
    (descriptors.saturating_sub(kept) / 2).max(LEAST_CLIENTS)
}

/// What to tell the operator where so many clients are fewer than may wait.
pub(super) fn shortage(descriptors: u64, nodes: usize, max_queued: usize) -> Option<String> {
    let clients = most_clients(descriptors, nodes);
    let wanted = OWN + PER_NODE * nodes as u64 + 2 * max_queued as u64;
    (clients < max_queued as u64).then(|| {
        format!(
            "{descriptors} file descriptors are enough for {clients} clients at a time, and queue.max_queued is \
             {max_queued}: raise the limit to {wanted} (LimitNOFILE of systemd, ulimit -Hn), or the others wait to be accepted"
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
