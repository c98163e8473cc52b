//! The environment variables of the virtual GPU. All are read once, by `cuInit`.

use std::path::PathBuf;

use crate::checks::Checks;
use crate::exec::Settings;
use crate::machine::Machine;

/// Which time events and reports tell.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Clock {
    /// What the described GPU would take, by the throughput model: the same in each run.
    Modelled,
    /// What the processor took.
    Wall,
}

/// What the environment asks for.
#[derive(Debug, Clone)]
pub struct Config {
    /// `VGPU_MACHINE` (`a100`, `h100`) or `VGPU_CAPABILITY` (`8.0`, `9.0`), with the memory of `VGPU_MEMORY`.
    pub machine: Machine,
    /// `VGPU_CHECKS`, `VGPU_SEED`, `VGPU_THREADS`.
    pub settings: Settings,
    /// `VGPU_CLOCK`.
    pub clock: Clock,
    /// `VGPU_REPORT`: where a line per launch goes.
    pub report: Option<PathBuf>,
    /// `VGPU_TRACE`: whether each call that fails is told on standard error.
    pub trace: bool,
    /// `VGPU_DRIVER_VERSION`: what `cuDriverGetVersion` says, 1000 x major + 10 x minor.
    pub driver_version: i32,
}

impl Config {
    /// Reads the variables through `variable`.
    ///
    /// # Errors
    /// A sentence that names the variable, what it holds and what it may hold.
    pub fn read(variable: impl Fn(&str) -> Option<String>) -> Result<Config, String> {
        let name = variable("VGPU_MACHINE").or_else(|| variable("VGPU_CAPABILITY")).unwrap_or_else(|| "h100".into());
        let mut machine = Machine::named(&name)
            .ok_or_else(|| format!("VGPU_MACHINE or VGPU_CAPABILITY is `{name}`: expected a100 or 8.0, h100 or 9.0"))?;
        if let Some(size) = variable("VGPU_MEMORY") {
            machine.memory_bytes = parse_size(&size)
                .filter(|&bytes| (1 << 20..=1 << 42).contains(&bytes))
                .ok_or_else(|| format!("VGPU_MEMORY is `{size}`: expected a size such as 512MiB or 16GiB"))?;
        }
        let checks = Checks::parse(&variable("VGPU_CHECKS").unwrap_or_default()).map_err(|error| error.to_string())?;
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        let threads = number(&variable, "VGPU_THREADS", cores as u64)?.clamp(1, 1024) as usize;
        let seed = number(&variable, "VGPU_SEED", 0)?;
        let clock = match variable("VGPU_CLOCK").as_deref() {
            None | Some("" | "model") => Clock::Modelled,
            Some("wall") => Clock::Wall,
            Some(other) => return Err(format!("VGPU_CLOCK is `{other}`: expected model or wall")),
        };
        Ok(Config {
            machine,
            settings: Settings { checks, seed, threads },
            clock,
            report: variable("VGPU_REPORT").filter(|path| !path.is_empty()).map(PathBuf::from),
            trace: variable("VGPU_TRACE").is_some_and(|value| !value.is_empty() && value != "0"),
            driver_version: number(&variable, "VGPU_DRIVER_VERSION", 13_000)? as i32,
        })
    }
}

fn number(variable: &impl Fn(&str) -> Option<String>, name: &str, default: u64) -> Result<u64, String> {
    match variable(name).filter(|value| !value.is_empty()) {
        None => Ok(default),
        Some(value) => value.trim().parse().map_err(|_| format!("{name} is `{value}`: expected a whole number")),
    }
}

/// Reads `4096`, `512MiB`, `16G`: powers of 1024.
fn parse_size(text: &str) -> Option<u64> {
    let text = text.trim();
    let digits = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let unit = match text[digits..].trim().to_ascii_lowercase().as_str() {
        "" | "b" => 1,
        "k" | "kb" | "kib" => 1 << 10,
        "m" | "mb" | "mib" => 1 << 20,
        "g" | "gb" | "gib" => 1u64 << 30,
        _ => return None,
    };
    text[..digits].parse::<u64>().ok()?.checked_mul(unit)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn with(pairs: &'static [(&str, &str)]) -> Result<Config, String> {
        Config::read(|name| pairs.iter().find(|pair| pair.0 == name).map(|pair| pair.1.to_string()))
    }

    #[test]
    fn variables_choose_the_machine() {
        assert_eq!(with(&[]).unwrap().machine, Machine::h100());
        let config = with(&[("VGPU_CAPABILITY", "8.0"), ("VGPU_MEMORY", "512MiB"), ("VGPU_SEED", "7")]).unwrap();
        assert_eq!(config.machine.name, Machine::a100().name);
        assert_eq!(config.machine.memory_bytes, 512 << 20);
        assert_eq!(config.settings.seed, 7);
    }

    #[test]
    fn nonsense_is_named() {
        for (pairs, word) in [
            (&[("VGPU_MACHINE", "b200")][..], "VGPU_MACHINE"),
            (&[("VGPU_MEMORY", "lots")], "VGPU_MEMORY"),
            (&[("VGPU_SEED", "-1")], "VGPU_SEED"),
            (&[("VGPU_CLOCK", "sundial")], "VGPU_CLOCK"),
            (&[("VGPU_CHECKS", "everything")], "VGPU_CHECKS"),
        ] {
            let error = with(pairs).unwrap_err();
            assert!(error.contains(word), "{error}");
        }
    }
}
