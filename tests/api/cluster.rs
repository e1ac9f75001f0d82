//! Do several gateways on one Postgres use every slot of the nodes and none twice, whichever of them is there? With a link
//! they have one scheduler among them; without one they divide the slots.
use std::time::Duration;

use futures_util::future::join_all;
use ollama_sim::{SimConfig, SimNode};
use serde_json::{Value, json};

use crate::events::Events;
use crate::harness::{
    ADMIN_KEY, Reply, TestApp, TestDatabase, chat_body, eventually, node, spawn_app_with, stream_body, wait_for,
    wait_long_for,
};

async fn slow_node(slots: u32, tokens_per_second: f64) -> SimNode {
    let config = SimConfig { slots: slots as usize, tokens_per_second, batch_slowdown: 0.0, ..SimConfig::warm() };
    SimNode::start(config).await.unwrap()
}

async fn linked(simulated: &SimNode, slots: u32, database: TestDatabase) -> TestApp {
    spawn_app_with(vec![node("a", simulated.url(), slots)], database, |config| {
        config.database.lease_seconds = 10;
        config.cluster.bind = Some("127.0.0.1:0".to_owned());
        config.server.drain_seconds = 5;
    })
    .await
}

/// What `GET /admin/queue` says.
async fn queue(app: &TestApp) -> Value {
    app.get("/admin/queue", ADMIN_KEY).await.json()
}

async fn is(app: &TestApp, role: &str) -> bool {
    let scheduling = queue(app).await["scheduling"].clone();
    scheduling["role"] == role && scheduling["is_settled"] == true
}

/// A leader and two followers, and a user's key; `None` without Postgres.
async fn three(simulated: &SimNode, slots: u32) -> Option<([TestApp; 3], String)> {
    let database = TestDatabase::postgres().await?;
    let (again, once_more) = (database.again(), database.again());
    let first = linked(simulated, slots, database).await;
    let second = linked(simulated, slots, again).await;
    let third = linked(simulated, slots, once_more).await;
    let key = first.user("ann").await;
    wait_long_for("the first leads", async || is(&first, "leading").await).await;
    for app in [&second, &third] {
        wait_long_for("both know the key", async || app.get("/v1/models", &key).await.status == 200).await;
        wait_long_for("it follows", async || is(app, "following").await).await;
    }
    Some(([first, second, third], key))
}

async fn ask_again_and_again(app: &TestApp, key: &str, times: usize) {
    for _ in 0..times {
        let reply = app.post("/v1/chat/completions", key, chat_body("llama3.2", "[[n=10]] hi")).await;
        assert_eq!(reply.status, 200, "{}", reply.text());
    }
}

#[actix_rt::test]
async fn every_slot_serves_whichever_gateway_the_clients_use_and_none_twice() {
    let simulated = slow_node(3, 200.0).await;
    let Some((apps, key)) = three(&simulated, 3).await else { return };
    // Everybody comes through one follower: it may use all slots.
    join_all((0..6).map(|_| ask_again_and_again(&apps[1], &key, 3))).await;
    assert_eq!(simulated.stats().peak_in_flight, 3);
    join_all((0..12).map(|client| ask_again_and_again(&apps[client % 3], &key, 4))).await;
    assert_eq!(simulated.stats().peak_in_flight, 3);
    for app in &apps {
        let metrics = app.get("/metrics", ADMIN_KEY).await.text().to_owned();
        assert!(metrics.contains("\ngateway_sharing_gateways 3\n"), "{metrics}");
    }
    for app in apps {
        app.stop().await;
    }
}

#[actix_rt::test]
async fn a_stream_through_a_follower_is_whole_and_holds_its_slot_until_its_client_leaves() {
    let simulated = slow_node(1, 50.0).await;
    let Some((apps, key)) = three(&simulated, 1).await else { return };
    let (_, answer) = apps[1].exchange(&key, &stream_body("llama3.2", "[[n=20]] hi")).await;
    assert!(answer.contains("data: [DONE]"), "{answer}");
    let held = apps[1].send_and_hold(&key, &stream_body("llama3.2", "[[n=10000]] hi")).await;
    eventually("it runs", || simulated.stats().in_flight == 1).await;
    let waits = apps[2].send_and_hold(&key, &stream_body("llama3.2", "[[n=10000]] hi")).await;
    wait_for("the other one waits at the leader", async || queue(&apps[0]).await["queued"] == 1).await;
    assert_eq!(simulated.stats().in_flight, 1);
    drop(held);
    wait_for("its turn has come", async || {
        let queue = queue(&apps[0]).await;
        queue["queued"] == 0 && queue["in_flight"] == 1
    })
    .await;
    drop(waits);
    wait_for("nothing runs", async || queue(&apps[0]).await["in_flight"] == 0).await;
    assert_eq!(simulated.stats().peak_in_flight, 1);
    for app in apps {
        app.stop().await;
    }
}

