//! What happens to a simulated cluster at random: requests, and faults of gateways, links and the database.
use std::time::Duration;

use crate::world::World;

pub(super) const MODELS: u64 = 2;
pub(super) const SECOND: Duration = Duration::from_secs(1);

/// Something random happens, about once a second; and clients come.
pub(super) fn disturb(world: &mut World) {
    let gateway = world.dice.below(world.gateways.len() as u64) as usize;
    if world.dice.once_in(6) {
        let (model, user) = (world.dice.below(MODELS) as usize, world.dice.below(3));
        let most = if world.dice.once_in(10) { 90_000 } else { 12_000 };
        let answer = world.dice.millis(100, most);
        world.ask(gateway, &format!("user-{user}"), model, answer);
    }
    if world.dice.once_in(60) {
        let which = world.dice.below(1000) as usize;
        if world.live().contains(&gateway) {
            world.disturb(gateway, which);
        }
    }
    if world.dice.once_in(25) {
        strike(world, gateway);
    }
}

/// One fault, or the return of what was gone.
fn strike(world: &mut World, gateway: usize) {
    let now = world.now;
    match world.dice.below(10) {
        0 if world.dice.once_in(2) => {
            world.count("leaves");
            world.leave(gateway);
        }
        0 => {
            world.count(if world.leaders().contains(&gateway) { "leader killed" } else { "other gateway killed" });
            world.kill(gateway);
        }
        1..=3 => world.start(gateway),
        4 => {
            // Time and again, and for longer than a silent gateway is waited for at least.
            if !world.has_untold(gateway) {
                world.count("pauses");
                world.gateways[gateway].paused_until = now + world.dice.millis(300, 55_000);
            }
        }
        5 => {
            // Never for as long as the others wait for a silent one.
            if world.gateways[gateway].cut_until + 2 * SECOND < now && !world.has_untold(gateway) {
                world.count("cut off from the database");
                world.gateways[gateway].cut_until = now + world.dice.millis(300, 12_000);
            }
        }
        6 | 7 => {
            let other = world.dice.below(world.gateways.len() as u64) as usize;
            if other != gateway {
                world.count("two cut off from each other");
                let until = now + world.dice.millis(300, 12_000);
                world.parted.insert((gateway.min(other), gateway.max(other)), until);
            }
        }
        8 => {
            let is_known = (0..world.gateways.len()).all(|gateway| !world.has_untold(gateway));
            let was_up = std::mem::replace(&mut world.is_database_up, true);
            world.is_database_up = !was_up || !is_known || world.dice.once_in(2);
            if was_up && !world.is_database_up {
                world.count("outages of the database");
            }
        }
        _ => {
            if world.live().contains(&gateway) && world.dice.once_in(3) {
                world.count("SIGTERM");
                world.retire(gateway);
            }
        }
    }
}
