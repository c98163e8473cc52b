//! What a module was decoded into: kernels of compact instructions, and the variables they share.
//!
//! Loading does all the work that depends on text. It parses ([`crate::ptx`]), links several sources, resolves names, picks for every instruction the
//! function that executes it, builds the control-flow graph with its post-dominators and packs the virtual registers into few slots.
//! What is not understood is refused here, so that a launch can only fail for what a kernel does.

mod allocate;
mod decode;
mod draft;
mod flow;
mod function;
mod kernel;
mod link;
mod opcode;
mod operand;

use std::sync::Arc;

use crate::exec::Code;
use crate::machine::Capability;

/// A loaded module: one or several PTX sources, linked.
#[derive(Debug, Default)]
pub struct Program {
    /// The entry functions, in the order of the text.
    pub kernels: Vec<Arc<Kernel>>,
    /// The variables in global and constant memory that the loader must place; a launch is told where each lies.
    pub globals: Vec<Global>,
    /// What is odd but does not prevent execution, as sentences.
    pub warnings: Vec<String>,
}

impl Program {
    /// Parses, links and decodes `sources` for a device of the given `capability`.
    ///
    /// # Errors
    /// The first thing that is not PTX, not supported, not defined in any source, or meant for another device.
    pub fn load(sources: &[&str], capability: Capability) -> Result<Program, LoadError> {
        // What programs have of the device runtime library, which is no PTX.
        let asks = |source: &&str| source.contains("cudaCGSynchronize") || source.contains("cudaCGGetIntrinsicHandle");
        let runtime = sources.iter().any(asks).then_some(include_str!("runtime/grid.ptx"));
        let sources = sources.iter().copied().chain(runtime);
        let parsed = sources.map(crate::ptx::parse).collect::<Result<Vec<_>, _>>();
        let modules = parsed.map_err(|error| LoadError {
            kernel: error.function,
            line: error.line,
            text: error.text,
            reason: error.reason,
            kind: LoadErrorKind::Syntax,
        })?;
        for module in &modules {
            check_target(module, capability)?;
        }
        let (linked, globals) = link::Linked::new(&modules)?;
        let mut kernels = Vec::new();
        for (owner, function) in linked.functions().filter(|(_, function)| function.is_entry) {
            kernels.push(Arc::new(kernel::build(&linked, &modules, owner, function)?));
        }
        Ok(Program { kernels, globals, warnings: Vec::new() })
    }

    /// The kernel of that name.
    pub fn kernel(&self, name: &str) -> Option<&Arc<Kernel>> {
        self.kernels.iter().find(|kernel| kernel.name == name)
    }
}

/// An entry function, ready to run.
#[derive(Debug, Default)]
pub struct Kernel {
    /// The name in the text.
    pub name: String,
    /// The parameters, in order.
    pub params: Vec<Param>,
    /// Bytes of all parameters with the padding between them.
    pub param_bytes: u32,
    /// Registers per thread that a compiler would need, by the largest number of values alive at once.
    pub registers: u32,
    /// Bytes of shared memory that the text declares.
    pub static_shared_bytes: u32,
    /// Bytes of local memory per thread, without the frames of functions that it calls through pointers.
    pub local_bytes: u32,
    /// `.maxntid`: the most threads of a block.
    pub max_threads: Option<u32>,
    /// `.maxnreg`: registers of a thread at most.
    pub max_registers: Option<u32>,
    /// `.reqntid`: the only permitted block.
    pub required_block: Option<[u32; 3]>,
    /// `.minnctapersm`.
    pub min_blocks: Option<u32>,
    /// `.reqnctapercluster`: the only permitted cluster.
    pub required_cluster: Option<[u32; 3]>,
    /// `.version`, as major and minor.
    pub ptx_version: (u32, u32),
    /// `.target`, such as `sm_80`.
    pub target: String,
    /// What runs.
    pub(crate) code: Code,
}

/// One parameter of a kernel.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Param {
    /// Where it begins in the parameter buffer.
    pub offset: u32,
    /// Its bytes.
    pub size: u32,
    /// What its offset is a multiple of.
    pub align: u32,
}

/// Where a module-level variable lives.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Space {
    /// `.global`: read and written by kernels.
    Global,
    /// `.const`: written by the host only.
    Const,
}

/// A module-level variable in global or constant memory.
#[derive(Debug, Clone)]
pub struct Global {
    /// The name in the text.
    pub name: String,
    /// Which memory it lies in.
    pub space: Space,
    /// Its size.
    pub bytes: u64,
    /// What its address must be a multiple of.
    pub align: u32,
    /// Its first bytes; the rest is zero.
    pub init: Vec<u8>,
    /// Addresses to be put into it as 64-bit words: at which offset, and of which variable. What `init` holds there is added.
    pub references: Vec<(u64, String)>,
}

/// Why a module could not be loaded.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{}line {line}: {reason}: `{text}`", .kernel.as_ref().map(|name| format!("in {name}, ")).unwrap_or_default())]
pub struct LoadError {
    /// The function that holds the text, if any.
    pub kernel: Option<String>,
    /// The line, from 1.
    pub line: u32,
    /// The instruction or directive as written.
    pub text: String,
    /// What is wrong with it.
    pub reason: String,
    /// Which of the driver's errors that is.
    pub kind: LoadErrorKind,
}

/// Kinds of [`LoadError`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LoadErrorKind {
    /// Not PTX.
    Syntax,
    /// PTX that this virtual GPU does not implement.
    Unsupported,
    /// A name that no source defines.
    UnresolvedSymbol,
    /// Code for a newer or another device.
    WrongTarget,
}

/// Refuses code for a device that this is not.
fn check_target(module: &crate::ptx::Module<'_>, capability: Capability) -> Result<(), LoadError> {
    let fail = |reason: String, kind| LoadError {
        kernel: None,
        line: 1,
        text: format!(".target {}", module.target),
        reason,
        kind,
    };
    let number = module.target.strip_prefix("sm_").unwrap_or("");
    let digits = number.trim_end_matches(|letter: char| letter.is_ascii_alphabetic());
    let wanted: u32 = digits.parse().map_err(|_| fail("expected .target sm_NN".into(), LoadErrorKind::Syntax))?;
    let have = capability.major * 10 + capability.minor;
    let specific = digits.len() < number.len();
    if wanted > have || specific && wanted != have {
        return Err(fail(format!("the device has sm_{have}"), LoadErrorKind::WrongTarget));
    }
    if module.address_size != 64 {
        return Err(fail("only .address_size 64 is supported".into(), LoadErrorKind::Unsupported));
    }
    Ok(())
}