#[actix_rt::test]
async fn a_client_of_a_follower_hears_what_one_of_the_leader_hears() {
    let simulated = slow_node(1, 50.0).await;
    let Some((apps, key)) = three(&simulated, 1).await else { return };
    // The node's speed is certain after a while.
    ask_again_and_again(&apps[0], &key, 12).await;
    for app in &apps[..2] {
        let held = apps[0].send_and_hold(&key, &stream_body("llama3.2", "[[n=30]] hi")).await;
        eventually("it runs", || simulated.stats().in_flight == 1).await;
        let (first, second) = tokio::join!(app.chat(&key, "llama3.2", "[[n=10]] hi"), async {
            wait_for("one waits", async || queue(&apps[0]).await["queued"] == 1).await;
            app.chat(&key, "llama3.2", "[[n=10]] hi").await
        });
        drop(held);
        let said = |reply: &Reply, header: &str| reply.header(header).unwrap().parse::<u64>().unwrap();
        assert_eq!((said(&first, "x-gateway-queue-position"), said(&second, "x-gateway-queue-position")), (0, 1));
        // The one before goes on for 0.6 s at most.
        let expected = [&first, &second].map(|reply| said(reply, "x-gateway-expected-ms"));
        assert!(expected[0] > 0 && expected[0] < expected[1] && expected[1] < 5_000, "{expected:?}");
    }
    for (index, app) in apps[..2].iter().enumerate() {
        let leaves = app.send_and_hold(&key, &chat_body("llama3.2", "[[n=10000]] hi")).await;
        eventually("it runs", || simulated.stats().in_flight == 1).await;
        tokio::time::sleep(Duration::from_millis(600)).await;
        drop(leaves);
        // At 50 tokens a second, of which no one has seen any.
        let is_charged = |row: &Value| {
            row["stream"] == false && row["status"] == "cancelled" && row["completion_tokens"].as_u64() >= Some(10)
        };
        let charged = async || app.rows(&key).await.iter().filter(|row| is_charged(row)).count() == index + 1;
        wait_long_for("what the node wrote unseen is charged for", charged).await;
    }
    for app in apps {
        app.stop().await;
    }
}

#[actix_rt::test]
async fn a_leader_that_stops_hands_over_and_nothing_that_waits_or_runs_is_lost() {
    let simulated = slow_node(2, 50.0).await;
    let Some(([first, second, third], key)) = three(&simulated, 2).await else { return };
    let asks = (0..8).map(|client| ask_again_and_again([&second, &third][client % 2], &key, 3));
    let stop = async {
        tokio::time::sleep(Duration::from_millis(300)).await;
        first.begin_stop();
        let leads = async || is(&second, "leading").await || is(&third, "leading").await;
        tokio::time::timeout(Duration::from_secs(2), wait_for("another one leads", leads)).await.expect("within 2 s");
    };
    tokio::join!(join_all(asks), stop);
    assert_eq!(simulated.stats().peak_in_flight, 2);
    first.stop().await;
    ask_again_and_again(&second, &key, 2).await;
    second.stop().await;
    wait_long_for("the last one is alone", async || is(&third, "alone").await).await;
    ask_again_and_again(&third, &key, 2).await;
    third.stop().await;
}

#[actix_rt::test]
async fn a_gateway_without_a_link_makes_all_divide_the_slots() {
    let simulated = slow_node(3, 200.0).await;
    let Some((apps, key)) = three(&simulated, 3).await else { return };
    let [first, second, third] = apps;
    let again = third.stop().await;
    let plain = spawn_app_with(vec![node("a", simulated.url(), 3)], again, |config| {
        config.database.lease_seconds = 10;
    })
    .await;
    wait_long_for("it knows the key", async || plain.get("/v1/models", &key).await.status == 200).await;
    for app in [&first, &second, &plain] {
        wait_long_for("they share", async || is(app, "sharing").await).await;
    }
    join_all((0..9).map(|client| ask_again_and_again([&first, &second, &plain][client % 3], &key, 4))).await;
    assert_eq!(simulated.stats().peak_in_flight, 3);
    plain.stop().await;
    wait_long_for("one leads again", async || is(&first, "leading").await || is(&second, "leading").await).await;
    second.stop().await;
    first.stop().await;
}

