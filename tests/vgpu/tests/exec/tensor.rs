//! Tensor copies element by element: reductions of all operations and types, im2col, and maps that a kernel makes.

use super::device::Parameter::Long;
use super::memory::kernel;
use cuda::exec::FaultKind;
use cuda::isa::im2col::Columns;
use cuda::isa::tensor_map::{DataType, Request, TensorMap};
use cuda::machine::Machine;

/// Reproducible numbers.
fn words(seed: u64, count: usize) -> Vec<u64> {
    let mut state = seed | 1;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state
    };
    (0..count).map(|_| next()).collect()
}

/// Where things are in the one buffer of a test: the map, the tile, the tensor.
const TILE: u64 = 128;
const TENSOR: u64 = 1024;

/// A value of a type as a number, of which small whole ones are exact in all of them.
fn number(ty: DataType, bits: u64) -> i128 {
    match ty {
        DataType::U32 => i128::from(bits as u32),
        DataType::S32 => i128::from(bits as u32 as i32),
        DataType::S64 => i128::from(bits as i64),
        DataType::F16 => half::f16::from_bits(bits as u16).to_f64() as i128,
        DataType::Bf16 => half::bf16::from_bits(bits as u16).to_f64() as i128,
        DataType::F32 => f32::from_bits(bits as u32) as i128,
        DataType::F64 => f64::from_bits(bits) as i128,
        _ => i128::from(bits),
    }
}

fn bits(ty: DataType, number: i128) -> u64 {
    match ty {
        DataType::U32 | DataType::S32 => u64::from(number as u32),
        DataType::F16 => u64::from(half::f16::from_f64(number as f64).to_bits()),
        DataType::Bf16 => u64::from(half::bf16::from_f64(number as f64).to_bits()),
        DataType::F32 => u64::from((number as f32).to_bits()),
        DataType::F64 => (number as f64).to_bits(),
        _ => number as u64,
    }
}

/// What a reduction makes of an element `a` of the tensor and `b` of the tile.
fn reduced(operation: &str, ty: DataType, a: u64, b: u64) -> u64 {
    let (x, y) = (number(ty, a), number(ty, b));
    match operation {
        "add" => bits(ty, x + y),
        "min" => bits(ty, x.min(y)),
        "max" => bits(ty, x.max(y)),
        "inc" => bits(ty, if x >= y { 0 } else { x + 1 }),
        "dec" => bits(ty, if x == 0 || x > y { y } else { x - 1 }),
        "and" => a & b,
        "or" => a | b,
        _ => a ^ b,
    }
}

fn element(bytes: &[u8], index: usize, size: usize) -> u64 {
    let mut word = [0; 8];
    word[..size].copy_from_slice(&bytes[index * size..][..size]);
    u64::from_le_bytes(word)
}

/// Reduces a tile of 4 rows of 64 bytes into a tensor of which it covers two rows by half, and compares all of the tensor.
fn check_reduction(operation: &str, ty: DataType) -> Result<(), FaultKind> {
    let size = ty.bytes() as usize;
    let inner = 64 / size;
    let (columns, rows, pitch) = (3 * inner / 2, 10, 256 / size);
    let text = format!(
        ".shared .align 128 .b8 tile[256];
        .reg .b64 %rd<6>; .reg .b32 %r<4>; .reg .pred %p;
        mov.u32 %r0, tile; mad.lo.u32 %r1, %thread, 8, %r0;
        mul.wide.u32 %rd0, %thread, 8; add.u64 %rd1, %out, %rd0;
        ld.global.u64 %rd2, [%rd1+{TILE}];
        st.shared.u64 [%r1], %rd2;
        fence.proxy.async.shared::cta;
        bar.sync 0;
        setp.eq.u32 %p, %thread, 0;
        mov.u32 %r2, {inner}; mov.u32 %r3, 8;
        @%p cp.reduce.async.bulk.tensor.2d.global.shared::cta.{operation}.tile.bulk_group [%out, {{%r2, %r3}}], [%r0];
        @%p cp.async.bulk.commit_group;
        @%p cp.async.bulk.wait_group 0;"
    );
    let device = kernel(Machine::h100(), "", "", &text);
    // Whole numbers below 100, bits of all kinds where only those matter.
    let small = |word: u64| match operation {
        "and" | "or" | "xor" => word & (u64::MAX >> (64 - 8 * size)),
        _ => bits(ty, i128::from(word % 100) - if ty as u32 >= 5 || ty == DataType::S32 { 50 } else { 0 }),
    };
    let bytes_of = |values: &[u64]| -> Vec<u8> {
        values.iter().flat_map(|&word| small(word).to_le_bytes()[..size].to_vec()).collect()
    };
    let tile = bytes_of(&words(7 + ty as u64, 256 / size));
    let tensor = bytes_of(&words(99 + ty as u64, rows * pitch));
    let mut buffer = vec![0u8; TENSOR as usize];
    buffer[TILE as usize..][..256].copy_from_slice(&tile);
    buffer.extend(&tensor);
    let out = device.upload(&buffer);
    let request = Request {
        data_type: ty as u32,
        address: out + TENSOR,
        sizes: &[columns as u64, rows as u64],
        strides: &[256],
        box_sizes: &[inner as u32, 4],
        steps: &[1, 1],
        interleave: 0,
        swizzle: 0,
        l2_promotion: 0,
        fill: 0,
    };
    device.memory.write(out, &TensorMap::new(&request).unwrap().encode()).unwrap();
    device.run("k", [1; 3], [32, 1, 1], 0, &[Long(out)]).map_err(|fault| fault.kind)?;
    let found = device.download::<u8>(out + TENSOR, tensor.len());
    for row in 0..rows {
        for column in 0..pitch {
            let at = row * pitch + column;
            let before = element(&tensor, at, size);
            let covered = row >= 8 && (inner..columns).contains(&column);
            let wanted = if covered {
                reduced(operation, ty, before, element(&tile, (row - 8) * inner + column - inner, size))
            } else {
                before
            };
            assert_eq!(element(&found, at, size), wanted, "{operation} {ty:?} row {row} column {column}");
        }
    }
    Ok(())
}

