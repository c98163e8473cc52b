//! Text generation and scores against full forward passes without a cache.

use deem::blocks::Pass;
use deem::blocks::mmfs::Sight;
use deem::infer::prompt::{Padding, Prompt, batch, picture_ids};
use deem::infer::score::score;
use deem::infer::text::{Decoding, Generated, TextOptions, generate};
use deem::models::config::DeemConfig;
use deem::models::deem::{Deem, Inputs};
use deem::models::llama::Positions;
use deem::params::Params;
use deem::{Context, Error};

use crate::tiny;

struct Fixture {
    config: DeemConfig,
    model: Deem,
    params: Params<f64>,
    cx: Context,
}

impl Fixture {
    fn new() -> Self {
        let config = tiny::config();
        let (model, params) = tiny::model(&config, 3);
        Fixture { config, model, params, cx: Context::host(1) }
    }

    fn pass(&self) -> Pass<'_, f64> {
        Pass::new(&self.cx, &self.params)
    }

    /// Text with pictures between: one list of ids before each picture, and one after the last.
    fn prompt(&self, name: &str, parts: &[&[i32]]) -> Prompt {
        let (mut ids, mut pictures) = (vec![1], Vec::new());
        for (i, part) in parts.iter().enumerate() {
            if i > 0 {
                ids.extend(picture_ids(&self.config));
                pictures.push(tiny::picture(&self.config, &format!("{name}.{i}")));
            }
            ids.extend(*part);
        }
        Prompt { ids, pictures, masks: Vec::new() }
    }

    fn prompts(&self) -> Vec<Prompt> {
        vec![
            self.prompt("a", &[&[5, 6], &[7, 8]]),
            self.prompt("b", &[&[9, 10, 11], &[12], &[13, 14, 15, 16]]),
            self.prompt("c", &[&[4], &[3]]),
        ]
    }

    fn left(&self, prompts: &[Prompt]) -> Inputs {
        batch(&self.config, prompts, Padding::Left).unwrap()
    }

    fn generate(&self, prompts: &[Prompt], options: &TextOptions) -> Vec<Generated> {
        generate(&self.pass(), &self.model, &self.left(prompts), options).unwrap()
    }

    /// Log-probabilities of every next token after the prompt and `more`: from one forward pass over everything, without padding or cache.
    fn log_probs(&self, prompt: &Prompt, more: &[i32]) -> Vec<f64> {
        let logits = self.logits(prompt, more);
        let lse = logits.iter().map(|x| x.exp()).sum::<f64>().ln();
        logits.iter().map(|x| x - lse).collect()
    }

    fn logits(&self, prompt: &Prompt, more: &[i32]) -> Vec<f64> {
        let (pass, model) = (self.pass(), &self.model);
        let inputs = batch(&self.config, std::slice::from_ref(prompt), Padding::Right).unwrap();
        let document = model.document(&inputs).unwrap();
        let seen = model.see(&pass, &inputs.images, inputs.num_images(), None).unwrap();
        let start = model.embed(&pass, &inputs.text_ids, 1, &document, Some(&seen.vis_embed)).unwrap();
        let rest = model.llm.embed(&pass, more, 1).unwrap();
        let len = prompt.ids.len() + more.len();
        let x = [start.data(), rest.data()].concat();
        let x = self.cx.tensor([1, len, self.config.llm.hidden_size], &x).unwrap();
        let (bank, sight) = model.llm_vision(&pass, &seen.features, &seen.levels, &document, 1).unwrap();
        let mut visible = document.visible.clone();
        let last = visible[visible.len() - document.most..].to_vec();
        more.iter().for_each(|_| visible.extend(&last));
        let relative = Sight::relative(&visible, document.most);
        let sight = Sight { relative, reference: vec![0.5; 2 * len].into(), ..sight };
        let positions = Positions::counting(1, len);
        let hidden = model.llm.forward(&pass, &x, Some((&bank, &sight)), &positions).unwrap().0;
        let end = hidden.narrow(0, 1).reshape([len, self.config.llm.hidden_size]).narrow(len - 1, 1);
        model.logits(&pass, &end).unwrap().0.to_f64()
    }

    /// The score of a text, from full forward passes.
    fn rescore(&self, prompt: &Prompt, text: &Generated, length_penalty: f64) -> f64 {
        let tokens = &text.ids[1..];
        let sum: f64 = (0..tokens.len()).map(|i| self.log_probs(prompt, &tokens[..i])[tokens[i] as usize]).sum();
        let counted = text.ids.len() - usize::from(text.stop.is_some());
        sum / (counted as f64).powf(length_penalty)
    }
}

#[test]
fn cached_decoding_equals_full_forward_passes() {
    let f = Fixture::new();
    let prompts = f.prompts();
    let options = TextOptions { keep_logits: true, min_length: 6, ..TextOptions::greedy(7) };
    for (prompt, text) in prompts.iter().zip(f.generate(&prompts, &options)) {
        assert_eq!(text.logits.len(), text.ids.len() - 1);
        for (step, logits) in text.logits.iter().enumerate() {
            let full = f.logits(prompt, &text.ids[1..=step]);
            crate::support::assert_close(&format!("step {step}"), logits, &full, 1e-10);
        }
        assert!((text.score - f.rescore(prompt, &text, 1.0)).abs() < 1e-9);
    }
}

