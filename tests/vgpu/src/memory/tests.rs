use proptest::prelude::*;

use super::*;

fn memory() -> Memory {
    Memory::new(1 << 30).expect("a reservation of a few gibibytes of addresses")
}

#[test]
fn what_is_written_is_read_back() {
    let memory = memory();
    let address = memory.allocate(1000, Kind::Device).unwrap();
    assert_eq!(address % ALIGNMENT, 0);
    let sent: Vec<u8> = (0..1000).map(|i| i as u8).collect();
    memory.write_from_host(address, sent.as_ptr() as u64, 1000).unwrap();
    let mut received = vec![0u8; 1000];
    memory.read_to_host(received.as_mut_ptr() as u64, address, 1000).unwrap();
    assert_eq!(sent, received);
}

#[test]
fn bounds_are_exact_and_named() {
    let memory = memory();
    let address = memory.allocate(100, Kind::Device).unwrap();
    assert!(memory.window(address + 96, 4).is_some());
    assert!(memory.window(address + 97, 4).is_none());
    assert!(memory.window(address + 100, 1).is_none());
    let past = memory.story(address + 100, 4).to_string();
    assert!(past.contains("just past the end of allocation 1 (100 bytes"), "{past}");
    let before = memory.story(address - 8, 4).to_string();
    assert!(before.contains("8 bytes before allocation 1"), "{before}");
    let across = memory.story(address + 98, 4).to_string();
    assert!(across.contains("4 bytes from there leave it by 2"), "{across}");
    memory.free(address, |_| true).unwrap();
    let freed = memory.story(address + 4, 4).to_string();
    assert!(freed.contains("was byte 4 of allocation 1") && freed.contains("freed"), "{freed}");
    assert!(memory.story(8, 4).to_string().contains("null pointer"));
}

#[test]
fn a_range_is_freed_once() {
    let memory = memory();
    let address = memory.allocate(64, Kind::Device).unwrap();
    assert!(memory.free(address + 256, |_| true).is_err());
    assert!(memory.free(address, |kind| *kind == Kind::Pinned).is_err());
    memory.free(address, |_| true).unwrap();
    assert!(matches!(memory.free(address, |_| true), Err(MemoryError::NotAnAllocation(_))));
    assert_eq!(memory.free_bytes(), memory.capacity());
}

#[test]
fn a_freed_range_rests_before_it_is_used_again() {
    let memory = memory();
    let first = memory.allocate(4096, Kind::Device).unwrap();
    memory.free(first, |_| true).unwrap();
    let second = memory.allocate(4096, Kind::Device).unwrap();
    assert_ne!(first, second);
    // More than the quarantine holds: addresses come round again and never run out.
    for _ in 0..64 {
        let large = memory.allocate(1 << 28, Kind::Device).unwrap();
        memory.free(large, |_| true).unwrap();
    }
}

#[test]
fn bad_host_pointers_are_errors() {
    let memory = memory();
    let address = memory.allocate(4096, Kind::Device).unwrap();
    for host in [0u64, 8, 0xdead_0000_0000_0000, u64::MAX - 100, address] {
        assert!(
            matches!(memory.write_from_host(address, host, 64), Err(MemoryError::BadHostRange { .. })),
            "{host:#x}"
        );
        assert!(matches!(memory.read_to_host(host, address, 64), Err(MemoryError::BadHostRange { .. })), "{host:#x}");
    }
    assert!(memory.register(0x10, 64).is_err());
    assert!(memory.register(u64::MAX - 3, 64).is_err());
}

#[test]
fn pinned_memory_is_seen_from_both_sides() {
    let memory = memory();
    let address = memory.allocate(5000, Kind::Pinned).unwrap();
    let host = address as *mut u32;
    // SAFETY: pinned memory is accessible at its device address.
    unsafe { host.write(0x1234_5678) };
    let window = memory.window(address, 4).unwrap();
    assert!(window.is_initialised(address, 5000));
    // SAFETY: inside the window.
    assert_eq!(unsafe { window.host(address).cast::<u32>().read() }, 0x1234_5678);
    assert_eq!(memory.free_bytes(), memory.capacity(), "host memory is not the GPU's");
    memory.free(address, |kind| *kind == Kind::Pinned).unwrap();
}

