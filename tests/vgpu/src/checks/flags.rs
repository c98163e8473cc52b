//! `VGPU_CHECKS`: which checks are on.
//!
//! A comma-separated list that is read from left to right. `all` and `off` set everything; a name switches a check
//! on, a name with a minus in front switches it off: `VGPU_CHECKS=all,-init` or `VGPU_CHECKS=off,bounds`. Without the
//! variable everything is on but `global-race`, which costs memory and time in proportion to the traffic and assumes
//! that blocks only meet through atomics.

/// The checks, each on or off.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Checks {
    /// Accesses stay inside a live allocation. When off, an address still has to be device memory at all.
    pub bounds: bool,
    /// Addresses are multiples of the access size. (Also an error on a GPU; when off, the access is done bytewise.)
    pub alignment: bool,
    /// Device, shared and local memory is written before it is read.
    pub initialised: bool,
    /// Warps that share a word of shared memory have a barrier between a write and another access.
    pub shared_races: bool,
    /// Lanes of a warp that share a word of shared memory have a warp synchronisation between.
    pub warp_races: bool,
    /// Blocks of a launch do not share a word of global memory unless atomically.
    pub global_races: bool,
    /// The target of an asynchronous copy is not touched before the wait, nor its source overwritten.
    pub async_copies: bool,
    /// Barriers are reached by all the threads that they wait for, collectives by all the lanes they name.
    pub barriers: bool,
    /// What is still allocated or loaded when the process ends.
    pub leaks: bool,
}

/// A name in `VGPU_CHECKS` that is none of ours.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("VGPU_CHECKS: `{name}` is not a check; known are all, off, {}", Checks::NAMES.join(", "))]
pub struct FlagError {
    /// The unknown name.
    pub name: String,
}

impl Checks {
    /// The names of the checks.
    pub const NAMES: [&'static str; 9] =
        ["bounds", "align", "init", "shared-race", "warp-race", "global-race", "async", "barrier", "leak"];

    /// Everything on but races between blocks.
    pub fn usual() -> Checks {
        Checks { global_races: false, ..Checks::set_to(true) }
    }

    /// Everything off.
    pub fn off() -> Checks {
        Checks::set_to(false)
    }

    /// Reads a list as in `VGPU_CHECKS`.
    ///
    /// # Errors
    /// [`FlagError`] for a name that is no check.
    pub fn parse(list: &str) -> Result<Checks, FlagError> {
        let mut checks = Checks::usual();
        for name in list.split(',').map(str::trim).filter(|name| !name.is_empty()) {
            match name {
                "all" | "on" => checks = Checks::set_to(true),
                "off" | "none" => checks = Checks::off(),
                _ => {
                    let (bare, value) = match name.strip_prefix('-') {
                        Some(bare) => (bare, false),
                        None => (name.strip_prefix('+').unwrap_or(name), true),
                    };
                    *checks.flag(bare).ok_or_else(|| FlagError { name: name.to_string() })? = value;
                }
            }
        }
        Ok(checks)
    }

    /// Whether any check of memory contents or order is on; if not, a kernel can run without shadow state.
    pub fn any_in_kernels(&self) -> bool {
        *self != Checks { leaks: self.leaks, ..Checks::off() }
    }

    fn set_to(on: bool) -> Checks {
        Checks {
            bounds: on,
            alignment: on,
            initialised: on,
            shared_races: on,
            warp_races: on,
            global_races: on,
            async_copies: on,
            barriers: on,
            leaks: on,
        }
    }

    fn flag(&mut self, name: &str) -> Option<&mut bool> {
        Some(match name {
            "bounds" => &mut self.bounds,
            "align" => &mut self.alignment,
            "init" => &mut self.initialised,
            "shared-race" => &mut self.shared_races,
            "warp-race" => &mut self.warp_races,
            "global-race" => &mut self.global_races,
            "async" => &mut self.async_copies,
            "barrier" => &mut self.barriers,
            "leak" => &mut self.leaks,
            _ => return None,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_are_read_from_left_to_right() {
        assert_eq!(Checks::parse("").unwrap(), Checks::usual());
        assert_eq!(Checks::parse("off").unwrap(), Checks::off());
        assert!(Checks::parse("all").unwrap().global_races);
        let some = Checks::parse("off, bounds,init").unwrap();
        assert!(some.bounds && some.initialised && !some.alignment && !some.leaks);
        let most = Checks::parse("-leak").unwrap();
        assert_eq!(most, Checks { leaks: false, ..Checks::usual() });
        assert!(!Checks::parse("off,leak").unwrap().any_in_kernels());
    }

    #[test]
    fn each_name_is_a_flag_and_others_are_refused() {
        for name in Checks::NAMES {
            assert_ne!(Checks::parse(&format!("off,{name}")).unwrap(), Checks::off(), "{name}");
        }
        let error = Checks::parse("bound").unwrap_err().to_string();
        assert!(error.contains("`bound` is not a check; known are all, off, bounds"), "{error}");
    }
}