#[test]
fn a_batch_gives_what_each_prompt_gives() {
    let f = Fixture::new();
    let prompts = f.prompts();
    let beams =
        |beams| TextOptions { decoding: Decoding::Beams { beams }, max_new_tokens: 8, ..TextOptions::default() };
    let penalised = TextOptions { repetition_penalty: 1.5, length_penalty: 0.5, min_length: 2, ..beams(3) };
    for options in [TextOptions::greedy(8), beams(3), TextOptions { num_return_sequences: 2, ..penalised }] {
        let together = f.generate(&prompts, &options);
        let apart: Vec<_> = prompts.iter().flat_map(|p| f.generate(std::slice::from_ref(p), &options)).collect();
        assert_eq!(together.len(), apart.len());
        for (a, b) in together.iter().zip(&apart) {
            assert_eq!((&a.ids, a.stop), (&b.ids, b.stop), "{options:?}");
            assert!((a.score - b.score).abs() < 1e-9);
        }
    }
}

#[test]
fn one_beam_without_length_penalty_is_greedy() {
    let f = Fixture::new();
    let greedy = TextOptions { length_penalty: 0.0, min_length: 3, ..TextOptions::greedy(8) };
    let beam = TextOptions { decoding: Decoding::Beams { beams: 1 }, ..greedy.clone() };
    for (a, b) in f.generate(&f.prompts(), &greedy).iter().zip(f.generate(&f.prompts(), &beam)) {
        assert_eq!((&a.ids, a.stop), (&b.ids, b.stop));
        assert!((a.score - b.score).abs() < 1e-12);
    }
}

#[test]
fn scores_of_beams_are_those_of_their_texts() {
    let f = Fixture::new();
    let prompts = f.prompts();
    let mut ended = [0; 2];
    for length_penalty in [0.0, 1.0, 2.0] {
        let decoding = Decoding::Beams { beams: 4 };
        let options = TextOptions {
            decoding,
            max_new_tokens: 6,
            min_length: 0,
            length_penalty,
            num_return_sequences: 4,
            stop: Some(vec![3, 7]),
            ..TextOptions::default()
        };
        let texts = f.generate(&prompts, &options);
        texts.iter().for_each(|t| ended[usize::from(t.stop.is_some())] += 1);
        for (i, text) in texts.iter().enumerate() {
            let expected = f.rescore(&prompts[i / 4], text, length_penalty);
            assert!((text.score - expected).abs() < 1e-9, "{text:?}: {expected}");
            assert!(i % 4 == 0 || texts[i - 1].score >= text.score);
        }
    }
    assert!(ended.iter().all(|&n| n > 3), "{ended:?}");
}

/// With as many beams as tokens nothing is pruned before the second token: the best of all texts is found.
#[test]
fn beams_that_hold_everything_find_the_best_text() {
    let f = Fixture::new();
    let prompt = &f.prompts()[0];
    let (vocab, stop) = (f.config.llm.vocab_size, [2, 21]);
    let options = TextOptions {
        decoding: Decoding::Beams { beams: vocab },
        max_new_tokens: 2,
        min_length: 0,
        length_penalty: 0.0,
        ..TextOptions::default()
    };
    let first = f.log_probs(prompt, &[]);
    let mut best = (f64::NEG_INFINITY, Vec::new());
    for (a, &log_prob) in first.iter().enumerate() {
        if stop.contains(&a) {
            best = if log_prob > best.0 { (log_prob, vec![1, a as i32]) } else { best };
            continue;
        }
        for (b, second) in f.log_probs(prompt, &[a as i32]).iter().enumerate() {
            let sum = log_prob + second;
            best = if sum > best.0 { (sum, vec![1, a as i32, b as i32]) } else { best };
        }
    }
    let text = &f.generate(std::slice::from_ref(prompt), &options)[0];
    assert_eq!(text.ids, best.1);
    assert!((text.score - best.0).abs() < 1e-10);
}

#[test]
fn the_token_that_ended_a_text_is_known() {
    let f = Fixture::new();
    let prompt = [f.prompts()[0].clone()];
    let free = &f.generate(&prompt, &TextOptions { stop: Some(vec![]), ..TextOptions::greedy(6) })[0];
    assert_eq!((free.ids.len(), free.stop), (7, None));
    let end = free.ids[3];
    let first = free.ids.iter().skip(1).position(|&id| id == end).unwrap() + 1;
    let greedy = TextOptions { stop: Some(vec![end]), length_penalty: 0.0, ..TextOptions::greedy(6) };
    let beam = TextOptions { decoding: Decoding::Beams { beams: 1 }, ..greedy.clone() };
    let official = TextOptions { official_eos: true, ..beam.clone() };
    for (options, last) in [(greedy, end), (beam, end), (official, f.config.special.eos)] {
        let text = &f.generate(&prompt, &options)[0];
        assert_eq!(text.stop, Some(end), "{options:?}");
        assert_eq!(text.ids[..first], free.ids[..first]);
        assert_eq!(text.ids[first..], [last]);
    }
    // Nothing ends before its minimum length.
    let options = TextOptions { stop: Some(vec![end]), min_length: 6, ..TextOptions::greedy(6) };
    let text = &f.generate(&prompt, &options)[0];
    assert!(text.ids.len() >= 6 && !text.ids[1..5].contains(&end));
}

