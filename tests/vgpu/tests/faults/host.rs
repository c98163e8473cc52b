//! Faults of the host's side: frees and launches.

use super::{SHARED, load};
use cuda::machine::Machine;
use cuda::memory::{Kind, Memory};

#[test]
fn frees_of_what_is_no_allocation() {
    let memory = Memory::new(16 << 20).unwrap();
    let address = memory.allocate(1000, Kind::Device).unwrap();
    assert!(memory.free(address + 4, |_| true).is_err(), "an address inside");
    memory.free(address, |_| true).unwrap();
    assert!(memory.free(address, |_| true).is_err(), "twice");
    assert!(memory.free(0x1234_5600, |_| true).is_err(), "from nowhere");
}

#[test]
fn limits_are_in_the_module() {
    let program = load(&SHARED);
    assert_eq!(program.kernel("at_most_128_threads").unwrap().max_threads, Some(128));
    assert_eq!(program.kernel("uses_dynamic_shared").unwrap().static_shared_bytes, 0);
    assert_eq!(program.kernel("missing_barrier_fixed").unwrap().static_shared_bytes, 1024);
    let _ = Machine::h100();
}
