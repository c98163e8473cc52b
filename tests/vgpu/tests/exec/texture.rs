//! Instructions on textures and surfaces that nvcc has no word for: queries, types of handles, formatted stores, and what is refused.

use super::device::Parameter::Long;
use super::memory::kernel;
use cuda::machine::Machine;
use cuda::program::Program;
use cuda::texture::{AddressMode, Format, Geometry, Image, Object, Sampler};

const SAMPLER: Sampler = Sampler {
    address: [AddressMode::Wrap, AddressMode::Mirror, AddressMode::Border],
    linear: true,
    normalized: true,
    integers: false,
    srgb: false,
    border: [0.0; 4],
    linear_levels: false,
    level_bias: 0.0,
    level_range: [0.0, 9.0],
};

fn image(address: u64, format: Format, geometry: Geometry, extents: [u64; 3], layers: u64) -> Image {
    let pitch = extents[0] * format.bytes();
    let plane = pitch * extents[1];
    Image { address, format, geometry, extents, layers, pitch, plane, for_surfaces: true, for_gathering: true }
}

/// `CU_AD_FORMAT_UNSIGNED_INT8` and its like.
fn format(number: u32, channels: u32) -> Format {
    Format::new(number, channels).expect("a format")
}

#[test]
fn queries() {
    let questions = [
        ("txq.width", 12),
        ("txq.height", 6),
        ("txq.depth", 0),
        ("txq.channel_data_type", 0x10d8),
        ("txq.channel_order", 0x10b2),
        ("txq.normalized_coords", 1),
        ("txq.array_size", 3),
        ("txq.num_mipmap_levels", 2),
        ("txq.num_samples", 1),
        ("txq.addr_mode_0", 0),
        ("txq.addr_mode_1", 1),
        ("txq.addr_mode_2", 4),
        ("txq.filter_mode", 1),
        ("suq.width", 5),
        ("suq.height", 4),
        ("suq.depth", 3),
        ("suq.array_size", 0),
        ("suq.channel_data_type", 0x10de),
        ("suq.channel_order", 0x10b5),
    ];
    let mut text = ".reg .b32 %r<4>; .reg .b64 %t, %s, %n; .reg .pred %p<4>;
        mov.u64 %t, 77; mov.u64 %s, 78; mov.u64 %n, 79;\n"
        .to_owned();
    for (index, (question, _)) in questions.iter().enumerate() {
        let handle = if question.starts_with("txq") { "%t" } else { "%s" };
        text += &format!("{question}.b32 %r0, [{handle}]; st.global.u32 [%out + {}], %r0;\n", 4 * index);
    }
    let count = questions.len();
    text += &format!("txq.level.width.b32 %r0, [%t], 1; st.global.u32 [%out + {}], %r0;\n", 4 * count);
    for (index, (kind, handle)) in
        [("texref", "%t"), ("texref", "%s"), ("surfref", "%t"), ("surfref", "%s"), ("surfref", "%n")].iter().enumerate()
    {
        let place = 4 * (count + 1 + index);
        text +=
            &format!("istypep.{kind} %p0, {handle}; selp.u32 %r0, 1, 0, %p0; st.global.u32 [%out + {place}], %r0;\n");
    }
    let device = kernel(Machine::a100(), "", "", &text);
    let planes = |extents| image(0, format(0x09, 2), Geometry::Planes, extents, 3);
    device.memory.textures().insert(77, Object::Texture(vec![planes([12, 6, 1]), planes([6, 3, 1])], SAMPLER));
    device.memory.textures().insert(78, Object::Surface(image(0, format(0x20, 4), Geometry::Volume, [5, 4, 3], 1)));
    let out = device.upload(&vec![0u32; count + 6]);
    device.must("k", 1, 1, &[Long(out)]);
    let expected: Vec<u32> = questions.iter().map(|question| question.1).chain([6, 1, 0, 0, 1, 0]).collect();
    assert_eq!(device.download::<u32>(out, count + 6), expected);
}

/// Stores four words by elements to a surface of one line, and gives the line's bytes.
fn stored(format: Format, words: [u32; 4]) -> Vec<u8> {
    let [a, b, c, d] = words;
    let text = format!(
        ".reg .b32 %r<8>; .reg .b64 %s; mov.u64 %s, 78; mov.u32 %r0, 1;
         mov.u32 %r1, {a}; mov.u32 %r2, {b}; mov.u32 %r3, {c}; mov.u32 %r4, {d};
         sust.p.1d.v4.b32.trap [%s, {{%r0}}], {{%r1, %r2, %r3, %r4}};"
    );
    let device = kernel(Machine::a100(), "", "", &text);
    let bytes = 2 * format.bytes();
    let out = device.upload(&vec![0xeeu8; bytes as usize]);
    device.memory.textures().insert(78, Object::Surface(image(out, format, Geometry::Line, [2, 1, 1], 1)));
    device.must("k", 1, 1, &[Long(out)]);
    device.download(out, bytes as usize)
}