#[actix_rt::test]
async fn any_gateway_shows_what_the_one_that_schedules_sees() {
    let simulated = slow_node(1, 50.0).await;
    let Some((apps, key)) = three(&simulated, 1).await else { return };
    let held = apps[1].send_and_hold(&key, &stream_body("llama3.2", "[[n=10000]] hi")).await;
    eventually("it runs", || simulated.stats().in_flight == 1).await;
    let waits = apps[2].send_and_hold(&key, &stream_body("llama3.2", "[[n=10000]] hi")).await;
    wait_for("the other one waits at the leader", async || queue(&apps[0]).await["queued"] == 1).await;
    let waiting = queue(&apps[0]).await["data"][0]["request_id"].as_str().unwrap().to_owned();
    for app in &apps {
        let queue = queue(app).await;
        assert_eq!((&queue["scope"], &queue["queued"], &queue["in_flight"]), (&"all".into(), &1.into(), &1.into()));
        assert_eq!(queue["data"][0]["request_id"], waiting);
        assert_eq!(queue["data"][0]["waits_for"]["node"], "a");
        let nodes = app.get("/admin/nodes", ADMIN_KEY).await.json();
        let node = &nodes["data"][0];
        assert_eq!((&nodes["scope"], &node["in_flight"], &node["queue"]), (&"all".into(), &1.into(), &1.into()));
        assert!(node["models"].as_array().is_some_and(|models| !models.is_empty()), "{node}");
        let live = Events::of(app).await.next_of("snapshot").await;
        for state in ["running", "waiting"] {
            let own = live[state].as_array().map(Vec::len).unwrap();
            assert_eq!(live[format!("{state}_elsewhere")], 1 - own, "{live}");
        }
        assert_eq!(live["nodes"][0]["slots_used"], 1, "{live}");
    }
    let running =
        apps[1].get("/v1/me/requests", &key).await.json()["data"][0]["request_id"].as_str().unwrap().to_owned();
    for app in &apps {
        let story = app.get(&format!("/admin/requests/{waiting}"), ADMIN_KEY).await.json();
        assert_eq!((&story["scope"], &story["steps"][0]["what"]), (&"all".into(), &"waits".into()), "{story}");
        assert_eq!(story["steps"][0]["options"][0]["node"], "a");
        assert_eq!((&story["user_id"], &story["summary"]), (&"ann".into(), &"It waits for a slot.".into()), "{story}");
        let story = app.get(&format!("/admin/requests/{running}"), ADMIN_KEY).await.json();
        assert_eq!((&story["user_id"], &story["summary"]), (&"ann".into(), &"It runs on a.".into()), "{story}");
    }
    let own = apps[2].get("/v1/me/requests", &key).await.json();
    assert_eq!(own["data"][0]["position"], 1, "{own}");
    let metrics = apps[1].get("/metrics", ADMIN_KEY).await.text().to_owned();
    let delay = metrics.lines().find_map(|line| line.strip_prefix("gateway_link_delay_seconds ")).unwrap().to_owned();
    assert!(delay.parse::<f64>().is_ok_and(|seconds| seconds > 0.0 && seconds < 1.5), "{delay}");
    drop((held, waits));
    for app in apps {
        app.stop().await;
    }
}

async fn gateway(simulated: &SimNode, slots: u32, database: TestDatabase) -> TestApp {
    spawn_app_with(vec![node("a", simulated.url(), slots)], database, |config| {
        config.database.lease_seconds = 10;
    })
    .await
}

/// What `GET /admin/queue` says about who schedules.
async fn scheduling(app: &TestApp) -> Value {
    let said = app.get("/admin/queue", ADMIN_KEY).await.json()["scheduling"].clone();
    json!({"role": said["role"], "gateways": said["gateways"], "is_settled": said["is_settled"]})
}

async fn until_shared(apps: [&TestApp; 2]) {
    for app in apps {
        let shared = json!({"role": "sharing", "gateways": 2, "is_settled": true});
        wait_long_for("both share", async || scheduling(app).await == shared).await;
    }
}

