//! Which fleets are simulated?

use crate::machine::Kind;
use crate::world::Fleet;

/// A fleet by name.
#[derive(Copy, Clone, PartialEq, Debug)]
pub enum Which {
    Four,
    Eight,
    Sixteen,
    SixtyFour,
    Homogeneous,
}

impl Which {
    pub fn fleet(self, has_host_cache: bool) -> Fleet {
        let (kinds, sizes) = match self {
            Self::Four => (four(), vec![5.0, 2.5, 9.0, 5.0]),
            Self::Eight => (eight(), vec![5.0, 2.5, 9.0, 5.0, 20.0]),
            Self::Sixteen => (times(2), vec![5.0, 2.5, 9.0, 5.0, 20.0]),
            Self::SixtyFour => (times(8), vec![5.0, 2.5, 9.0, 5.0, 20.0]),
            Self::Homogeneous => (homogeneous(), vec![5.0]),
        };
        Fleet { kinds, sizes, has_host_cache }
    }
}

fn kind((speed, vram, slots, bandwidth, slowdown): (f64, f64, usize, f64, f64)) -> Kind {
    Kind { speed, vram, slots, bandwidth, slowdown }
}

fn four() -> Vec<Kind> {
    let kinds = [
        (110.0, 24.0, 4, 1.5, 0.22),
        (60.0, 16.0, 4, 1.0, 0.25),
        (30.0, 12.0, 2, 0.6, 0.30),
        (12.0, 8.0, 1, 0.4, 0.28),
    ];
    kinds.map(kind).to_vec()
}

fn eight() -> Vec<Kind> {
    let kinds = [
        (120.0, 24.0, 4, 2.0, 0.22),
        (100.0, 24.0, 4, 1.5, 0.25),
        (70.0, 24.0, 4, 1.0, 0.30),
        (60.0, 16.0, 4, 1.0, 0.28),
        (40.0, 16.0, 2, 0.8, 0.35),
        (30.0, 12.0, 2, 0.6, 0.40),
        (18.0, 12.0, 2, 0.5, 0.45),
        (12.0, 8.0, 1, 0.4, 0.50),
    ];
    kinds.map(kind).to_vec()
}

fn times(count: usize) -> Vec<Kind> {
    (0..count).flat_map(|_| eight()).collect()
}

fn homogeneous() -> Vec<Kind> {
    let equal = |each: Kind| Kind { speed: 60.0, vram: 24.0, slots: 4, bandwidth: 1.0, slowdown: each.slowdown };
    eight().into_iter().map(equal).collect()
}
