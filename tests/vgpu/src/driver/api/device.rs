//! Devices. There is one.

use super::array::most_of;
use crate::driver::errors::Error;
use crate::driver::ffi::{Out, Text};
use crate::driver::gpu::gpu;
use crate::driver::{Outcome, functions};
use crate::machine::Machine;
use crate::machine::limits::{MOST_BLOCK, MOST_GRID, MOST_THREADS};
use crate::texture::Geometry;

const BUS_ID: &str = "0000:01:00.0";

/// The described machine, if `device` is the one device.
///
/// # Errors
/// [`Error::NotInitialized`], [`Error::InvalidDevice`].
pub fn machine(device: i32) -> Outcome<&'static Machine> {
    let gpu = gpu()?;
    if device == 0 { Ok(&gpu.config.machine) } else { Err(Error::InvalidDevice) }
}

/// Sixteen bytes that name the device, the same in each run.
fn uuid(machine: &Machine) -> [u8; 16] {
    let mut bytes = *b"vgpu-000-virtual";
    bytes[5] = b'0' + machine.capability.major as u8;
    bytes[6] = b'0' + machine.capability.minor as u8;
    bytes
}

functions! {
    fn cuDeviceGet(device: Out<i32>, ordinal: i32) {
        machine(ordinal)?;
        device.set(ordinal)
    }

    fn cuDeviceGetCount(count: Out<i32>) {
        gpu()?;
        count.set(1)
    }

    fn cuDeviceGetName(name: Out<u8>, capacity: i32, device: i32) {
        name.set_text(machine(device)?.name, capacity.max(0) as usize)
    }

    fn cuDeviceGetUuid(identifier: Out<[u8; 16]>, device: i32) {
        identifier.set(uuid(machine(device)?))
    }

    fn cuDeviceGetUuid_v2(identifier: Out<[u8; 16]>, device: i32) {
        identifier.set(uuid(machine(device)?))
    }

    fn cuDeviceTotalMem_v2(bytes: Out<usize>, device: i32) {
        bytes.set(machine(device)?.memory_bytes as usize)
    }

    fn cuDeviceComputeCapability(major: Out<i32>, minor: Out<i32>, device: i32) {
        let capability = machine(device)?.capability;
        major.set(capability.major as i32)?;
        minor.set(capability.minor as i32)
    }

    fn cuDeviceGetAttribute(value: Out<i32>, attribute: u32, device: i32) {
        value.set(attribute_value(machine(device)?, attribute)?)
    }

    /// The first structure of limits that CUDA had.
    fn cuDeviceGetProperties(properties: Out<[i32; 14]>, device: i32) {
        let machine = machine(device)?;
        let attributes = [1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14];
        let mut values = [0; 14];
        for (value, attribute) in values.iter_mut().zip(attributes) {
            *value = attribute_value(machine, attribute)?;
        }
        properties.set(values)
    }

    fn cuDeviceGetPCIBusId(text: Out<u8>, capacity: i32, device: i32) {
        machine(device)?;
        text.set_text(BUS_ID, capacity.max(0) as usize)
    }

    fn cuDeviceGetByPCIBusId(device: Out<i32>, text: Text) {
        gpu()?;
        if !text.get()?.eq_ignore_ascii_case(BUS_ID) {
            return Err(Error::InvalidDevice);
        }
        device.set(0)
    }

    fn cuDeviceGetLuid(_identifier: Out<u64>, _node_mask: Out<u32>, device: i32) {
        machine(device)?;
        Err(Error::NotSupported)
    }

    fn cuDeviceCanAccessPeer(can: Out<i32>, device: i32, peer: i32) {
        machine(device)?;
        machine(peer)?;
        can.set(0)
    }

    /// A device is no peer of itself.
    fn cuDeviceGetP2PAttribute(_value: Out<i32>, _attribute: u32, source: i32, destination: i32) {
        machine(source)?;
        machine(destination)?;
        Err(Error::InvalidDevice)
    }

    fn cuDeviceGetExecAffinitySupport(value: Out<i32>, _kind: u32, device: i32) {
        machine(device)?;
        value.set(0)
    }
}