#[test]
fn registered_memory_keeps_its_address() {
    let memory = memory();
    let mut own = vec![7u8; 100];
    let address = own.as_mut_ptr() as u64;
    memory.register(address, 100).unwrap();
    assert!(matches!(memory.register(address + 50, 10), Err(MemoryError::AlreadyRegistered { .. })));
    let device = memory.allocate(100, Kind::Device).unwrap();
    memory.copy(device, address, 100).unwrap();
    let mut back = [0u8; 100];
    memory.read(device, &mut back).unwrap();
    assert_eq!(back, [7u8; 100]);
    memory.write(address, &[9]).unwrap();
    assert_eq!(own[0], 9);
    memory.free(address, |kind| *kind == Kind::Registered).unwrap();
    assert!(memory.window(address, 1).is_none());
}

#[test]
fn copies_carry_what_was_never_written() {
    let memory = memory();
    let source = memory.allocate(256, Kind::Device).unwrap();
    let target = memory.allocate(256, Kind::Device).unwrap();
    memory.fill(source + 3, &[1], 90).unwrap();
    memory.fill(target, &[0, 0, 0, 0], 64).unwrap();
    memory.copy(target, source, 128).unwrap();
    let window = memory.window(target, 256).unwrap();
    assert!(!window.is_initialised(target, 4));
    assert!(window.is_initialised(target + 3, 90));
    assert!(!window.is_initialised(target + 93, 1));
    assert!(window.is_initialised(target + 128, 128));
    assert_eq!(window.shadow().unwrap().first_unset(target + 50, 100), Some(target + 93));
}

#[test]
fn the_capacity_is_a_limit() {
    let memory = memory();
    assert!(matches!(memory.allocate(0, Kind::Device), Err(MemoryError::InvalidSize { .. })));
    assert!(matches!(memory.allocate((1 << 30) + 1, Kind::Device), Err(MemoryError::OutOfMemory { .. })));
    assert!(matches!(memory.allocate(u64::MAX, Kind::Device), Err(MemoryError::OutOfMemory { .. })));
    let half = memory.allocate(1 << 29, Kind::Device).unwrap();
    assert!(memory.allocate((1 << 29) + 1, Kind::Device).is_err());
    memory.free(half, |_| true).unwrap();
    memory.allocate(1 << 30, Kind::Device).unwrap();
}

proptest! {
    /// Whatever is allocated and freed: live ranges never touch, and the shadow of a new one is empty.
    #[test]
    fn allocations_never_overlap(steps in prop::collection::vec((1u64..200_000, any::<bool>(), any::<prop::sample::Index>()), 1..80)) {
        let memory = memory();
        let mut live: Vec<u64> = Vec::new();
        for (bytes, release, pick) in steps {
            if release && !live.is_empty() {
                let address = live.swap_remove(pick.index(live.len()));
                memory.free(address, |_| true).unwrap();
            } else {
                let address = memory.allocate(bytes, Kind::Device).unwrap();
                prop_assert!(memory.window(address, bytes).unwrap().shadow().unwrap().first_unset(address, 1).is_some());
                memory.fill(address, &[1], bytes).unwrap();
                live.push(address);
            }
            let ranges = memory.live();
            for pair in ranges.windows(2) {
                prop_assert!(pair[0].end() + ALIGNMENT <= pair[1].start);
            }
        }
    }

    /// The bit map agrees with a plain list of flags.
    #[test]
    fn the_shadow_is_a_set_of_bytes(steps in prop::collection::vec((0u64..100_000, 1u64..70_000, any::<bool>()), 1..20)) {
        let memory = memory();
        let size = 200_000;
        let base = memory.allocate(size, Kind::Device).unwrap();
        let shadow = memory.window(base, size).unwrap().shadow().unwrap();
        let mut plain = vec![false; size as usize];
        for (start, bytes, set) in steps {
            let end = (start + bytes).min(size);
            plain[start as usize..end as usize].fill(set);
            if set { shadow.set(base + start, end - start) } else { shadow.clear(base + start, end - start) }
        }
        prop_assert!((0..size).all(|byte| shadow.is_set(base + byte, 1) == plain[byte as usize]));
    }
}