/// Two gateways in front of a node with so many slots, and a user's key; `None` without Postgres.
async fn two(simulated: &SimNode, slots: u32) -> Option<([TestApp; 2], String)> {
    let database = TestDatabase::postgres().await?;
    let again = database.again();
    let first = gateway(simulated, slots, database).await;
    let second = gateway(simulated, slots, again).await;
    let key = first.user("ann").await;
    wait_long_for("both know the key", async || second.get("/v1/models", &key).await.status == 200).await;
    Some(([first, second], key))
}

#[actix_rt::test]
async fn two_gateways_under_load_never_run_more_than_the_slots_and_use_all_of_them() {
    let simulated = slow_node(3, 200.0).await;
    let Some(([first, second], key)) = two(&simulated, 3).await else { return };
    until_shared([&first, &second]).await;
    let clients = (0..12).map(|client| ask_again_and_again([&first, &second][client % 2], &key, 8));
    join_all(clients).await;
    assert_eq!(simulated.stats().peak_in_flight, 3);
    for app in [&first, &second] {
        let metrics = app.get("/metrics", ADMIN_KEY).await.text().to_owned();
        assert!(metrics.contains("\ngateway_sharing_gateways 2\n"), "{metrics}");
        assert!(metrics.contains("\ngateway_sharing_settled 1\n"), "{metrics}");
    }
    second.stop().await;
    first.stop().await;
}

#[actix_rt::test]
async fn a_gateway_that_joins_has_no_slot_until_the_other_has_given_some_up_and_all_once_it_is_alone() {
    let simulated = slow_node(2, 20.0).await;
    let Some(database) = TestDatabase::postgres().await else { return };
    let again = database.again();
    let first = gateway(&simulated, 2, database).await;
    assert_eq!(scheduling(&first).await, json!({"role": "alone", "gateways": 1, "is_settled": true}));
    let key = first.user("ann").await;
    let long = stream_body("llama3.2", "[[n=10000]] hi");
    let held = [first.send_and_hold(&key, &long).await, first.send_and_hold(&key, &long).await];
    eventually("both run", || simulated.stats().in_flight == 2).await;
    let second = gateway(&simulated, 2, again).await;
    wait_long_for("both know the key", async || second.get("/v1/models", &key).await.status == 200).await;
    let waits = second.send_and_hold(&key, &long).await;
    let unsettled = json!({"role": "sharing", "gateways": 2, "is_settled": false});
    wait_long_for("it is seen", async || scheduling(&first).await == unsettled).await;
    let load = || second.dispatcher.read(|scheduler| (scheduler.queued(), scheduler.in_flight()));
    eventually("it waits there", || load() == (1, 0)).await;
    let [left, kept] = held;
    drop(left);
    eventually("the other one's runs", || second.dispatcher.read(|scheduler| scheduler.in_flight()) == 1).await;
    let peak = simulated.stats().peak_in_flight;
    drop(kept);
    first.stop().await;
    let more = second.send_and_hold(&key, &long).await;
    wait_long_for("both slots are its own", async || simulated.stats().in_flight == 2).await;
    assert_eq!((peak, simulated.stats().peak_in_flight), (2, 2));
    drop((waits, more));
    eventually("nothing runs", || second.dispatcher.read(|scheduler| scheduler.in_flight()) == 0).await;
    second.stop().await;
}

#[actix_rt::test]
async fn the_only_slot_of_a_node_serves_the_clients_of_both_gateways_in_turn() {
    let simulated = slow_node(1, 1000.0).await;
    let Some(([first, second], key)) = two(&simulated, 1).await else { return };
    until_shared([&first, &second]).await;
    let both = async { tokio::join!(ask_again_and_again(&first, &key, 2), ask_again_and_again(&second, &key, 2)) };
    tokio::time::timeout(Duration::from_secs(25), both).await.expect("both are served");
    assert_eq!(simulated.stats().peak_in_flight, 1);
    second.stop().await;
    first.stop().await;
}

#[actix_rt::test]
async fn a_model_that_is_wanted_through_the_gateway_that_does_not_load_there_is_loaded_all_the_same() {
    let simulated = SimNode::start(SimConfig { slots: 2, ..SimConfig::fast() }).await.unwrap();
    let Some(([first, second], key)) = two(&simulated, 2).await else { return };
    until_shared([&first, &second]).await;
    for (app, model) in [(&first, "llama3.2:1b"), (&second, "llava")] {
        let answer = app.post("/v1/chat/completions", &key, chat_body(model, "hi"));
        let reply = tokio::time::timeout(Duration::from_secs(20), answer).await.expect("it is served");
        assert_eq!(reply.status, 200, "{}", reply.text());
    }
    second.stop().await;
    first.stop().await;
}