#[test]
fn formatted_stores_convert() {
    assert_eq!(stored(format(0x01, 4), [7, 255, 256, u32::MAX])[4..], [7, 255, 255, 255]);
    let shorts: Vec<u8> = [-32768i16, 32767].iter().flat_map(|value| value.to_le_bytes()).collect();
    assert_eq!(stored(format(0x09, 2), [-40_000i32 as u32, 40_000, 1, 2])[4..], shorts);
    let halves: Vec<u8> = [0x3c00u16, 0xc000].iter().flat_map(|value| value.to_le_bytes()).collect();
    assert_eq!(stored(format(0x10, 2), [1f32.to_bits(), (-2f32).to_bits(), 0, 0])[4..], halves);
    let word = stored(format(0x0a, 1), [0x8000_0001, 5, 6, 7]);
    assert_eq!(word, [0xee, 0xee, 0xee, 0xee, 1, 0, 0, 0x80], "the other element is not touched");
}

#[test]
fn lanes_have_textures_of_their_own() {
    // Even lanes read a line of numbers, odd ones another.
    let text = ".reg .b32 %r<8>; .reg .b64 %rd<4>; .reg .f32 %f<4>;
         and.b32 %r0, %thread, 1; add.u32 %r0, %r0, 77; cvt.u64.u32 %rd0, %r0;
         tex.1d.v4.f32.s32 {%f0, %f1, %f2, %f3}, [%rd0, {%thread}];
         mul.wide.u32 %rd1, %thread, 4; add.u64 %rd1, %rd1, %out; st.global.f32 [%rd1], %f0;";
    let device = kernel(Machine::a100(), "", "", text);
    let lines: [Vec<f32>; 2] = [1, 100].map(|factor| (0..32).map(|i| (factor * i) as f32).collect());
    for (handle, line) in (77..).zip(&lines) {
        let line = image(device.upload(line), format(0x20, 1), Geometry::Line, [32, 1, 1], 1);
        let sampler = Sampler { linear: false, normalized: false, ..SAMPLER };
        device.memory.textures().insert(handle, Object::Texture(vec![line], sampler));
    }
    let out = device.upload(&[0f32; 32]);
    device.must("k", 1, 32, &[Long(out)]);
    let expected: Vec<f32> = (0..32).map(|lane| lines[lane % 2][lane]).collect();
    assert_eq!(device.download::<f32>(out, 32), expected);
}

#[test]
fn what_is_not_there_is_refused() {
    let registers = ".reg .b32 %r<8>; .reg .b64 %t; .reg .f32 %f<8>; .reg .pred %p;";
    for line in [
        "tex.2d.v4.f32.f32 {%f0, %f1, %f2, %f3}, [%t, %t, {%f4, %f5}];",
        "tex.2d.v4.f32.f32 {%f0, %f1, %f2, %f3}, [%t, {%f4, %f5}], {%r0, %r1};",
        "tex.2dms.v4.f32.s32 {%f0, %f1, %f2, %f3}, [%t, {%r0, %r1, %r2, %r2}];",
        "tex.2d.v2.f16x2.f32 {%r0, %r1}, [%t, {%f4, %f5}];",
        "tld4.r.3d.v4.f32.f32 {%f0, %f1, %f2, %f3}, [%t, {%f4, %f5, %f6, %f6}];",
        "suld.b.2d.v4.b64.trap {%t, %t, %t, %t}, [%t, {%r0, %r1}];",
        "suld.p.2d.v4.b32.trap {%r0, %r1, %r2, %r3}, [%t, {%r0, %r1}];",
        "sured.b.add.2d.u32.trap [%t, {%r0, %r1}], %r2;",
        "istypep.samplerref %p, %t;",
        "txq.force_unnormalized_coords.b32 %r0, [%t];",
    ] {
        let text = format!(
            ".version 8.6\n.target sm_80\n.address_size 64\n.visible .entry k()\n{{\n{registers}\n{line}\nret;\n}}\n"
        );
        assert!(Program::load(&[&text], Machine::a100().capability).is_err(), "{line}");
    }
}
