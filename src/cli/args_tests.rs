use super::*;

#[derive(Parser, Debug)]
struct Harness<A: Args> {
    #[command(flatten)]
    args: A,
    #[command(flatten)]
    common: Common,
}

fn parse<A: Args>(line: &[&str]) -> Result<(A, Common), String> {
    let parsed = Harness::<A>::try_parse_from(["deem"].iter().chain(line));
    parsed.map(|h| (h.args, h.common)).map_err(|e| e.to_string())
}

#[test]
fn the_definitions_are_consistent() {
    use clap::CommandFactory;
    Cli::command().debug_assert();
    Harness::<TrainArgs>::command().debug_assert();
    Harness::<CaptionArgs>::command().debug_assert();
    Harness::<AskArgs>::command().debug_assert();
    Harness::<PointArgs>::command().debug_assert();
    Harness::<ImagineArgs>::command().debug_assert();
    Harness::<EvalArgs>::command().debug_assert();
    Harness::<ParityArgs>::command().debug_assert();
    Harness::<BenchArgs>::command().debug_assert();
    let help = Cli::command().render_long_help().to_string();
    assert!(help.contains("inspect") && help.contains("[default: host]"), "{help}");
}

#[test]
fn common_options_stand_before_and_after_the_command() {
    for line in [["deem", "--quiet", "inspect", "x"], ["deem", "inspect", "x", "--quiet"]] {
        let cli = Cli::try_parse_from(line).unwrap();
        assert!(cli.common.quiet && cli.common.json.is_none() && cli.common.device == Device::Host);
    }
    let json = |line: &[&str]| Cli::try_parse_from(line).unwrap().common.json.unwrap();
    assert_eq!(json(&["deem", "inspect", "x", "--json"]), Path::new("-"));
    assert_eq!(json(&["deem", "inspect", "x", "--json", "f"]), Path::new("f"));
    for (line, part) in [
        (&["deem", "inspect"][..], "<PATH>"),
        (&["deem", "inspect", "x", "--device", "tpu"], "expected `host` or `cuda[:N]`"),
        (&["deem", "inspect", "x", "--dtype", "f8"], "bf16"),
        (&["deem", "fly"], "fly"),
    ] {
        let error = Cli::try_parse_from(line).unwrap_err();
        assert_eq!(error.exit_code(), 2);
        assert!(error.to_string().contains(part), "{part}: {error}");
    }
}

#[test]
fn train_options_make_a_configuration() {
    let config = |line: &[&str]| {
        let (args, common) = parse::<TrainArgs>(line).unwrap();
        args.config(&common)
    };
    assert_eq!(config(&[]).unwrap(), TrainConfig::preset::<&str>("tiny", &[]).unwrap());
    let found = config(&["--set", "loss.csr=0", "--set", "run.seed=3", "--seed", "4", "--out", "o", "--dtype", "bf16"]);
    let found = found.unwrap();
    assert_eq!((found.model.loss.csr, found.run.seed, found.run.dtype), (0.0, 4, DType::Bf16));
    assert_eq!(found.run.out, Path::new("o"));
    assert!(matches!(config(&["--preset", "huge"]), Err(Failure::Usage(_))));
    assert!(matches!(config(&["--set", "x=1"]), Err(Failure::Usage(_))));
    assert!(matches!(config(&["--config", "/no/such/file"]), Err(Failure::Failed(_))));
    assert!(matches!(config(&["--resume", "/no/such/folder"]), Err(Failure::Failed(_))));
    assert!(parse::<TrainArgs>(&["--config", "a", "--preset", "tiny"]).unwrap_err().contains("cannot be used with"));
}

#[test]
fn regions_numbers_and_names_are_checked() {
    let (args, _) = parse::<PointArgs>(&["a.png", "--region", "0,0.25,0.5,1"]).unwrap();
    assert_eq!(args.region[0].shares(10, 10), Some([0.0, 0.25, 0.5, 1.0]));
    let region: Region = "10,0,50,200".parse().unwrap();
    assert_eq!(region.shares(100, 100), Some([0.1, 0.0, 0.5, 1.0]));
    assert_eq!(region.shares(10, 100), None);
    for bad in ["", "1,2,3", "1,2,3,x", "3,0,1,1", "0,0,0,1", "-1,0,1,1", "nan,0,1,1"] {
        assert!(bad.parse::<Region>().is_err(), "{bad}");
    }
    let (args, _) = parse::<ImagineArgs>(&["a cat", "--sampler", "ddim", "--steps", "5"]).unwrap();
    assert_eq!((Sampler::from(args.draw.sampler), args.draw.steps), (Sampler::Ddim, 5));
    assert!(parse::<ImagineArgs>(&["a cat", "--out", "x.jpg"]).is_err());
    assert!(parse::<CaptionArgs>(&["a.png", "--top-p", "0"]).is_err());
    assert!(parse::<CaptionArgs>(&["a.png", "--beams", "0"]).is_err());
    assert!(parse::<CaptionArgs>(&[]).is_err());
}

#[test]
fn text_options_follow_from_the_arguments() {
    let options = |line: &[&str]| {
        let (args, common) = parse::<CaptionArgs>(&[&["a.png"], line].concat()).unwrap();
        args.text.options(&common)
    };
    assert_eq!(options(&["--max-new", "7"]).unwrap(), TextOptions::greedy(7));
    assert_eq!(options(&["--beams", "3"]).unwrap().decoding, Decoding::Beams { beams: 3 });
    let drawn = Decoding::Sample { temperature: 0.5, top_p: 0.9, top_k: 0, seed: 4 };
    assert_eq!(options(&["--temperature", "0.5", "--top-p", "0.9", "--seed", "4"]).unwrap().decoding, drawn);
    assert!(matches!(options(&["--temperature", "1", "--beams", "2"]), Err(Failure::Usage(_))));
    assert!(parse::<CaptionArgs>(&["a.png", "--max-new", "0"]).is_err());
    assert!(parse::<EvalArgs>(&["--items", "0"]).is_err());
}
