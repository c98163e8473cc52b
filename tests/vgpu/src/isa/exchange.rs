//! Exchange between the lanes of a warp (PTX ISA 9.7.9.6 and 9.7.13): shfl, vote, match, redux, elect.
//!
//! Functions of whole registers and of the mask of lanes that take part. They assume what the executor has to check: that
//! every lane of the member mask is there.

use super::{Lanes, WARP, mask_of};

/// The four shuffles.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Shuffle {
    /// `.up`: from the lane `b` below.
    Up,
    /// `.down`: from the lane `b` above.
    Down,
    /// `.bfly`: from the lane whose number differs in the bits of `b`.
    Butterfly,
    /// `.idx`: from lane `b`.
    Index,
}

/// Which lane each lane of a `shfl` reads, and the predicate that says whether the lane asked for was in the segment (else
/// a lane reads itself). `b` is the lane or distance; `c` holds the clamp in bits 0 to 4 and the segment mask in 8 to 12.
#[inline(always)]
pub fn shuffle_sources(shuffle: Shuffle, b: &Lanes, c: &Lanes) -> (Lanes, u32) {
    let mut sources = [0; WARP];
    let mut inside = 0;
    for lane in 0..WARP {
        let own = lane as i32;
        let (value, clamp, segment) = ((b[lane] & 31) as i32, (c[lane] & 31) as i32, (c[lane] >> 8 & 31) as i32);
        let lowest = own & segment;
        let bound = lowest | clamp & !segment;
        let wanted = match shuffle {
            Shuffle::Up => own - value,
            Shuffle::Down => own + value,
            Shuffle::Butterfly => own ^ value,
            Shuffle::Index => lowest | value & !segment,
        };
        let valid = if shuffle == Shuffle::Up { wanted >= bound } else { wanted <= bound };
        sources[lane] = if valid { wanted } else { own } as u32;
        inside |= (valid as u32) << lane;
    }
    (sources, inside)
}

/// `vote.all`: whether the predicate holds in every lane of `members`.
#[inline(always)]
pub fn vote_all(members: u32, predicate: u32) -> bool {
    predicate & members == members
}

/// `vote.any`
#[inline(always)]
pub fn vote_any(members: u32, predicate: u32) -> bool {
    predicate & members != 0
}

/// `vote.uni`: whether it is the same everywhere.
#[inline(always)]
pub fn vote_uni(members: u32, predicate: u32) -> bool {
    vote_all(members, predicate) || !vote_any(members, predicate)
}

/// `vote.ballot`
#[inline(always)]
pub fn vote_ballot(members: u32, predicate: u32) -> u32 {
    predicate & members
}

/// `match.any`: for each lane of `members`, the members with the same value.
#[inline(always)]
pub fn match_any<R: Copy + PartialEq>(members: u32, a: &[R; WARP]) -> Lanes {
    let mut result = [0; WARP];
    for lane in 0..WARP {
        result[lane] = mask_of(|other| a[other] == a[lane]) & members;
    }
    result
}

/// `match.all`: `members` and true if all have the same value, else 0 and false.
#[inline(always)]
pub fn match_all<R: Copy + PartialEq>(members: u32, a: &[R; WARP]) -> (u32, bool) {
    let first = a[(members.trailing_zeros() & 31) as usize];
    let same = mask_of(|lane| a[lane] == first) & members == members;
    (if same { members } else { 0 }, same)
}

/// The reductions of `redux.sync`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Reduction {
    /// `.add` of u32 and s32.
    Add,
    /// `.min.u32`
    Min,
    /// `.max.u32`
    Max,
    /// `.min.s32`
    MinSigned,
    /// `.max.s32`
    MaxSigned,
    /// `.and`
    And,
    /// `.or`
    Or,
    /// `.xor`
    Xor,
}

/// `redux.sync`: the reduction over the lanes of `members`, of which there must be one.
#[inline(always)]
pub fn redux(reduction: Reduction, members: u32, a: &Lanes) -> u32 {
    let neutral = match reduction {
        Reduction::Add | Reduction::Max | Reduction::Or | Reduction::Xor => 0,
        Reduction::Min | Reduction::And => !0,
        Reduction::MinSigned => i32::MAX as u32,
        Reduction::MaxSigned => i32::MIN as u32,
    };
    let mut total = neutral;
    for lane in 0..WARP {
        let value = if members >> lane & 1 != 0 { a[lane] } else { neutral };
        total = match reduction {
            Reduction::Add => total.wrapping_add(value),
            Reduction::Min => total.min(value),
            Reduction::Max => total.max(value),
            Reduction::MinSigned => (total as i32).min(value as i32) as u32,
            Reduction::MaxSigned => (total as i32).max(value as i32) as u32,
            Reduction::And => total & value,
            Reduction::Or => total | value,
            Reduction::Xor => total ^ value,
        };
    }
    total
}

/// `elect.sync`: the leader that is chosen among `members`, the lowest, as hardware does.
#[inline(always)]
pub fn elect(members: u32) -> u32 {
    members.trailing_zeros() & 31
}
