//! The exported functions, a file per area.
//!
//! Names, argument orders and values are those of `cuda.h`; what a function does is described there. A comment here
//! says where ours differs.
#![allow(non_snake_case)]

pub mod array;
pub mod context;
pub mod copy;
pub mod device;
pub mod event;
pub mod fill;
pub mod function;
pub mod graph;
pub mod graph_node;
pub mod init;
pub mod launch;
pub mod legacy;
pub mod library;
pub mod link;
pub mod memory;
pub mod module;
pub mod multicast;
pub mod pointer;
pub mod pool;
pub mod stream;
pub mod tensor_map;
pub mod texture;
pub mod unsupported;
pub mod virtual_memory;

use super::Exported;

/// All exported functions.
pub fn exported() -> impl Iterator<Item = &'static Exported> {
    [
        array::EXPORTED,
        context::EXPORTED,
        copy::EXPORTED,
        device::EXPORTED,
        event::EXPORTED,
        fill::EXPORTED,
        function::EXPORTED,
        graph::EXPORTED,
        graph_node::EXPORTED,
        init::EXPORTED,
        launch::EXPORTED,
        legacy::EXPORTED,
        library::EXPORTED,
        link::EXPORTED,
        memory::EXPORTED,
        module::EXPORTED,
        multicast::EXPORTED,
        pointer::EXPORTED,
        pool::EXPORTED,
        stream::EXPORTED,
        tensor_map::EXPORTED,
        texture::EXPORTED,
        unsupported::EXPORTED,
        virtual_memory::EXPORTED,
    ]
    .into_iter()
    .flatten()
}
