//! How long shared memory is busy with an access: it has 32 banks of 4 bytes, each of which delivers one word in a cycle.

use crate::isa::{Lanes64, WARP};

/// Cycles of an access. Lanes that use the same word of 4 bytes share it; wider accesses go in parts of 128 bytes: 32 lanes of 4 bytes, 16 of 8, 8 of 16.
///
/// A lane that does not take part may have any address; the others' are multiples of the bytes (where that is not checked and not so, the count is rough).
#[inline(always)]
pub(crate) fn bank_cycles(mask: u32, addresses: &Lanes64, bytes: u64) -> u64 {
    // The place of a lane among the places of its size that lie side by side in the banks.
    let size = bytes.max(4);
    let together = (128 / size) as usize;
    let shift = size.trailing_zeros();
    let mut places = [0u32; WARP];
    for lane in 0..WARP {
        places[lane] = (1 << (addresses[lane] >> shift & (together as u64 - 1))) & 0u32.wrapping_sub(mask >> lane & 1);
    }
    let mut cycles = 0;
    for (part, places) in places.chunks(together).enumerate() {
        let first = part * together;
        let lanes = mask >> first & (u32::MAX >> (WARP - together));
        let used = places.iter().fold(0, |all, place| all | place);
        // Where each lane has banks of its own, nobody waits.
        cycles += if used.count_ones() == lanes.count_ones() {
            u64::from(lanes != 0)
        } else {
            busiest_bank(lanes, &addresses[first..first + together], bytes)
        };
    }
    cycles
}

/// The most words that a bank has to deliver to the lanes of one part.
#[inline(never)]
fn busiest_bank(lanes: u32, addresses: &[u64], bytes: u64) -> u64 {
    // Aligned accesses of a part touch 32 words at most, others twice as many.
    let mut words = [u64::MAX; 2 * WARP];
    let mut count = 0;
    let mut load = [0u8; WARP];
    let mut most = 0;
    for (lane, &address) in addresses.iter().enumerate() {
        if lanes >> lane & 1 == 0 {
            continue;
        }
        for word in address / 4..(address + bytes).div_ceil(4) {
            let known = words.iter().fold(false, |known, &other| known | (other == word));
            if !known && count < words.len() {
                words[count] = word;
                count += 1;
                let load = &mut load[(word % 32) as usize];
                *load += 1;
                most = most.max(*load);
            }
        }
    }
    most.into()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;

    /// The same, from the definition.
    fn defined(mask: u32, addresses: &Lanes64, bytes: u64) -> u64 {
        let together = (128 / bytes.max(4)) as usize;
        let part = |first: usize| {
            let lanes = (first..first + together).filter(|lane| mask >> lane & 1 != 0);
            let words: HashSet<u64> =
                lanes.flat_map(|lane| addresses[lane] / 4..=(addresses[lane] + bytes - 1) / 4).collect();
            (0..32).map(|bank| words.iter().filter(|&&word| word % 32 == bank).count() as u64).max().unwrap_or(0)
        };
        (0..WARP).step_by(together).map(part).sum()
    }

    #[test]
    fn cycles_are_those_of_the_definition() {
        let mut state = 1u64;
        let mut random = move || {
            state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
            state >> 33
        };
        for round in 0..20_000 {
            let bytes = 1 << (round % 5);
            let mask = if round % 3 == 0 { u32::MAX } else { (random() | random() << 20) as u32 };
            let (stride, spread) = (random() % 260, random() % 3 * random() % 4096);
            let addresses =
                std::array::from_fn(|lane| (lane as u64 * stride + random() % (spread + 1)) / bytes * bytes);
            assert_eq!(
                bank_cycles(mask, &addresses, bytes),
                defined(mask, &addresses, bytes),
                "{mask:x} {addresses:?}"
            );
        }
    }
}
