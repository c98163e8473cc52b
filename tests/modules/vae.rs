//! The VAE.

use deem::dtype::Element;
use deem::models::vae::{Vae, VaeConfig};
use deem::params::Registry;

use crate::fixtures::Case;

in_both_types! { vae }

fn vae<E: Element>() {
    let mut registry = Registry::new();
    let config = VaeConfig {
        block_out_channels: vec![8, 8, 16, 16],
        layers_per_block: 2,
        latent_channels: 4,
        norm_num_groups: 4,
        scaling_factor: 0.18215,
        logvar_init: 0.0,
    };
    let model = Vae::new(&mut registry, "", &config);
    let case = Case::<E>::with("vae", 64.0, "", &[], registry);
    let pass = case.pass();
    let (moments, _) = model.encode(&pass, &case.input("in.image")).unwrap();
    case.check("out.moments", &moments);
    let latents = model.sample(&pass, &moments, Some(&case.input("out.noise"))).unwrap();
    case.check("out.scaled", &latents);
    let mode = model.sample(&pass, &moments, None).unwrap();
    let mut unscaled = case.cx.uninit(mode.shape()).unwrap();
    deem::ops::add::scale(&case.cx, 1.0 / model.scaling, mode.view(), unscaled.view_mut()).unwrap();
    case.check("out.mode", &unscaled);
    let (images, _) = model.decode(&pass, &case.input("in.latents")).unwrap();
    case.check("out.decoded", &images);
    case.finish();
}
