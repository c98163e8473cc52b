//! Texts that were PTX until something happened to them, and kernels of instructions that nobody would write: errors and findings, and never more.
//!
//! `VGPU_FUZZ` says how many rounds, few by default. A round that fails names its number, with which `VGPU_FUZZ_FROM` begins again.

use std::path::PathBuf;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};

use cuda::checks::Checks;
use cuda::exec::{self, Launch, Settings};
use cuda::machine::Machine;
use cuda::memory::{Kind, Memory};
use cuda::program::Program;

/// How many rounds a test makes, where `few` are usual; and the first of them.
pub fn rounds(few: u64) -> std::ops::Range<u64> {
    let number = |name: &str| std::env::var(name).ok().and_then(|count| count.parse::<u64>().ok());
    let first = number("VGPU_FUZZ_FROM").unwrap_or(0);
    first..first + number("VGPU_FUZZ").unwrap_or(few)
}

/// Random numbers below a bound (xorshift), of a round.
pub struct Random(u64);

impl Random {
    pub fn new(round: u64) -> Random {
        let mut random = Random((round + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1);
        for _ in 0..4 {
            random.below(1);
        }
        random
    }

    pub fn below(&mut self, bound: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 33) as usize % bound.max(1)
    }

    pub fn of<'a, T>(&mut self, choices: &'a [T]) -> &'a T {
        &choices[self.below(choices.len())]
    }
}

/// A kernel of the corpus: what it declares, and its instructions.
struct Kernel {
    declarations: String,
    instructions: Vec<String>,
}

/// What the rounds are made of.
struct Corpus {
    kernels: Vec<Kernel>,
    /// All words of all instructions.
    words: Vec<String>,
}

/// Words that are put in.
const SIGNS: [&str; 9] = ["0", "-1", "4294967295", "18446744073709551616", "1.5", "_", "{", "}", "%tid.x"];

/// Cuts a text into words and single signs.
fn words(text: &str) -> Vec<&str> {
    let mut words = Vec::new();
    let mut rest = text;
    while let Some(first) = rest.chars().next() {
        let is_word = |letter: char| letter.is_alphanumeric() || matches!(letter, '_' | '%' | '$' | '.' | ':');
        let length = match is_word(first) {
            true => rest.find(|letter| !is_word(letter)).unwrap_or(rest.len()),
            false => first.len_utf8(),
        };
        let (word, behind) = rest.split_at(length);
        words.push(word);
        rest = behind;
    }
    words
}

fn corpus() -> &'static Corpus {
    static CORPUS: OnceLock<Corpus> = OnceLock::new();
    CORPUS.get_or_init(|| {
        let folder = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests");
        let folders =
            ["corpus/nvcc", "corpus/triton", "corpus/nvrtc13", "corpus/numba", "exec/kernels", "faults/kernels"];
        let mut files: Vec<PathBuf> = folders
            .iter()
            .flat_map(|name| std::fs::read_dir(folder.join(name)).expect("a folder"))
            .map(|entry| entry.expect("a file").path())
            .filter(|file| file.extension().is_some_and(|extension| extension == "ptx"))
            .collect();
        files.sort();
        let mut corpus = Corpus { kernels: Vec::new(), words: Vec::new() };
        for file in files {
            let text = std::fs::read_to_string(file).expect("text");
            let mut kernel: Option<Kernel> = None;
            for line in text.lines().map(str::trim) {
                if line.starts_with(".visible .entry") || line.starts_with(".entry") {
                    corpus.kernels.extend(kernel.take());
                    kernel = Some(Kernel { declarations: String::new(), instructions: Vec::new() });
                }
                let Some(kernel) = &mut kernel else { continue };
                let first = line.chars().next().unwrap_or(' ');
                if line.starts_with(".reg") || line.starts_with(".shared") || line.starts_with(".local") {
                    kernel.declarations += line;
                    kernel.declarations.push('\n');
                } else if line.ends_with(';') && (first.is_ascii_lowercase() || first == '@') && !line.contains("call")
                {
                    kernel.instructions.push(line.to_owned());
                    corpus.words.extend(words(line).into_iter().map(str::to_owned));
                }
            }
            corpus.kernels.extend(kernel);
        }
        corpus.kernels.retain(|kernel| kernel.instructions.len() > 8);
        corpus.words.sort();
        corpus.words.dedup();
        corpus
    })
}

