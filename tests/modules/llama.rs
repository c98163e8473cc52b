//! The language model in evaluation: left padding, a cache, one more token.

use deem::blocks::attention::Mask;
use deem::blocks::mmfs::Sight;
use deem::dtype::Element;
use deem::memory::Tensor;
use deem::models::llama::{Llama, LlamaConfig, Positions};
use deem::params::{Params, Registry};

use crate::deform::{llama_config, sight};
use crate::fixtures::Case;

in_both_types! { model_eval }

/// Stacks `a` `[B, S, C]` and `b` `[B, T, C]` along the second axis.
fn append<E: Element>(case: &Case<E>, a: &Tensor<E>, b: &Tensor<E>) -> Tensor<E> {
    let (s, t) = (a.shape(), b.shape());
    let rows = |x: &Tensor<E>| x.to_f64().chunks(x.len() / x.shape()[0]).map(<[f64]>::to_vec).collect::<Vec<_>>();
    let data: Vec<f64> = rows(a).into_iter().zip(rows(b)).flat_map(|(a, b)| [a, b].concat()).collect();
    case.tensor([s[0], s[1] + t[1], s[2]], &data)
}

fn model_eval<E: Element>() {
    let mut registry = Registry::new();
    let model = Llama::new(&mut registry, "", &llama_config(), 64);
    let case = Case::<E>::with("llama_model_eval", 64.0, "", &[], registry);
    let (pass, mut grads) = (case.pass(), case.grads());
    let features = case.input_as("in.vision", [2, 2 * 336, 64]);
    let images = case.mask("in.mask");
    let prompt = sight(Sight::relative(&images, 2), 9);
    let keys = case.mask("in.attention_mask");
    let ids: Vec<i32> = case.fixture.integers("in.position_ids");
    let embeds = case.input("in.embeds");

    // The prompt in one pass.
    let positions = Positions { ids: ids.clone(), mask: Mask { causal: Some(0), ..Mask::keys(keys.clone()) } };
    let (y, saved) = model.forward(&pass, &embeds, Some((&features, &prompt)), &positions).unwrap();
    for i in 0..2 {
        case.check_tap(&format!("out.hidden.{}", i + 1), &format!("llm.layer.{i}"));
    }
    case.check("out.hidden.3", &y);
    case.check("out.last", &y);
    let (d_prompt, _) = model.backward(&pass, &mut grads, saved, &case.input("cot.last")).unwrap();

    // The same through the cache, then one more token; it sees what the prompt's last token sees.
    let next: Vec<i32> = case.fixture.integers("in.next_ids");
    let x = model.embed(&pass, &next, 2).unwrap();
    let vision = model.look(&pass, &features).unwrap();
    let mut cache = model.cache(&pass, 2, 12).unwrap();
    let again = model.decode(&pass, &embeds, Some((&vision, &prompt)), &ids, &keys, &mut cache).unwrap();
    case.check("out.last", &again);
    let extend = |rows: &[u8], length: usize, more: &dyn Fn(&[u8]) -> Vec<u8>| -> Vec<u8> {
        rows.chunks(length).flat_map(|row| [row.to_vec(), more(row)].concat()).collect()
    };
    let all_keys = extend(&keys, 9, &|_| vec![1]);
    let next_ids: Vec<i32> = ids.chunks(9).map(|row| row[8] + 1).collect();
    let last: Vec<u8> = images.chunks(9 * 2).flat_map(|sample| sample[8 * 2..].to_vec()).collect();
    let step_sight = sight(Sight::relative(&last, 2), 1);
    let step = model.decode(&pass, &x, Some((&vision, &step_sight)), &next_ids, &all_keys, &mut cache).unwrap();
    case.check("out.step", &step);
    assert_eq!(cache.len(), 10);

    // The step's gradient goes through the cache into the prompt: here by a pass over all ten tokens, whose last one is the step.
    let positions = Positions {
        ids: ids.chunks(9).zip(&next_ids).flat_map(|(row, next)| [row, &[*next]].concat()).collect(),
        mask: Mask { causal: Some(0), ..Mask::keys(all_keys) },
    };
    let images = extend(&images, 9 * 2, &|row| row[8 * 2..].to_vec());
    let all = append(&case, &embeds, &x);
    let sight = sight(Sight::relative(&images, 2), 10);
    let (y, saved) = model.forward(&pass, &all, Some((&features, &sight)), &positions).unwrap();
    let rows: Vec<f64> = y.to_f64().chunks(80).skip(9).step_by(10).flatten().copied().collect();
    case.check("out.step", &case.tensor([2, 1, 80], &rows));
    let silent = case.cx.zeros([2, 9, 80]).unwrap();
    let cotangent = append(&case, &silent, &case.input("cot.step"));
    let (d_all, _) = model.backward(&pass, &mut grads, saved, &cotangent).unwrap();
    let d_step: Vec<f64> = d_all.to_f64().chunks(10 * 80).flat_map(|row| row[..9 * 80].to_vec()).collect();
    let total = pass.add(&d_prompt, &case.tensor([2, 9, 80], &d_step)).unwrap();
    case.check_gradient("grad.in.embeds", &total);
    case.finish();
}

/// Documents that share a row but not their attention are what they are in rows of their own: rotary positions are relative.
#[test]
fn packed_documents_do_not_see_each_other() {
    let config = LlamaConfig { cross_attention_frequency: 0, ..llama_config() };
    let mut registry = Registry::new();
    let model = Llama::new(&mut registry, "", &config, 48);
    let params = Params::<f64>::new(registry, 3);
    let cx = deem::Context::host(2);
    let pass = deem::blocks::Pass::new(&cx, &params);
    let (length, start, width) = (11, 4, config.hidden_size);
    let stream = deem::ops::random::Stream::new(2, "words");
    let words: Vec<f64> = (0..(length * width) as u64).map(|i| stream.normal(i)).collect();
    let hidden = |from: usize, to: usize, mask: Mask| {
        let x = cx.tensor([1, to - from, width], &words[from * width..to * width]).unwrap();
        let positions = Positions { mask, ..Positions::counting(1, to - from) };
        model.forward(&pass, &x, None, &positions).unwrap().0.to_f64()
    };
    let first: Vec<u32> = (0..length).map(|t| if t < start { 0 } else { start as u32 }).collect();
    let packed = hidden(0, length, Mask { first: Some(first.into()), ..Mask::causal() });
    let alone = [hidden(0, start, Mask::causal()), hidden(start, length, Mask::causal())].concat();
    let open = hidden(0, length, Mask::causal());
    let most = |a: &[f64], b: &[f64]| a.iter().zip(b).map(|(a, b)| (a - b).abs()).fold(0.0, f64::max);
    assert!(most(&packed, &alone) < 1e-12, "{}", most(&packed, &alone));
    assert!(most(&open[start * width..], &alone[start * width..]) > 1e-2, "without the mask they see each other");
}
