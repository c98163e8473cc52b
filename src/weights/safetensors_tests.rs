use super::*;
use crate::params::{Init, Layout, Registry};

/// One parameter of every layout, an alias, a frozen one.
pub(crate) fn registry() -> Registry {
    let mut reg = Registry::new();
    let normal = || Init::Normal { std: 1.0 };
    reg.add("a.linear.weight", [3, 5], normal());
    reg.add_with("a.conv.weight", [4, 3, 2, 5], normal(), Layout::Conv);
    reg.add_with("b.dw.weight", [3, 2, 4], normal(), Layout::Depthwise);
    reg.add_with("b.up.weight", [2, 3, 3, 4], normal(), Layout::ConvTransposed);
    let shared = reg.add("c.shared", [1, 7], normal());
    reg.alias(shared, "d.shared");
    reg.add("c.gate", [1], normal());
    reg.apply(|spec| (spec.name == "b.up.weight").then_some(false));
    reg
}

fn values<E: Element>(params: &Params<E>) -> Vec<f64> {
    params.table().ids().flat_map(|id| params.view(id).data().iter().map(|x| x.to_f64()).collect::<Vec<_>>()).collect()
}

fn folder() -> tempfile::TempDir {
    tempfile::tempdir().unwrap()
}

#[test]
fn round_trips_are_exact_and_deterministic() {
    let dir = folder();
    let path = dir.path().join("x.safetensors");
    let params = Params::<f32>::new(registry(), 1);
    save(&params, &path, DType::F32).unwrap();
    let first = std::fs::read(&path).unwrap();
    save(&params, &path, DType::F32).unwrap();
    assert_eq!(first, std::fs::read(&path).unwrap());
    let reader = Reader::open(&path).unwrap();
    assert!(reader.entries().contains_key("c.shared") && reader.entries().contains_key("d.shared"));
    assert_eq!(reader.entries()["a.conv.weight"].shape, [4, 5, 3, 2]);
    assert_eq!(reader.entries()["b.dw.weight"].shape, [4, 1, 3, 2]);
    let mut other = Params::<f32>::new(registry(), 2);
    assert_ne!(values(&params), values(&other));
    let report = load_into(&mut other, &reader, true).unwrap();
    assert_eq!((report.loaded, report.elements), (6, values(&params).len()));
    assert_eq!(values(&params), values(&other));
    // The crate's own parser agrees about layout and bytes.
    let tensors = SafeTensors::deserialize(&first).unwrap();
    let conv = tensors.tensor("a.conv.weight").unwrap();
    let id = params.id("a.conv.weight").unwrap();
    // File [o, i, h, w] = [1, 2, 0, 1] is memory [o, h, w, i] = [1, 0, 1, 2].
    let at = ((5 + 2) * 3) * 2 + 1;
    let found = f32::from_le_bytes(conv.data()[4 * at..4 * at + 4].try_into().unwrap());
    assert_eq!(found, params.view(id).data()[((3) * 2 + 1) * 5 + 2]);
}

#[test]
fn all_float_types_are_read() {
    let dir = folder();
    let params = Params::<f64>::new(registry(), 1);
    for (dtype, bound) in [(DType::F64, 0.0), (DType::F32, 1e-7), (DType::Bf16, 4e-3)] {
        let path = dir.path().join("x.safetensors");
        save(&params, &path, dtype).unwrap();
        let mut other = Params::<f64>::new(registry(), 2);
        load_into(&mut other, &Reader::open(&path).unwrap(), true).unwrap();
        for (x, y) in values(&params).iter().zip(values(&other)) {
            assert!((x - y).abs() <= bound * x.abs(), "{dtype}: {x} {y}");
        }
    }
    let f16 = decode::<f32>(Dtype::F16, &[0x00, 0x3c, 0x00, 0xc0]).unwrap();
    assert_eq!(f16, [1.0, -2.0]);
    // bf16 parameters survive as bf16 bit for bit.
    let path = dir.path().join("y.safetensors");
    let params = Params::<bf16>::new(registry(), 1);
    save(&params, &path, DType::Bf16).unwrap();
    let mut other = Params::<bf16>::new(registry(), 2);
    load_into(&mut other, &Reader::open(&path).unwrap(), true).unwrap();
    assert_eq!(values(&params), values(&other));
}

fn source(name: &str, shape: &[usize]) -> Source<'static> {
    let n = shape.iter().product();
    Source {
        name: name.into(),
        dtype: DType::F32,
        shape: shape.to_vec(),
        alias_of: None,
        values: Box::new(move || Ok(vec![1.0; n])),
    }
}

fn file(path: &Path, mut tensors: Vec<Source<'_>>) {
    write_file(path, |out| write_tensors(out, &mut tensors)).unwrap();
}

