//! What programs that others wrote call is there: `clients.txt` lists it by client.

use std::ffi::{CString, c_void};
use std::ptr::null_mut;

use crate::support::{check, context, raw};
use cuda::driver::api::{exported, unsupported};

const LIST: &str = include_str!("clients.txt");
/// Clients are of this version of CUDA and later.
const VERSION: i32 = 12_000;

/// The functions of the list, with the client that calls them and whether they are refused.
fn functions() -> Vec<(&'static str, &'static str, bool)> {
    let mut client = "";
    let mut functions = Vec::new();
    for line in LIST.lines().filter(|line| !line.is_empty() && !line.starts_with('#')) {
        match line.strip_prefix('[') {
            Some(title) => client = title.split(']').next().unwrap(),
            None => {
                let name = line.strip_prefix("- ");
                functions.push((client, name.unwrap_or(line), name.is_some()));
            }
        }
    }
    functions
}

/// What `cuGetProcAddress` finds.
fn look_up(name: &str, version: i32) -> *mut c_void {
    let text = CString::new(name).unwrap();
    let (mut function, mut status) = (null_mut(), 0);
    // SAFETY: a terminated text, and out-parameters that live through the call.
    check(unsafe { raw::cuGetProcAddress_v2(text.as_ptr(), &mut function, version, 0, &mut status) });
    function
}

#[test]
fn functions_that_clients_call_are_found() {
    context();
    let functions = functions();
    assert!(functions.len() > 300, "only {}", functions.len());
    let exported: Vec<_> = exported().collect();
    let refused: Vec<&str> = unsupported::EXPORTED.iter().map(|function| function.name).collect();
    for (client, name, is_refused) in functions {
        // A name with its version is what the loader takes; one without is what the driver is asked for.
        let found = exported.iter().find(|function| function.name == name);
        let address = match look_up(name, VERSION + 1_000) {
            address if address.is_null() => found.map(|function| function.address.cast_mut().cast()),
            address => Some(address),
        };
        let address = address.unwrap_or_else(|| panic!("{client}: {name} is not there"));
        let resolved = exported.iter().find(|function| function.address == address.cast_const().cast()).unwrap().name;
        assert_eq!(refused.contains(&resolved), is_refused, "{client}: {name} ({resolved})");
    }
}

#[test]
fn refused_functions_say_so() {
    context();
    let refused = functions().into_iter().filter(|function| function.2);
    for (_, name, _) in refused {
        let exported =
            unsupported::EXPORTED.iter().find(|known| known.name == name || known.name == format!("{name}_v2"));
        // SAFETY: these functions look at no argument.
        let function: extern "C" fn() -> u32 = unsafe { std::mem::transmute(exported.expect(name).address) };
        assert_eq!(function(), 801, "{name}");
    }
}
