//! Region tokens.

use deem::dtype::Element;
use deem::models::mask_pooling::MaskPooling;
use deem::models::masks::Masks;
use deem::params::Registry;

use crate::fixtures::Case;

in_both_types! { mask_pooling }

fn mask_pooling<E: Element>() {
    let mut registry = Registry::new();
    let model = MaskPooling::new(&mut registry, "", 64, 28);
    // Means over up to 576 pixels and three layers.
    let case = Case::<E>::with("mask_pooling", 32.0, "", &[], registry);
    let recorded = case.fixture.get("in.mask");
    let &[images, 1, side, _] = &recorded.shape[..] else { panic!("{:?}", recorded.shape) };
    let masks = Masks::new(recorded.data.iter().map(|&x| x as f32).collect::<Vec<_>>(), images, side);
    let maps: Vec<_> = (0..4).map(|i| case.input(&format!("in.f{i}"))).collect();
    let (pass, mut grads) = (case.pass(), case.grads());

    let (y, saved) = model.forward(&pass, &maps, &masks).unwrap();
    case.check("out.mask_embed", &y);
    // The masked map is the second one.
    let shape = maps[1].shape();
    let keep = masks.binary(shape[1]);
    let numbers = maps[1].to_f64();
    let region: Vec<f64> = (0..numbers.len()).map(|i| numbers[i] * f64::from(keep[i / shape[3]])).collect();
    case.check("out.region", &case.tensor(shape, &region));

    // The recorded gradients are those of both results.
    let d_maps = model.backward(&pass, &mut grads, saved, &case.input("cot.mask_embed")).unwrap();
    let d_region = case.input("cot.region").to_f64();
    for (i, d) in d_maps.iter().enumerate() {
        let mut d_map = d.to_f64();
        if i == 1 {
            let direct = d_region.iter().enumerate().map(|(i, d)| d * f64::from(keep[i / shape[3]]));
            d_map.iter_mut().zip(direct).for_each(|(d, direct)| *d += direct);
        }
        case.check_gradient(&format!("grad.in.f{i}"), &case.tensor(d.shape(), &d_map));
    }
    case.check_parameters(&grads);
    case.finish();
}