#[test]
fn sampling_is_a_function_of_its_seed() {
    let f = Fixture::new();
    let prompts = f.prompts();
    let sample = |seed, temperature| TextOptions {
        decoding: Decoding::Sample { temperature, top_p: 0.95, top_k: 0, seed },
        num_return_sequences: 3,
        ..TextOptions::greedy(6)
    };
    let texts = f.generate(&prompts, &sample(1, 1.0));
    assert_eq!(texts.len(), 9);
    assert_eq!(texts, f.generate(&prompts, &sample(1, 1.0)));
    assert_ne!(texts, f.generate(&prompts, &sample(2, 1.0)));
    assert_ne!(texts[0].ids, texts[1].ids);
    for (i, text) in texts.iter().enumerate() {
        assert!((text.score - f.rescore(&prompts[i / 3], text, 1.0)).abs() < 1e-9);
    }
    let greedy = f.generate(&prompts, &TextOptions::greedy(6));
    for (i, text) in f.generate(&prompts, &sample(1, 1e-6)).iter().enumerate() {
        assert_eq!(text.ids, greedy[i / 3].ids);
    }
}

#[test]
fn scores_of_options_are_sums_of_log_probabilities() {
    let f = Fixture::new();
    let options = [vec![4], vec![5, 6, 7], vec![8, 9], vec![21], vec![10, 11, 12, 13, 2]];
    for prompt in f.prompts() {
        let sum = |option: &Vec<i32>| -> f64 {
            (0..option.len()).map(|i| f.log_probs(&prompt, &option[..i])[option[i] as usize]).sum()
        };
        let expected: Vec<f64> = options.iter().map(sum).collect();
        for at_once in [1, 2, 5] {
            let found = score(&f.pass(), &f.model, &prompt, &options, at_once).unwrap();
            crate::support::assert_close("score", &found, &expected, 1e-10);
        }
    }
    assert!(score(&f.pass(), &f.model, &f.prompts()[0], &[], 1).unwrap().is_empty());
    let bad = |options: &[Vec<i32>], at_once| score(&f.pass(), &f.model, &f.prompts()[0], options, at_once);
    assert!(matches!(bad(&[vec![]], 1), Err(Error::Domain { .. })));
    assert!(matches!(bad(&[vec![25]], 1), Err(Error::Domain { .. })));
    assert!(matches!(bad(&[vec![3]], 0), Err(Error::Config(_))));
}

#[test]
fn text_alone_works_and_mistakes_are_named() {
    let f = Fixture::new();
    let text = &f.generate(&[Prompt::text([1, 5, 6])], &TextOptions::greedy(4))[0];
    assert!(text.ids.len() <= 5);
    assert!(generate(&f.pass(), &f.model, &Inputs::default(), &TextOptions::greedy(4)).unwrap().is_empty());

    let inputs = f.left(&f.prompts());
    let fails = |inputs: &Inputs, options: TextOptions| match generate(&f.pass(), &f.model, inputs, &options) {
        Err(error) => error.to_string(),
        Ok(_) => panic!("{options:?} should not work"),
    };
    let beams = |beams| TextOptions { decoding: Decoding::Beams { beams }, ..TextOptions::default() };
    let nucleus = |temperature, top_p| TextOptions {
        decoding: Decoding::Sample { temperature, top_p, top_k: 0, seed: 0 },
        ..TextOptions::default()
    };
    for (options, word) in [
        (TextOptions::greedy(0), "max_new_tokens"),
        (beams(0), "beams"),
        (TextOptions { num_return_sequences: 4, ..beams(3) }, "num_return_sequences"),
        (TextOptions { num_return_sequences: 2, ..TextOptions::greedy(3) }, "num_return_sequences"),
        (TextOptions { stop: Some(vec![25]), ..beams(3) }, "stop"),
        (TextOptions { repetition_penalty: 0.0, ..beams(3) }, "repetition_penalty"),
        (nucleus(0.0, 0.9), "temperature"),
        (nucleus(1.0, 1.5), "top_p"),
    ] {
        assert!(fails(&inputs, options).contains(word));
    }
    let right = batch(&f.config, &f.prompts(), Padding::Right).unwrap();
    assert!(fails(&right, TextOptions::greedy(3)).contains("pad on the left"));
    let mut blind = inputs.clone();
    blind.images.pop();
    assert!(fails(&blind, TextOptions::greedy(3)).contains("images"));
    let mut lost = f.prompts();
    lost[0].pictures.clear();
    assert!(fails(&f.left(&lost), TextOptions::greedy(3)).contains("pictures"));
}
