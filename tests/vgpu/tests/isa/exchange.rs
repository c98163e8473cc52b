//! Exchanges between lanes, following the ISA's description lane by lane.

use super::Random;
use cuda::isa::exchange::{self, Reduction, Shuffle};

#[test]
fn shuffles() {
    let mut random = Random::new(28);
    for _ in 0..2000 {
        let a = random.lanes();
        let b = random.lanes();
        // A width that is a power of two, as compilers make it, or any segment mask and clamp.
        let width = 1 << random.below(6);
        let any = random.lanes();
        let free = random.below(3) == 0;
        for (shuffle, clamp) in [(Shuffle::Up, 0), (Shuffle::Down, 31), (Shuffle::Butterfly, 31), (Shuffle::Index, 31)]
        {
            let c: [u32; 32] = std::array::from_fn(|lane| if free { any[lane] } else { (32 - width) << 8 | clamp });
            let (sources, inside) = exchange::shuffle_sources(shuffle, &b, &c);
            let mut d = [0; 32];
            (0..32).for_each(|lane| d[lane] = a[sources[lane] as usize & 31]);
            for lane in 0..32i64 {
                let (value, limit, segment) =
                    (b[lane as usize] as i64 % 32, c[lane as usize] as i64 % 32, c[lane as usize] as i64 / 256 % 32);
                let bound = (lane & segment) | (limit & !segment);
                let (wanted, valid) = match shuffle {
                    Shuffle::Up => (lane - value, lane - value >= bound),
                    Shuffle::Down => (lane + value, lane + value <= bound),
                    Shuffle::Butterfly => (lane ^ value, lane ^ value <= bound),
                    Shuffle::Index => {
                        ((lane & segment) | (value & !segment), (lane & segment) | (value & !segment) <= bound)
                    }
                };
                let source = if valid { wanted } else { lane };
                assert_eq!(
                    (sources[lane as usize] as i64, inside >> lane & 1 != 0),
                    (source, valid),
                    "{shuffle:?} {lane}"
                );
                assert_eq!(d[lane as usize], a[source as usize]);
                // A butterfly may also read a segment below its own.
                if !free && valid && shuffle != Shuffle::Butterfly {
                    assert_eq!(source / width as i64, lane / width as i64, "{shuffle:?} leaves its segment of {width}");
                }
            }
        }
    }
}

#[test]
fn votes_and_matches() {
    let mut random = Random::new(29);
    for _ in 0..2000 {
        let (members, predicate) = (random.word() | 1 << random.below(32), random.word());
        let predicate = [predicate, members, 0, !members][random.below(4) as usize];
        let votes: Vec<bool> =
            (0..32).filter(|lane| members >> lane & 1 != 0).map(|lane| predicate >> lane & 1 != 0).collect();
        assert_eq!(exchange::vote_all(members, predicate), votes.iter().all(|vote| *vote));
        assert_eq!(exchange::vote_any(members, predicate), votes.iter().any(|vote| *vote));
        assert_eq!(exchange::vote_uni(members, predicate), votes.iter().all(|vote| *vote == votes[0]));
        assert_eq!(exchange::vote_ballot(members, predicate), predicate & members);
        assert_eq!(exchange::elect(members), (0..32).find(|lane| members >> lane & 1 != 0).unwrap());
        let values = random.lanes().map(|word| word % if random.below(4) == 0 { 1 } else { 4 });
        let matched = exchange::match_any(members, &values);
        let mut every = members;
        for lane in 0..32 {
            let same = (0..32)
                .filter(|other| members >> other & 1 != 0 && values[*other] == values[lane])
                .map(|other| 1 << other)
                .sum::<u32>();
            if members >> lane & 1 != 0 {
                assert_eq!(matched[lane], same);
                every &= same;
            }
        }
        let all = every == members;
        assert_eq!(exchange::match_all(members, &values), (if all { members } else { 0 }, all));
    }
}

#[test]
fn reductions() {
    let mut random = Random::new(30);
    for _ in 0..2000 {
        let (members, a) = (random.word() | 1 << random.below(32), random.lanes());
        let taken: Vec<u32> = (0..32).filter(|lane| members >> lane & 1 != 0).map(|lane| a[lane]).collect();
        let signed = || taken.iter().map(|value| *value as i32);
        let cases = [
            (Reduction::Add, taken.iter().map(|value| *value as u64).sum::<u64>() as u32),
            (Reduction::Min, *taken.iter().min().unwrap()),
            (Reduction::Max, *taken.iter().max().unwrap()),
            (Reduction::MinSigned, signed().min().unwrap() as u32),
            (Reduction::MaxSigned, signed().max().unwrap() as u32),
            (Reduction::And, taken.iter().fold(!0, |all, value| all & value)),
            (Reduction::Or, taken.iter().fold(0, |all, value| all | value)),
            (Reduction::Xor, taken.iter().fold(0, |all, value| all ^ value)),
        ];
        for (reduction, wanted) in cases {
            assert_eq!(exchange::redux(reduction, members, &a), wanted, "{reduction:?}");
        }
    }
}
