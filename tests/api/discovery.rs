//! One name in DNS for many nodes: they come and go with its addresses.
use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use ollama_gateway::fleet::{Discover, NodeSettings, Resolver};
use ollama_sim::{SimConfig, SimNode};
use scheduler::NodeState;
use serde_json::json;

use crate::harness::{ADMIN_KEY, TestApp, TestDatabase, error_of, eventually, node, test_config};
use crate::roster::{act, add, listed, node_of, patch, states, until_up};

/// A DNS that says what the test wants; `None` = it is away. It counts how often it is asked.
#[derive(Clone, Default)]
struct Dns(Arc<Mutex<Option<Vec<SocketAddr>>>>, Arc<AtomicUsize>);

impl Dns {
    fn say(&self, nodes: &[SocketAddr]) {
        *self.0.lock().unwrap() = Some(nodes.to_vec());
    }

    fn resolver(&self) -> Resolver {
        let dns = self.clone();
        Resolver::new(move |host, port| {
            assert_eq!((host.as_str(), port), ("ollama.test", 11434));
            let said = dns.0.lock().unwrap().clone();
            dns.1.fetch_add(1, Ordering::Relaxed);
            async move { said.ok_or_else(|| std::io::Error::other("the DNS is away")) }
        })
    }
}

async fn node_at(address: &str) -> SimNode {
    SimNode::start(SimConfig { listen: address.parse().unwrap(), ..SimConfig::fast() }).await.unwrap()
}

#[actix_rt::test]
async fn a_name_with_many_addresses_is_as_many_nodes_as_they_come_and_go() {
    let (one, two) = (node_at("127.0.0.2:0").await, node_at("127.0.0.3:0").await);
    let (dns, database) = (Dns::default(), TestDatabase::sqlite());
    dns.say(&[one.addr(), two.addr()]);
    let entry = NodeSettings {
        discover: Discover::Dns,
        headers: [("x-tenant".to_owned(), "lab".to_owned())].into(),
        ..node("ollama", "http://ollama.test:11434".into(), 2)
    };
    let mut config = test_config(vec![entry], &database);
    config.health.fleet_interval_seconds = 1;
    let app = TestApp::start_with(config, database, dns.resolver(), || Err(String::new())).await;
    let key = app.user("ann").await;

    until_up(&app, "ollama-127.0.0.2").await;
    until_up(&app, "ollama-127.0.0.3").await;
    assert_eq!(listed(&app).await[0], ("ollama-127.0.0.2".into(), "dns".into()));
    assert_eq!(error_of(&patch(&app, "ollama-127.0.0.2", json!({"slots": 1})).await, 409)["code"], "not_changeable");

    // One is drained, the other goes, and comes back.
    act(&app, "ollama-127.0.0.2", "drain").await;
    assert_eq!(node_of(&app, &key, "llama3.2").await, "ollama-127.0.0.3");
    let seen = two.requests().pop().unwrap();
    let header = |name: &str| seen.headers.iter().find(|(other, _)| other == name).map(|(_, value)| value.as_str());
    assert_eq!((header("host"), header("x-tenant")), (Some("ollama.test:11434"), Some("lab")));
    act(&app, "ollama-127.0.0.2", "undrain").await;
    dns.say(&[one.addr()]);
    eventually("the other is gone", || states(&app).len() == 1).await;
    *dns.0.lock().unwrap() = None;
    let asked = dns.1.load(Ordering::Relaxed);
    // What came of a question is taken up before the next is asked.
    eventually("it is asked twice more", || dns.1.load(Ordering::Relaxed) >= asked + 2).await;
    assert_eq!(states(&app).len(), 1, "a DNS that is away takes no node");
    assert_eq!(node_of(&app, &key, "llama3.2").await, "ollama-127.0.0.2");
    dns.say(&[one.addr(), two.addr()]);
    until_up(&app, "ollama-127.0.0.3").await;

    // The entry's name means all of them.
    act(&app, "ollama", "drain").await;
    assert!(states(&app).iter().all(|(_, state)| *state == NodeState::Draining), "{:?}", states(&app));
    act(&app, "ollama", "undrain").await;
    dns.say(&[]);
    eventually("all are gone", || states(&app).is_empty()).await;
    app.stop().await;
}

#[actix_rt::test]
async fn an_entry_that_discovers_can_be_added_too() {
    let one = node_at("127.0.0.2:0").await;
    let (dns, database) = (Dns::default(), TestDatabase::sqlite());
    dns.say(&[one.addr()]);
    let config = test_config(vec![node("idle", "http://127.0.0.1:1".into(), 1)], &database);
    let app = TestApp::start_with(config, database, dns.resolver(), || Err(String::new())).await;
    let body = json!({"name": "pods", "url": "http://ollama.test:11434", "discover": "dns"});
    assert_eq!(add(&app, body).await.status, 201);
    until_up(&app, "pods-127.0.0.2").await;
    assert_eq!(app.delete("/admin/nodes/pods", ADMIN_KEY).await.status, 200);
    assert_eq!(states(&app).len(), 1);
    app.stop().await;
}