#[test]
fn reductions_of_all_operations_and_types() {
    use DataType::*;
    let forms: [(&str, &[DataType]); 8] = [
        ("add", &[U32, S32, U64, S64, F16, Bf16, F32, F64]),
        ("min", &[U32, S32, U64, S64, F16, Bf16]),
        ("max", &[U32, S32, U64, S64, F16, Bf16]),
        ("inc", &[U32]),
        ("dec", &[U32]),
        ("and", &[U32, S32, U64, S64]),
        ("or", &[U32, S32, U64, S64]),
        ("xor", &[U32, S32, U64, S64]),
    ];
    for (operation, types) in forms {
        for ty in [U8, U16, U32, S32, U64, S64, F16, F32, F64, Bf16] {
            let wanted = if types.contains(&ty) { Ok(()) } else { Err(FaultKind::IllegalInstruction) };
            assert_eq!(check_reduction(operation, ty), wanted, "{operation} {ty:?}");
        }
    }
}

/// A tensor for im2col: channels, space, images.
struct Picture {
    sizes: Vec<u64>,
    lower: Vec<i32>,
    upper: Vec<i32>,
    steps: Vec<u32>,
    channels: u32,
    pixels: u32,
}

/// What a load is to bring, pixel by pixel: the ISA's walk through the bounding box.
fn expected(picture: &Picture, values: &[u32], start: &[i64], offsets: &[u16]) -> Vec<u32> {
    let space = picture.sizes.len() - 2;
    let mut position = start.to_vec();
    let mut result = Vec::new();
    for _ in 0..picture.pixels {
        for channel in 0..i64::from(picture.channels) {
            let mut place = position.clone();
            place[0] += channel;
            (0..space).for_each(|dimension| place[1 + dimension] += i64::from(offsets[dimension]));
            let inside = place.iter().zip(&picture.sizes).all(|(&place, &size)| (0..size as i64).contains(&place));
            let index =
                place.iter().zip(&picture.sizes).rev().fold(0, |index, (&place, &size)| index * size as i64 + place);
            result.push(if inside { values[index as usize] } else { 0 });
        }
        // The next place of the filter.
        let mut dimension = 1;
        loop {
            if dimension > space {
                position[dimension] += 1;
                break;
            }
            position[dimension] += i64::from(picture.steps[dimension]);
            let end = picture.sizes[dimension] as i64 + i64::from(picture.upper[dimension - 1]);
            if position[dimension] < end {
                break;
            }
            position[dimension] = i64::from(picture.lower[dimension - 1]);
            dimension += 1;
        }
    }
    result
}

