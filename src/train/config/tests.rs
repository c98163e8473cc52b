use std::sync::Arc;

use super::*;
use crate::data::{BatchSource, Collator, SceneSource};
use crate::models::encoder::Encoder;
use crate::models::llama::Llama;
use crate::models::qformer::QFormer;
use crate::models::unet::Unet;
use crate::models::vae::Vae;
use crate::params::Registry;

fn tiny(set: &[&str]) -> Result<TrainConfig> {
    TrainConfig::preset("tiny", set)
}

fn fails(set: &str, parts: &[&str]) {
    let error = tiny(&[set]).unwrap_err();
    assert!(matches!(error, Error::Config(_)));
    let error = error.to_string();
    for part in parts.iter().chain([&set]) {
        assert!(error.contains(part), "{part}: {error}");
    }
}

#[test]
fn presets_resolve_and_survive_the_round_trip() {
    for (name, _) in PRESETS {
        let mut config = TrainConfig::preset::<&str>(name, &[]).unwrap();
        let (_, tokenizer) = config.resolve().unwrap();
        assert_eq!(config.model.llm.vocab_size, tokenizer.vocab_size(), "{name}");
        assert_eq!(config.model.special.soi as usize, config.model.base_vocab);
        let text = config.to_toml().unwrap();
        let mut again = TrainConfig::parse::<&str>(&text, &[]).unwrap();
        assert_eq!(again, config, "{name}");
        again.resolve().unwrap();
        assert_eq!((again.to_toml().unwrap(), again), (text, config));
    }
    let error = TrainConfig::preset_text("huge").unwrap_err().to_string();
    assert!(error.contains("`huge`") && error.contains("`tiny`"), "{error}");
}

#[test]
fn every_stage_of_tiny_makes_batches() {
    let mut config = tiny(&[]).unwrap();
    let (world, tokenizer) = config.resolve().unwrap();
    let (world, tokenizer) = (Arc::new(world), Arc::new(tokenizer));
    for stage in &config.stages {
        let collator = Collator {
            world: world.clone(),
            tokenizer: tokenizer.clone(),
            num_img_token: config.model.num_img_token,
            image_size: config.model.tokenizer.image_size,
            image_size_dec: config.model.diffusion.as_ref().unwrap().image_size,
            max_len: config.data.max_len,
        };
        let source = SceneSource::new(collator, stage.recipe(), 1, 0).unwrap();
        for k in 0..20 {
            let batch = source.batch(k).unwrap_or_else(|e| panic!("{}: {e}", stage.name));
            assert!(batch.rows > 0 && batch.len <= config.data.max_len);
        }
    }
}

fn pretrain(config: &TrainConfig) -> &StageConfig {
    config.stages.iter().find(|s| s.name == "pretrain").unwrap()
}

#[test]
fn overrides_reach_every_kind_of_key() {
    let set = [
        "run.seed=7",
        "run.dtype=bf16",
        "run.out = somewhere/else",
        "stages.0.steps=5",
        "stages.pretrain.lr=1e-4",
        "stages.pretrain.parts.1.weight=2",
        "stages.pretrain.loss.txt=0.5",
        "stages.vae.weight_decay=0.1",
        "model.llm.spatial_shapes=[16, 8]",
        "optimiser.groups=[]",
        "samples.sampler=ddim",
        "loss.csr=0",
        "hidden_size=10",
        "mask_align={ mask_shape = 16 }",
        "model.tokenizer.encoder.drop_path=0.25",
        "log.tensorboard=false",
    ];
    let hidden = set.iter().position(|s| *s == "hidden_size=10").unwrap();
    fails(set[hidden], &["ambiguous", "`model.llm.hidden_size`"]);
    fails("mask_align={ mask_shape = 16 }", &["no key `mask_align`"]);
    let set: Vec<&str> =
        set.into_iter().filter(|s| !s.starts_with("hidden_size") && !s.starts_with("mask_align")).collect();
    let config = tiny(&set).unwrap();
    assert_eq!((config.run.seed, config.run.dtype), (7, DType::Bf16));
    assert_eq!(config.run.out, Path::new("somewhere/else"));
    assert_eq!(config.stages[0].steps, 5);
    let stage = pretrain(&config);
    assert_eq!((stage.lr, stage.parts[1].weight, stage.loss.txt), (1e-4, 2.0, Some(0.5)));
    assert_eq!(stage.loss(&config.model.loss), LossWeights { csr: 0.0, txt: 0.5, img: 5.0 });
    assert_eq!(config.stages.iter().find(|s| s.name == "vae").unwrap().weight_decay, Some(0.1));
    assert_eq!(config.model.llm.spatial_shapes, [16, 8]);
    assert!(config.optimiser.groups.is_empty() && !config.log.tensorboard);
    assert_eq!(config.samples.sampler, Sampler::Ddim);
    assert_eq!(config.model.loss.csr, 0.0);
    // Optional keys appear and disappear.
    let config = tiny(&["model.tokenizer.mask_align.mask_shape=16"]).unwrap();
    assert_eq!(config.model.tokenizer.mask_align.unwrap().mask_shape, 16);
    let parts = |config: &TrainConfig| pretrain(config).parts.len();
    let config = tiny(&["model.diffusion=none", "stages.pretrain.parts.2=none"]).unwrap();
    assert!(config.model.diffusion.is_none());
    assert_eq!(parts(&config) + 1, parts(&tiny(&[]).unwrap()));
}