/// A kernel `f` of a few instructions of the corpus in which some words were exchanged.
fn text(random: &mut Random, jumps: bool) -> String {
    let corpus = corpus();
    let kernel = random.of(&corpus.kernels);
    let begin = random.below(kernel.instructions.len());
    let count = 1 + random.below(20);
    let chosen = kernel.instructions.iter().skip(begin).take(count).filter(|line| jumps || !line.contains("bra"));
    let mut body = String::new();
    // Many texts should get far before they fail, or not fail.
    let rate = 1 + random.below(40);
    for line in chosen {
        if random.below(rate) > 0 {
            body += line;
            body.push('\n');
            continue;
        }
        let mut words: Vec<&str> = words(line);
        for _ in 0..1 + random.below(2) {
            let at = random.below(words.len());
            match random.below(6) {
                0 if !words.is_empty() => drop(words.remove(at)),
                1 => words.insert(at, random.of(&corpus.words).as_str()),
                2 if words.len() > 1 => {
                    let other = random.below(words.len());
                    words.swap(at, other);
                }
                3 => words.insert(at, *random.of(&SIGNS)),
                _ => {
                    if let Some(word) = words.get_mut(at) {
                        *word = random.of(&corpus.words).as_str();
                    }
                }
            }
        }
        words.into_iter().for_each(|word| body += word);
        body.push('\n');
    }
    let parameters = ".param .u64 p, .param .u64 q, .param .u32 n";
    format!(
        ".version 8.6\n.target sm_90a\n.address_size 64\n.visible .entry f({parameters})\n{{\n{}\n{body}ret;\n}}\n",
        kernel.declarations
    )
}

/// Damages a text byte by byte.
pub fn damage(bytes: &mut Vec<u8>, random: &mut Random) {
    for _ in 0..1 + random.below(6) {
        let at = random.below(bytes.len() + 1);
        match random.below(6) {
            0 if random.below(4) == 0 => bytes.truncate(at),
            1 => bytes.insert(at, *random.of(b"{}[]();,.%\"\\0-@<>+!x")),
            2 => drop(bytes.drain(at..(at + random.below(40)).min(bytes.len()))),
            3 => {
                let part = bytes[at..(at + random.below(200)).min(bytes.len())].to_vec();
                drop(bytes.splice(at..at, part));
            }
            _ => {
                let bit = 1 << random.below(8);
                if let Some(byte) = bytes.get_mut(at) {
                    *byte ^= bit;
                }
            }
        }
    }
}

/// Runs rounds on all cores; says which one failed.
pub fn run(few: u64, round: impl Fn(&mut Random) + Sync) {
    let rounds = rounds(few);
    let threads = std::thread::available_parallelism().map_or(1, usize::from) as u64;
    std::thread::scope(|scope| {
        for first in 0..threads {
            let (round, rounds) = (&round, rounds.clone());
            scope.spawn(move || {
                for number in rounds.skip(first as usize).step_by(threads as usize) {
                    let run = std::panic::AssertUnwindSafe(|| round(&mut Random::new(number)));
                    if std::panic::catch_unwind(run).is_err() {
                        panic!("round {number}: VGPU_FUZZ_FROM={number} VGPU_FUZZ=1 repeats it");
                    }
                }
            });
        }
    });
}

#[test]
fn no_text_makes_the_loader_panic() {
    let capability = Machine::h100().capability;
    run(3000, |random| {
        let mut bytes = text(random, true).into_bytes();
        if random.below(2) == 0 {
            damage(&mut bytes, random);
        }
        let _ = Program::load(&[&String::from_utf8_lossy(&bytes)], capability);
    });
}

#[test]
fn no_kernel_makes_the_executor_panic() {
    let machine = Machine::h100();
    let memory = Memory::new(1 << 24).expect("memory");
    let (p, q) = (memory.allocate(4096, Kind::Device).expect("room"), memory.allocate(64, Kind::Device).expect("room"));
    memory.write(p, &[3; 4096]).expect("inside");
    let loaded = AtomicU64::new(0);
    let params = [p.to_le_bytes(), q.to_le_bytes(), 100u64.to_le_bytes()].concat();
    run(1000, |random| {
        let Ok(program) = Program::load(&[&text(random, false)], machine.capability) else { return };
        loaded.fetch_add(1, Ordering::Relaxed);
        let kernel = &program.kernels[0];
        if kernel.static_shared_bytes > 48 << 10 {
            return;
        }
        let checks = if random.below(4) == 0 { Checks::off() } else { Checks::usual() };
        let launch = Launch {
            kernel,
            globals: &[],
            params: &params[..kernel.param_bytes as usize],
            grid: [1 + random.below(2) as u32, 1, 1],
            block: [1 + random.below(80) as u32, 1, 1],
            cluster: [1; 3],
            dynamic_shared_bytes: *random.of(&[0, 1024, 65536]),
            cooperative: false,
        };
        let settings = Settings { checks, seed: 1, threads: 1 };
        let _ = exec::launch(&memory, &machine, &settings, &launch);
    });
    let (loaded, all) = (loaded.into_inner(), rounds(1000).count() as u64);
    assert!(all < 1000 || loaded * 5 > all, "only {loaded} of {all} kernels were run");
}