fn check_columns(picture: &Picture, start: &[i64], offsets: &[u16]) {
    let rank = picture.sizes.len();
    let bytes = picture.channels * 4 * picture.pixels;
    let list = |count: usize, prefix: &str| (0..count).map(|i| format!("{prefix}{i}")).collect::<Vec<_>>().join(", ");
    let set = |prefix: &str, ty: &str, values: &[i64]| -> String {
        values.iter().enumerate().map(|(i, value)| format!("mov.{ty} {prefix}{i}, {value};\n")).collect()
    };
    let text = format!(
        ".shared .align 128 .b8 tile[{bytes}]; .shared .align 8 .b64 ready;
        .reg .b64 %rd<6>; .reg .b32 %r<8>; .reg .b32 %c<5>; .reg .b16 %o<3>; .reg .pred %p<3>;
        setp.eq.u32 %p0, %thread, 0;
        mov.u32 %r0, tile; mov.u32 %r1, ready;
        @%p0 mbarrier.init.shared.b64 [%r1], 1;
        bar.sync 0;
        {}{}
        @%p0 mbarrier.arrive.expect_tx.shared.b64 _, [%r1], {bytes};
        @%p0 cp.async.bulk.tensor.{rank}d.shared::cluster.global.im2col.mbarrier::complete_tx::bytes [%r0], [%out, {{{}}}], [%r1], {{{}}};
        again:
        mbarrier.try_wait.parity.shared.b64 %p1, [%r1], 0;
        @!%p1 bra again;
        mov.u32 %r2, %thread;
        copy:
        mad.lo.u32 %r3, %r2, 4, %r0;
        ld.shared.u32 %r4, [%r3];
        mul.wide.u32 %rd0, %r2, 4; add.u64 %rd1, %out, %rd0;
        st.global.u32 [%rd1+{TENSOR}], %r4;
        add.u32 %r2, %r2, 32;
        setp.lt.u32 %p2, %r2, {};
        @%p2 bra copy;",
        set("%c", "b32", start),
        set("%o", "b16", &offsets.iter().map(|&offset| i64::from(offset)).collect::<Vec<_>>()),
        list(rank, "%c"),
        list(rank - 2, "%o"),
        bytes / 4,
    );
    let device = kernel(Machine::h100(), "", "", &text);
    let count: u64 = picture.sizes.iter().product();
    let values: Vec<u32> = words(5, count as usize).iter().map(|&word| word as u32 | 1).collect();
    let tensor = device.upload(&values);
    let out = device.upload(&vec![0u8; (TENSOR + u64::from(bytes)) as usize]);
    let mut strides = Vec::new();
    picture.sizes[..rank - 1].iter().fold(4, |stride, size| {
        strides.push(stride * size);
        stride * size
    });
    let request = Request {
        data_type: DataType::U32 as u32,
        address: tensor,
        sizes: &picture.sizes,
        strides: &strides,
        box_sizes: &[],
        steps: &picture.steps,
        interleave: 0,
        swizzle: 0,
        l2_promotion: 0,
        fill: 0,
    };
    let columns =
        Columns { lower: &picture.lower, upper: &picture.upper, channels: picture.channels, pixels: picture.pixels };
    let map = TensorMap::with_columns(&request, &columns).unwrap();
    assert_eq!(TensorMap::decode(&map.encode()), Some(map));
    device.memory.write(out, &map.encode()).unwrap();
    device.must("k", 1, 32, &[Long(out)]);
    let found = device.download::<u32>(out + TENSOR, bytes as usize / 4);
    assert_eq!(found, expected(picture, &values, start, offsets), "{start:?} {offsets:?}");
}

#[test]
fn columns_of_pixels() {
    // A filter of 3, 3 x 3 and 3 x 2 x 3 places with one row of padding around the picture.
    let line = Picture {
        sizes: vec![8, 9, 3],
        lower: vec![-1],
        upper: vec![-1],
        steps: vec![1, 1, 1],
        channels: 4,
        pixels: 13,
    };
    for start in [[0, -1, 0], [4, 5, 0], [6, 0, 1], [0, 3, 2]] {
        for offset in 0..3 {
            check_columns(&line, &start, &[offset]);
        }
    }
    let plane = Picture {
        sizes: vec![4, 7, 5, 2],
        lower: vec![-1, -1],
        upper: vec![-1, -1],
        steps: vec![1, 2, 2, 1],
        channels: 4,
        pixels: 20,
    };
    for start in [[0, -1, -1, 0], [0, 3, 1, 0], [0, 5, 3, 1]] {
        for offsets in [[0, 0], [1, 2], [2, 0]] {
            check_columns(&plane, &start, &offsets);
        }
    }
    let volume = Picture {
        sizes: vec![4, 5, 4, 3, 2],
        lower: vec![-1, 0, -2],
        upper: vec![0, -1, -1],
        steps: vec![1, 1, 2, 1, 1],
        channels: 4,
        pixels: 40,
    };
    for start in [[0, -1, 0, -2, 0], [0, 2, 2, 0, 0], [0, 4, 2, 1, 1]] {
        check_columns(&volume, &start, &[0, 0, 0]);
        check_columns(&volume, &start, &[1, 1, 2]);
    }
}