/// The value of a `CUdevice_attribute`.
fn attribute_value(machine: &Machine, attribute: u32) -> Outcome<i32> {
    let value = match attribute {
        1 => MOST_THREADS,
        2..=4 => MOST_BLOCK[attribute as usize - 2],
        5..=7 => MOST_GRID[attribute as usize - 5],
        8 => machine.shared_per_block,
        // Constant memory.
        9 => 64 << 10,
        10 => crate::machine::WARP,
        11 => i32::MAX as u32,
        12 => machine.registers_per_multiprocessor,
        13 => machine.clock_khz,
        // Alignments of textures, surfaces and pitches.
        14 => crate::memory::ALIGNMENT as u32,
        30 => 512,
        51 => 32,
        // Copies overlap kernels; two engines do more, three are usual.
        15 => 1,
        40 => 3,
        16 => machine.multiprocessors,
        // No timeout, not integrated, default compute mode, no error correction, not a TCC driver.
        17 | 18 | 20 | 32 | 35 => 0,
        // Mapped host memory, concurrent kernels, one address space, L1 caches, managed memory, preemption,
        // registration.
        19 | 31 | 41 | 79 | 80 | 83 | 90 | 99 => 1,
        33 => 1,
        34 | 50 => 0,
        36 => machine.memory_clock_khz,
        37 => machine.memory_bus_bits,
        38 => machine.l2_bytes as u32,
        39 => machine.threads_per_multiprocessor,
        // Textures: lines, planes, volumes, layers of planes.
        21 => most_of(Geometry::Line)[0] as u32,
        22 | 23 => most_of(Geometry::Plane)[attribute as usize - 22] as u32,
        24..=26 => most_of(Geometry::Volume)[attribute as usize - 24] as u32,
        27 | 28 => most_of(Geometry::Planes)[attribute as usize - 27] as u32,
        29 => most_of(Geometry::Planes)[3] as u32,
        // Layers of lines, planes for gathering, other volumes, cubes and layers of them.
        42 => most_of(Geometry::Lines)[0] as u32,
        43 => most_of(Geometry::Lines)[3] as u32,
        44 => 1,
        45 | 46 => most_of(Geometry::Planes)[0] as u32,
        47..=49 => most_of(Geometry::Volume)[attribute as usize - 47] as u32,
        52 | 53 => most_of(Geometry::Cubes)[0] as u32,
        54 => most_of(Geometry::Cubes)[3] as u32,
        // The same of surfaces.
        55 => most_of(Geometry::Line)[0] as u32,
        56 | 57 => most_of(Geometry::Plane)[attribute as usize - 56] as u32,
        58..=60 => most_of(Geometry::Volume)[attribute as usize - 58] as u32,
        61 => most_of(Geometry::Lines)[0] as u32,
        62 => most_of(Geometry::Lines)[3] as u32,
        63 | 64 => most_of(Geometry::Planes)[attribute as usize - 63] as u32,
        65 => most_of(Geometry::Planes)[3] as u32,
        66 | 67 => most_of(Geometry::Cubes)[0] as u32,
        68 => most_of(Geometry::Cubes)[3] as u32,
        // Linear memory, rows with their pitch, mip maps.
        69 => most_of(Geometry::Memory)[0] as u32,
        70 | 71 => most_of(Geometry::Plane)[attribute as usize - 70] as u32,
        72 => 2_097_120,
        73 | 74 => most_of(Geometry::Planes)[0] as u32,
        77 => most_of(Geometry::Planes)[0] as u32,
        75 => machine.capability.major,
        76 => machine.capability.minor,
        78 => 1,
        81 => machine.shared_per_multiprocessor,
        82 => machine.registers_per_multiprocessor,
        // One GPU on the board, in a group of its own.
        84 | 85 => 0,
        // The host's atomics and ours are the processor's.
        86 => 1,
        87 => 2,
        // Pageable memory is out of reach; managed memory is touched by both sides at once.
        88 | 100 => 0,
        89 | 101 => 1,
        91..=94 => 1,
        95 => 1,
        96 => 0,
        97 => machine.shared_per_block_optin,
        98 => 0,
        // Virtual memory management; shareable handles, compression.
        102 => 1,
        103..=105 | 107 => 0,
        106 => machine.blocks_per_multiprocessor,
        108 => machine.l2_bytes as u32 * 3 / 4,
        109 => 128 << 20,
        110 | 112 | 114 => 0,
        111 => machine.shared_reserved_per_block,
        113 => 1,
        // Memory pools.
        115 => 1,
        116..=119 => 0,
        // Clusters.
        120 => u32::from(machine.capability.major >= 9),
        // Multicast objects.
        132 => u32::from(machine.capability.major >= 9),
        121..=143 => 0,
        _ => return Err(Error::InvalidValue),
    };
    Ok(value as i32)
}
