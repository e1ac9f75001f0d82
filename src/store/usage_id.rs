//! By which id does usage know a user or a group? A name may be used again, and is somebody else's then.
use std::sync::Arc;

/// Between a name and the number of whoever has it; no name holds it.
const GENERATION: char = '~';

/// By which id usage tells users, or groups, apart: the name, with `~2` for the second one of that name, and so on.
pub(super) fn usage_id(name: &str, generation: u32) -> Arc<str> {
    if generation <= 1 { name.into() } else { format!("{name}{GENERATION}{generation}").into() }
}

/// The name of whoever has this [`usage_id`].
pub fn name_of(usage_id: &str) -> &str {
    usage_id.split(GENERATION).next().unwrap_or(usage_id)
}

/// Whether it says which one of a name is meant; `ann~1` is the first one's way to say so.
pub(super) fn explicit(id: &str) -> Option<Arc<str>> {
    let (name, generation) = id.split_once(GENERATION)?;
    Some(usage_id(name, generation.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_second_user_of_a_name_has_an_id_of_its_own() {
        assert_eq!((&*usage_id("ann", 1), &*usage_id("ann", 2)), ("ann", "ann~2"));
        assert_eq!((name_of("ann"), name_of("ann~2")), ("ann", "ann"));
        assert_eq!((explicit("ann~1").as_deref(), explicit("ann~3").as_deref()), (Some("ann"), Some("ann~3")));
        assert_eq!((explicit("ann"), explicit("ann~x")), (None, None));
    }
}