/// A map that a kernel writes field by field into zeros, and publishes, moves what one of the driver's moves.
#[test]
fn maps_that_kernels_make() {
    let replace = |field: &str, ty: &str, value: &str| {
        format!("tensormap.replace.tile.{field}.shared::cta.b1024.{ty} [%r5], {value};\n")
    };
    let fields = [
        replace("global_address", "b64", "%rd1"),
        replace("rank", "b32", "1"),
        replace("box_dim", "b32", "0, 16"),
        replace("box_dim", "b32", "1, 8"),
        replace("global_dim", "b32", "0, %r6"),
        replace("global_dim", "b32", "1, 20"),
        replace("global_stride", "b64", "0, %rd2"),
        replace("element_stride", "b32", "0, 1"),
        replace("element_stride", "b32", "1, 1"),
        // f32, by the ISA's number.
        replace("elemtype", "b32", "7"),
        replace("interleave_layout", "b32", "0"),
        replace("swizzle_mode", "b32", "2"),
        replace("fill_mode", "b32", "0"),
    ]
    .concat();
    let text = format!(
        ".shared .align 128 .b8 tile[512]; .shared .align 128 .b8 made[128]; .shared .align 8 .b64 ready;
        .reg .b64 %rd<6>; .reg .b32 %r<12>; .reg .pred %p<3>;
        setp.eq.u32 %p0, %thread, 0;
        mov.u32 %r0, tile; mov.u32 %r1, ready; mov.u32 %r5, made; mov.u32 %r6, 30;
        mad.lo.u32 %r7, %thread, 4, %r5;
        st.shared.b32 [%r7], 0;
        add.u64 %rd1, %out, {TENSOR}; mov.b64 %rd2, 128;
        bar.warp.sync 0xffffffff;
        @!%p0 bra made_it;
        {fields}
        mbarrier.init.shared.b64 [%r1], 1;
        made_it:
        bar.warp.sync 0xffffffff;
        tensormap.cp_fenceproxy.global.shared::cta.tensormap::generic.release.gpu.sync.aligned [%out], [%r5], 128;
        fence.proxy.tensormap::generic.acquire.gpu [%out], 128;
        bar.sync 0;
        mov.u32 %r8, 20; mov.u32 %r9, 14;
        @%p0 mbarrier.arrive.expect_tx.shared.b64 _, [%r1], 512;
        @%p0 cp.async.bulk.tensor.2d.shared::cluster.global.tile.mbarrier::complete_tx::bytes [%r0], [%out, {{%r8, %r9}}], [%r1];
        again:
        mbarrier.try_wait.parity.shared.b64 %p1, [%r1], 0;
        @!%p1 bra again;
        mad.lo.u32 %r3, %thread, 16, %r0;
        ld.shared.v4.u32 {{%r4, %r5, %r6, %r7}}, [%r3];
        mul.wide.u32 %rd4, %thread, 16; add.u64 %rd5, %out, %rd4;
        st.global.v4.u32 [%rd5+128], {{%r4, %r5, %r6, %r7}};"
    );
    let device = kernel(Machine::h100(), "", "", &text);
    let values: Vec<u32> = (0..640).map(|index| index + 1).collect();
    let mut buffer = vec![0u32; TENSOR as usize / 4];
    buffer.extend(&values);
    let out = device.upload(&buffer);
    device.must("k", 1, 32, &[Long(out)]);
    let request = Request {
        data_type: DataType::F32 as u32,
        address: out + TENSOR,
        sizes: &[30, 20],
        strides: &[128],
        box_sizes: &[16, 8],
        steps: &[1, 1],
        interleave: 0,
        swizzle: 2,
        l2_promotion: 0,
        fill: 0,
    };
    let map = TensorMap::new(&request).unwrap();
    let made: [u8; 128] = device.download::<u8>(out, 128).try_into().unwrap();
    let made = TensorMap::decode(&made).unwrap();
    // What lies beyond the rank is not looked at.
    assert_eq!(made.strides[..2], map.strides[..2]);
    assert_eq!(TensorMap { strides: map.strides, ..made }, map);
    let found = device.download::<u32>(out + TILE, 128);
    for row in 0..8u32 {
        for column in 0..16u32 {
            let (x, y) = (20 + column, 14 + row);
            let wanted = if x < 30 && y < 20 { values[(y * 32 + x) as usize] } else { 0 };
            // 64 bytes of swizzle: chunks of 16 bytes are exchanged by the number of the 128 bytes.
            let chunk = (column / 4) ^ (row / 2 % 4);
            assert_eq!(found[(16 * row + 4 * chunk + column % 4) as usize], wanted, "row {row} column {column}");
        }
    }
}
