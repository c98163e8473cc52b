//! The Q-Former, with and without norms of queries and keys.

use deem::blocks::attention::Mask;
use deem::dtype::Element;
use deem::models::qformer::{QFormer, QFormerConfig};
use deem::params::{Init, Registry};

use crate::fixtures::Case;

in_both_types! { qknorm plain }

fn qknorm<E: Element>() {
    run::<E>("qformer_qknorm", true);
}

fn plain<E: Element>() {
    run::<E>("qformer_plain", false);
}

fn run<E: Element>(module: &str, qk_normalization: bool) {
    let mut registry = Registry::new();
    let config = QFormerConfig {
        num_queries: 5,
        hidden_size: 36,
        num_attention_heads: 3,
        intermediate_size: 52,
        num_hidden_layers: 3,
        cross_attention_frequency: 2,
        encoder_hidden_size: 28,
        qk_normalization,
        initializer_range: 0.02,
    };
    let queries = registry.add("p.queries", [1, 5, 36], Init::ZEROS);
    let model = QFormer::with_queries(&mut registry, "p", &config, queries);
    let mut case = Case::<E>::with(module, 48.0, "p.", &["queries"], registry);
    let recorded = case.fixture.get("in.queries").data.clone();
    case.params.set(queries, &recorded);
    let (pass, mut grads) = (case.pass(), case.grads());
    let mask = Mask::keys(case.mask("in.encoder_mask"));
    let (y, saved) = model.forward(&pass, "q", &case.input("in.encoder"), mask).unwrap();
    case.check("out.last", &y);
    case.check_tap("out.hidden.0", "q.layernorm");
    for i in 0..3 {
        case.check_tap(&format!("out.hidden.{}", i + 1), &format!("q.layer.{i}"));
    }
    let d_tokens = model.backward(&pass, &mut grads, saved, &case.input("cot.last")).unwrap();
    case.check_gradient("grad.in.encoder", &d_tokens.unwrap());
    let d_queries: Vec<f64> = grads.view(queries).unwrap().data().iter().map(|x| x.to_f64()).collect();
    case.check_gradient("grad.in.queries", &case.tensor([1, 5, 36], &d_queries));
    case.check_parameters(&grads);
    case.finish();
}
