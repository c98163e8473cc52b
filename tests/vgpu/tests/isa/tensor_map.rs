//! Tensor maps: encoding, refusals, and boxes element by element.

use super::Random;
use cuda::isa::matrix::wgmma::Swizzle;
use cuda::isa::tensor_map::{DataType, Fill, Refusal, Request, TensorMap};

/// A request that is in order.
fn plain() -> Request<'static> {
    Request {
        data_type: DataType::Bf16 as u32,
        address: 0x7000_0000_0000,
        sizes: &[100, 50],
        strides: &[256],
        box_sizes: &[64, 16],
        steps: &[1, 1],
        interleave: 0,
        swizzle: 3,
        l2_promotion: 2,
        fill: 0,
    }
}

#[test]
fn bytes_and_back() {
    let map = TensorMap::new(&plain()).unwrap();
    assert_eq!((map.swizzle, map.fill, map.rank), (Swizzle::Bytes128, Fill::Zero, 2));
    assert_eq!((map.box_row_bytes(), map.box_bytes()), (128, 2048));
    assert_eq!(TensorMap::decode(&map.encode()), Some(map));
    let large = Request {
        sizes: &[1 << 32, 7, 1, 3, 1 << 32],
        strides: &[(1 << 40) - 16, 16, 32, 1 << 39],
        box_sizes: &[16, 256, 1, 2, 5],
        steps: &[1, 8, 2, 1, 3],
        fill: 1,
        swizzle: 1,
        ..plain()
    };
    let map = TensorMap::new(&large).unwrap();
    assert_eq!(TensorMap::decode(&map.encode()), Some(map));
    assert_eq!(map.box_bytes(), 32 * 32 * 2 * 2);
    assert_eq!(TensorMap::decode(&[0; 128]), None);
    let mut broken = map.encode();
    broken[4] = 99;
    assert_eq!(TensorMap::decode(&broken), None);
}

#[test]
fn what_the_driver_refuses() {
    let invalid = [
        Request { address: 0x7000_0000_0008, ..plain() },
        Request { sizes: &[], strides: &[], box_sizes: &[], steps: &[], ..plain() },
        Request { sizes: &[0, 50], ..plain() },
        Request { sizes: &[(1 << 32) + 1, 50], ..plain() },
        Request { strides: &[250], ..plain() },
        Request { strides: &[1 << 40], ..plain() },
        Request { strides: &[256, 256], ..plain() },
        Request { box_sizes: &[64, 257], ..plain() },
        Request { box_sizes: &[64, 0], ..plain() },
        Request { box_sizes: &[128, 16], ..plain() },
        Request { box_sizes: &[60, 16], ..plain() },
        Request { steps: &[1, 9], ..plain() },
        Request { steps: &[1, 0], ..plain() },
        Request { swizzle: 7, ..plain() },
        Request { interleave: 3, ..plain() },
        Request { l2_promotion: 4, ..plain() },
        Request { fill: 2, ..plain() },
        Request { data_type: 0, fill: 1, ..plain() },
        Request { data_type: 16, ..plain() },
    ];
    for request in invalid {
        assert!(matches!(TensorMap::new(&request), Err(Refusal::Invalid(_))), "{request:?}");
    }
    for request in
        [Request { interleave: 1, ..plain() }, Request { data_type: 13, ..plain() }, Request { swizzle: 4, ..plain() }]
    {
        assert!(matches!(TensorMap::new(&request), Err(Refusal::Unsupported(_))), "{request:?}");
    }
}

#[test]
fn boxes_element_by_element() {
    let mut random = Random::new(37);
    for _ in 0..500 {
        let rank = 1 + random.below(5) as usize;
        let data_type = [DataType::U8, DataType::F16, DataType::F32, DataType::F64][random.below(4) as usize];
        let bytes = data_type.bytes();
        let sizes: Vec<u64> = (0..rank).map(|_| 1 + random.below(40) as u64).collect();
        let strides: Vec<u64> = (1..rank).map(|_| 16 * random.below(100) as u64).collect();
        let mut box_sizes: Vec<u32> = (0..rank).map(|_| 1 + random.below(5)).collect();
        box_sizes[0] = 16 / bytes * (1 + random.below(3));
        let steps: Vec<u32> = (0..rank).map(|_| 1 + random.below(3)).collect();
        let request = Request {
            data_type: data_type as u32,
            sizes: &sizes,
            strides: &strides,
            box_sizes: &box_sizes,
            steps: &steps,
            swizzle: 0,
            ..plain()
        };
        let map = TensorMap::new(&request).unwrap();
        let mut coordinates = [0; 5];
        coordinates[..rank].iter_mut().for_each(|coordinate| *coordinate = random.below(60) as i32 - 12);
        // All positions of the box, the first dimension fastest.
        let extents: Vec<u32> =
            (0..rank).map(|d| if d == 0 { box_sizes[0] } else { box_sizes[d].div_ceil(steps[d]) }).collect();
        let total: u32 = extents.iter().product();
        let rows = map.rows(coordinates, [0; 3]);
        assert_eq!(map.box_bytes(), total * bytes);
        assert_eq!(rows.len() as u32, total / extents[0]);
        for index in 0..total {
            let (mut rest, mut address, mut inside) = (index, request.address as i64, true);
            for d in 0..rank {
                let step = if d == 0 { 1 } else { steps[d] };
                let position = coordinates[d] as i64 + (rest % extents[d] * step) as i64;
                rest /= extents[d];
                inside &= position >= 0 && position < sizes[d] as i64;
                address += position * if d == 0 { bytes as i64 } else { strides[d - 1] as i64 };
            }
            let row = &rows[(index / extents[0]) as usize];
            let within = index % extents[0] * bytes;
            assert_eq!(row.shared_offset + within, index * bytes);
            assert_eq!(row.inside.contains(&within), inside, "{request:?} {coordinates:?} {index}");
            if inside {
                assert_eq!(row.address as i64 + within as i64, address);
            }
        }
    }
}

#[test]
fn fills() {
    let pattern = |data_type: DataType, fill: u32| {
        let request = Request { data_type: data_type as u32, fill, swizzle: 0, ..plain() };
        TensorMap::new(&request).unwrap().fill_pattern()
    };
    assert_eq!(pattern(DataType::U8, 0), 0);
    assert!(f32::from_bits(pattern(DataType::F32, 1) as u32).is_nan());
    assert!(f64::from_bits(pattern(DataType::F64, 1)).is_nan());
    assert_eq!(pattern(DataType::F16, 1) as u16, 0x7fff);
}