#[test]
fn missing_unexpected_and_misshapen_tensors_are_named() {
    let dir = folder();
    let path = dir.path().join("x.safetensors");
    let mut params = Params::<f32>::new(registry(), 1);
    let before = values(&params);
    let buffer = "visual_tokenizer.clip_mean";
    file(&path, vec![source("d.shared", &[1, 7]), source("stranger", &[2]), source(buffer, &[1, 3, 1, 1])]);
    let reader = Reader::open(&path).unwrap();
    let error = load_into(&mut params, &reader, true).unwrap_err().to_string();
    for part in ["x.safetensors", "5 tensors of the model are missing: `a.linear.weight`", "(5 in all)", "`stranger`"] {
        assert!(error.contains(part), "{part}: {error}");
    }
    assert_eq!(values(&params), before);
    let report = load_into(&mut params, &reader, false).unwrap();
    assert_eq!((report.loaded, report.missing.len(), report.unexpected), (1, 5, vec!["stranger".to_string()]));
    assert_eq!(params.view(params.id("c.shared").unwrap()).data(), [1.0; 7]);

    file(&path, vec![source("a.conv.weight", &[4, 3, 2, 5])]);
    let error = load_into(&mut params, &Reader::open(&path).unwrap(), false).unwrap_err().to_string();
    for part in ["x.safetensors", "`a.conv.weight`", "[4, 3, 2, 5]", "expected [4, 5, 3, 2]"] {
        assert!(error.contains(part), "{part}: {error}");
    }
    // Sizes of 1 at the end do not count.
    file(&path, vec![source("a.linear.weight", &[3, 5, 1, 1])]);
    assert_eq!(load_into(&mut params, &Reader::open(&path).unwrap(), false).unwrap().loaded, 1);

    let mut all = sources(&params, DType::F32);
    all.retain(|t| t.name != "c.gate");
    file(&path, all);
    let other = &mut Params::<f32>::new(registry(), 2);
    let error = load_into(other, &Reader::open(&path).unwrap(), true).unwrap_err();
    assert!(matches!(&error, Error::MissingTensor { name, .. } if name == "c.gate"), "{error}");
}

#[test]
fn every_truncation_and_a_corrupt_header_are_errors() {
    let dir = folder();
    let path = dir.path().join("x.safetensors");
    save(&Params::<f32>::new(registry(), 1), &path, DType::F32).unwrap();
    let whole = std::fs::read(&path).unwrap();
    let fails = |bytes: &[u8]| {
        std::fs::write(&path, bytes).unwrap();
        let error = Reader::open(&path).map(|_| ()).unwrap_err().to_string();
        assert!(error.contains("x.safetensors") && error.contains("truncated or corrupt"), "{error}");
    };
    for len in [0, 1, 7, 8, 9, 100, whole.len() / 2, whole.len() - 1] {
        fails(&whole[..len]);
    }
    let mut bad = whole.clone();
    bad[7] = 0xff;
    fails(&bad);
    bad = whole.clone();
    bad[8] = b'x';
    fails(&bad);
    fails(b"PK\x03\x04 this is a zip, not a safetensors file");
    let error = Reader::open(&dir.path().join("absent")).map(|_| ()).unwrap_err();
    assert!(matches!(error, Error::Io { .. }) && error.to_string().contains("absent"));
}

#[test]
fn shards_are_one_file() {
    let dir = folder();
    let params = Params::<f32>::new(registry(), 1);
    let mut parts: [Vec<Source<'_>>; 2] = [Vec::new(), Vec::new()];
    let mut map = BTreeMap::new();
    for (i, tensor) in sources(&params, DType::F32).into_iter().enumerate() {
        map.insert(tensor.name.clone(), format!("part-{}.safetensors", i % 2));
        parts[i % 2].push(tensor);
    }
    for (i, part) in parts.into_iter().enumerate() {
        file(&dir.path().join(format!("part-{i}.safetensors")), part);
    }
    let write_index = |map: &BTreeMap<String, String>| {
        let text = serde_json::json!({ "metadata": { "total_size": 1 }, "weight_map": map }).to_string();
        std::fs::write(dir.path().join(INDEX_FILE), text).unwrap();
    };
    let open = || Reader::open(dir.path());
    assert!(open().map(|_| ()).unwrap_err().to_string().contains("neither"));
    write_index(&map);
    let mut other = Params::<f32>::new(registry(), 2);
    load_into(&mut other, &open().unwrap(), true).unwrap();
    assert_eq!(values(&params), values(&other));
    map.insert("ghost".into(), "part-1.safetensors".into());
    write_index(&map);
    assert!(open().map(|_| ()).unwrap_err().to_string().contains("`ghost` should be in part-1.safetensors"));
    map.insert("ghost".into(), "../part-1.safetensors".into());
    write_index(&map);
    assert!(open().map(|_| ()).unwrap_err().to_string().contains("leaves the folder"));
}

#[test]
fn integers_are_read_and_floats_refused_as_such() {
    let path = folder().keep().join("x.safetensors");
    let view = |dtype, shape: Vec<usize>, data: &'static [u8]| {
        safetensors::tensor::TensorView::new(dtype, shape, data).unwrap()
    };
    let tensors = [
        ("bool", view(Dtype::BOOL, vec![2], &[0, 1])),
        ("i64", view(Dtype::I64, vec![1], &[254, 255, 255, 255, 255, 255, 255, 255])),
    ];
    std::fs::write(&path, safetensors::serialize(tensors, None).unwrap()).unwrap();
    let reader = Reader::open(&path).unwrap();
    assert_eq!(reader.integers("bool").unwrap(), [0, 1]);
    assert_eq!(reader.integers("i64").unwrap(), [-2]);
    assert!(reader.floats::<f32>("i64").unwrap_err().to_string().contains("type I64"));
    assert!(reader.floats::<f32>("none").unwrap_err().to_string().contains("holds no tensor `none`"));
    std::fs::remove_dir_all(path.parent().unwrap()).unwrap();
}