#[test]
fn wrong_overrides_name_the_key_and_the_nearest() {
    fails("stages.pretrain.stepps=5", &["no key `stages.pretrain.stepps`", "`stages.pretrain.steps`"]);
    fails("model.loss.crs=1", &["`model.loss.csr`"]);
    fails("modle.loss.csr=1", &["`model.loss.csr`"]);
    fails("stages.17.steps=5", &["no key `stages.17.steps`"]);
    fails("run.seed.x=5", &["no key `run.seed.x`"]);
    fails("run.seed=abc", &["invalid type", "abc"]);
    fails("run.seed=-1", &["-1"]);
    fails("run.dtype=f8", &["unknown variant `f8`", "bf16"]);
    fails("samples.sampler=euler", &["`euler`", "dpmpp"]);
    fails("run.out=none", &["missing field `out`"]);
    fails("seed", &["expected key=value"]);
    fails("steps=4", &["ambiguous"]);
    fails("=4", &["no key"]);
}

#[test]
fn contradictions_are_named() {
    let resolve = |set: &[&str]| tiny(set).unwrap().resolve().map(|_| ()).unwrap_err().to_string();
    for (set, parts) in [
        ("model.num_img_token=8", &["num_queries = 16", "num_img_token = 8"][..]),
        ("model.llm.vocab_size=3", &["vocab_size = 3"]),
        ("model.base_vocab=3", &["base_vocab = 3"]),
        ("model.special.pad=3", &["model.special"]),
        ("model.llm.spatial_shapes=[7]", &["no map of side 7", "[16, 8, 4, 2]"]),
        ("model.diffusion.unet.sample_size=16", &["sample_size = 16", "8"]),
        ("model.diffusion.vae.norm_num_groups=5", &["norm_num_groups = 5 must divide"]),
        ("model.llm.num_attention_heads=3", &["must divide"]),
        ("model.tokenizer.qformer_dropout=1", &["qformer_dropout = 1", "0 <= rate < 1"]),
        ("stages.vae.batch=0", &["stage `vae`"]),
        ("stages.language.parts.0.kind=captioning", &["stage `language`", "text_only"]),
        ("stages.1.name=language", &["two stages `language`"]),
        ("run.dtype=f64", &["f64"]),
        ("data.max_len=1000", &["max_len = 1000"]),
        ("data.scenes.concepts=1", &["concepts = 1"]),
        ("optimiser.groups.1.lr=1", &["lr_scale"]),
    ] {
        let error = resolve(&[set]);
        assert!(parts.iter().all(|part| error.contains(part)), "{set}: {error}");
    }
    // A larger vocabulary than the words need is filled up.
    let mut config = tiny(&["model.llm.vocab_size=1000"]).unwrap();
    assert_eq!(config.resolve().unwrap().1.vocab_size(), 1000);
    assert_eq!(config.model.base_vocab, 994);
}

#[test]
fn a_wrong_file_shows_its_line() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("my.toml");
    let text = TrainConfig::preset_text("tiny").unwrap().replace("max_len = 192", "max_length = 192");
    std::fs::write(&path, text).unwrap();
    let error = TrainConfig::read::<&str>(&path, &[]).unwrap_err().to_string();
    for part in ["my.toml", "max_length", "line "] {
        assert!(error.contains(part), "{part}: {error}");
    }
    assert!(matches!(TrainConfig::read::<&str>(&folder.path().join("no.toml"), &[]), Err(Error::Io { .. })));
}

/// The counts of the specification (section 11.1), made by instantiating the official modules.
#[test]
fn the_papers_model_has_the_papers_sizes() {
    let model = TrainConfig::preset::<&str>("deem-7b", &[]).unwrap().model;
    let count = |build: &dyn Fn(&mut Registry)| {
        let mut reg = Registry::new();
        build(&mut reg);
        reg.specs().iter().map(|s| s.shape.len()).sum::<usize>()
    };
    let (tokens, dm) = (&model.tokenizer, model.diffusion.as_ref().unwrap());
    let embed = tokens.embed_dim;
    let encoder = count(&|reg| drop(Encoder::new(reg, "v", &tokens.encoder, embed)));
    assert_eq!(encoder, 87_566_464 + 3_019_776 + 2_131_200);
    assert_eq!(count(&|reg| drop(QFormer::new(reg, "q", &tokens.qformer))), 101_662_464);
    assert_eq!(count(&|reg| drop(QFormer::new(reg, "q", &dm.qformer))), 21_070_848);
    assert_eq!(count(&|reg| drop(Vae::new(reg, "v", &dm.vae))), 83_653_863);
    assert_eq!(count(&|reg| drop(Unet::new(reg, "u", &dm.unet, None))), 865_910_724);
    let llama = count(&|reg| drop(Llama::new(reg, "l", &model.llm, embed)));
    assert_eq!(llama, 131_096_576 + 6_476_271_616 + 200_471_944);
}

#[test]
fn the_baseline_has_no_consistency_loss_anywhere() {
    for (set, none) in [(&[] as &[&str], false), (&["loss.csr=0"], true)] {
        let config = tiny(set).unwrap();
        let weights: Vec<f64> = config.stages.iter().map(|stage| stage.loss(&config.model.loss).csr).collect();
        assert_eq!(weights.iter().all(|&w| w == 0.0), none, "{weights:?}");
    }
}

#[test]
fn a_prior_sees_layouts_and_nothing_else() {
    let check = |parts: &str| tiny(&[&format!("stages.prior.parts=[{parts}]")]).unwrap().check();
    for parts in ["{ kind = \"imagining\" }", "{ kind = \"layouts\", consistency = false }"] {
        let error = check(parts).unwrap_err().to_string();
        assert!(error.contains("`prior`") && error.contains("`layouts`") && error.contains("consistency"), "{error}");
    }
    check("{ kind = \"imagining\", consistency = false }").unwrap();
}
