//! Every block and model against tensors that were recorded from the official implementation.

#[path = "../support/fixtures.rs"]
#[macro_use]
mod fixtures;

mod deform;
mod diffusion;
mod encoders;
mod gradients;
mod llama;
mod masks;
mod positions;
mod qformer;
mod unet;
mod vae;

/// The bounds are tight: whatever parameter of a transformer block is off by a thousandth, the comparison of its output fails.
#[test]
fn wrong_terms_fail() {
    let run = |wrong: Option<usize>| {
        let mut registry = deem::params::Registry::new();
        let block = deem::models::unet::Transformer2d::new(&mut registry, "p", 24, 4, 20, 8);
        let mut case = fixtures::Case::<f32>::with("unet_transformer2d", 32.0, "p.", &[], registry);
        let count = case.params.table().specs().len();
        if let Some(id) = wrong.and_then(|i| case.params.table().ids().nth(i)) {
            let values: Vec<f64> = case.params.view(id).data().iter().map(|x| f64::from(*x) * 1.001).collect();
            case.params.set(id, &values);
        }
        let (y, _) = block.forward(&case.pass(), &case.input("in.x"), &case.input("in.ctx")).unwrap();
        case.check("out.out", &y);
        (case.failures().0.len(), count)
    };
    let (failures, count) = run(None);
    assert_eq!(failures, 0);
    for i in 0..count {
        assert_eq!(run(Some(i)).0, 1, "parameter {i} is wrong and nobody noticed");
    }
}
