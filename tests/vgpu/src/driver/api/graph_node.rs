//! The nodes of graphs: adding them, and reading and changing their parameters, in a graph and in an instance.

use std::ffi::c_void;
use std::sync::Arc;

use super::copy::{Copy3d, node_copy, node_parameters};
use super::launch::prepare;
use super::stream::NodeHandle;
use super::{fill, graph};
use crate::driver::context::{Context, current};
use crate::driver::engine::event::Event;
use crate::driver::engine::graph::{Graph, GraphExec, Node, Task};
use crate::driver::engine::kernel::KernelCall;
use crate::driver::engine::operation::{Fill, HostCall, HostFunction, Operation};
use crate::driver::errors::Error;
use crate::driver::ffi::{Handle, In, Out, Plain, read};
use crate::driver::gpu::gpu;
use crate::driver::module::Function;
use crate::driver::{Outcome, functions};
use crate::machine::limits::Shape;
use crate::memory::Kind;

/// `CUDA_KERNEL_NODE_PARAMS`, first version.
#[derive(Clone, Copy)]
#[repr(C)]
pub struct KernelNode {
    function: Handle<Function>,
    grid: [u32; 3],
    block: [u32; 3],
    shared: u32,
    values: u64,
    extra: u64,
}

/// The second version: a kernel of a library may stand in place of the function.
#[derive(Clone, Copy)]
#[repr(C)]
pub struct KernelNodeV2 {
    first: KernelNode,
    kernel: Handle<Function>,
    context: u64,
}

/// `CUDA_MEMSET_NODE_PARAMS`.
#[derive(Clone, Copy)]
#[repr(C)]
pub struct MemsetNode {
    address: u64,
    pitch: usize,
    value: u32,
    element: u32,
    width: usize,
    height: usize,
}

/// `CUDA_HOST_NODE_PARAMS`.
#[derive(Clone, Copy)]
#[repr(C)]
pub struct HostNode {
    function: u64,
    data: u64,
}

/// `CUgraphNodeParams`: a type, and parameters as the type has them.
#[derive(Clone, Copy)]
#[repr(C)]
pub struct AnyNode {
    kind: u32,
    reserved: [i32; 3],
    parameters: [u64; 29],
    reserved_after: u64,
}

// SAFETY: integers.
unsafe impl Plain for KernelNode {}
// SAFETY: integers.
unsafe impl Plain for KernelNodeV2 {}
// SAFETY: integers.
unsafe impl Plain for MemsetNode {}
// SAFETY: integers.
unsafe impl Plain for HostNode {}
// SAFETY: integers.
unsafe impl Plain for AnyNode {}

fn kernel_task(context: &Context, node: &KernelNode, kernel: Handle<Function>) -> Outcome<Task> {
    let function = if node.function.is_null() { kernel } else { node.function }.get()?;
    let shape = Shape {
        grid: node.grid,
        block: node.block,
        cluster: function.default_cluster(),
        dynamic_shared: node.shared,
        cooperative: false,
    };
    prepare(context, function, shape, node.values, node.extra).map(|call| Task::Operation(Operation::Kernel(call)))
}

fn memset_task(context: &Context, node: &MemsetNode) -> Outcome<Task> {
    let made = Fill {
        address: node.address,
        pitch: node.pitch as u64,
        value: node.value,
        element: node.element,
        width: node.width as u64,
        height: node.height.max(1) as u64,
    };
    fill::check(context, made).map(|fill| Task::Operation(Operation::Fill(fill)))
}

fn host_task(node: &HostNode) -> Outcome<Task> {
    if node.function == 0 {
        return Err(Error::InvalidValue);
    }
    // SAFETY: the program says that this is a function of that prototype; nobody else could know.
    let function = unsafe { std::mem::transmute::<*const (), extern "C" fn(*mut c_void)>(node.function as *const ()) };
    let call = HostCall { function: HostFunction::Plain(function), data: node.data as *mut c_void };
    Ok(Task::Operation(Operation::Host(call)))
}

fn copy_task(context: &Context, parameters: &Copy3d) -> Outcome<Task> {
    node_copy(context, parameters).map(|copy| Task::Operation(Operation::Copy(copy)))
}

fn child_task(child: Handle<Graph>) -> Outcome<Task> {
    child.get()?.copy().map(Task::Child)
}

/// The task of a node in the form that all types share.
fn any_task(context: &Context, node: &AnyNode, address: u64) -> Outcome<Task> {
    // The parameters follow the type and three reserved words.
    let parameters = address + 16;
    Ok(match node.kind {
        0 => {
            let kernel: KernelNodeV2 = read(parameters)?;
            kernel_task(context, &kernel.first, kernel.kernel)?
        }
        // Flags, a reserved word and a context come first.
        1 => copy_task(context, &read(parameters + 16)?)?,
        2 => memset_task(context, &read(parameters)?)?,
        3 => host_task(&read(parameters)?)?,
        4 => child_task(Handle::new(node.parameters[0]))?,
        5 => Task::Operation(Operation::Nothing),
        6 => Task::Await(Handle::<Event>::new(node.parameters[0]).get()?),
        7 => Task::Record(Handle::<Event>::new(node.parameters[0]).get()?),
        _ => return Err(Error::NotSupported),
    })
}

fn add(node: Out<NodeHandle>, graph: Handle<Graph>, before: In<NodeHandle>, count: usize, task: Task) -> Outcome {
    if node.is_null() {
        return Err(Error::InvalidValue);
    }
    node.set(graph.get()?.add(task, &before.list(count)?)?)
}

/// Changes a step of an instance to a task of the same type.
fn change(exec: Handle<GraphExec>, node: NodeHandle, task: Task) -> Outcome {
    exec.get()?.change(|plan| {
        let step = plan.step_of(node)?;
        if step.task.kind() != task.kind() {
            return Err(Error::InvalidValue);
        }
        if let Task::Child(graph) = &task {
            step.child = Some(Arc::new(graph.plan()?));
        }
        step.task = task;
        Ok(())
    })
}

/// Tells a launch. The arrays that the pointers lead to stay until the process ends.
fn tell_kernel(node: Handle<Node>) -> Outcome<KernelNode> {
    let Task::Operation(Operation::Kernel(KernelCall { function, shape, params })) = node.get()?.task() else {
        return Err(Error::InvalidValue);
    };
    let handle = function.module.function(&function.kernel.name)?;
    let buffer: &'static [u8] = Box::leak(params.to_vec().into_boxed_slice());
    let pointers: Vec<u64> =
        function.kernel.params.iter().map(|one| buffer.as_ptr() as u64 + one.offset as u64).collect();
    let values = if pointers.is_empty() { 0 } else { Box::leak(pointers.into_boxed_slice()).as_ptr() as u64 };
    let (grid, block) = (shape.grid, shape.block);
    Ok(KernelNode { function: handle, grid, block, shared: shape.dynamic_shared, values, extra: 0 })
}

/// `CUDA_MEM_ALLOC_NODE_PARAMS`, of which the pool's properties and the accesses are passed over.
#[derive(Clone, Copy)]
#[repr(C)]
pub struct AllocateNode {
    properties: [u64; 11],
    accesses: u64,
    access_count: usize,
    bytes: usize,
    address: u64,
}

// SAFETY: integers.
unsafe impl Plain for AllocateNode {}

functions! {
    fn cuGraphAddKernelNode(node: Out<NodeHandle>, graph: Handle<Graph>, before: In<NodeHandle>, count: usize,
            parameters: In<KernelNode>) {
        let task = kernel_task(&*current()?, &parameters.get()?, Handle::new(0))?;
        add(node, graph, before, count, task)
    }

    fn cuGraphAddKernelNode_v2(node: Out<NodeHandle>, graph: Handle<Graph>, before: In<NodeHandle>, count: usize,
                               parameters: In<KernelNodeV2>) {
        let wanted = parameters.get()?;
        let task = kernel_task(&*current()?, &wanted.first, wanted.kernel)?;
        add(node, graph, before, count, task)
    }

    fn cuGraphKernelNodeGetParams(node: Handle<Node>, parameters: Out<KernelNode>) {
        gpu()?;
        parameters.set(tell_kernel(node)?)
    }

    fn cuGraphKernelNodeGetParams_v2(node: Handle<Node>, parameters: Out<KernelNodeV2>) {
        gpu()?;
        parameters.set(KernelNodeV2 { first: tell_kernel(node)?, kernel: Handle::new(0), context: 0 })
    }

    fn cuGraphKernelNodeSetParams(node: Handle<Node>, parameters: In<KernelNode>) {
        let task = kernel_task(&*current()?, &parameters.get()?, Handle::new(0))?;
        node.get()?.set_task(task)
    }

    fn cuGraphKernelNodeSetParams_v2(node: Handle<Node>, parameters: In<KernelNodeV2>) {
        let wanted = parameters.get()?;
        let task = kernel_task(&*current()?, &wanted.first, wanted.kernel)?;
        node.get()?.set_task(task)
    }

    fn cuGraphExecKernelNodeSetParams(exec: Handle<GraphExec>, node: NodeHandle, parameters: In<KernelNode>) {
        let task = kernel_task(&*current()?, &parameters.get()?, Handle::new(0))?;
        change(exec, node, task)
    }

    fn cuGraphExecKernelNodeSetParams_v2(exec: Handle<GraphExec>, node: NodeHandle, parameters: In<KernelNodeV2>) {
        let wanted = parameters.get()?;
        let task = kernel_task(&*current()?, &wanted.first, wanted.kernel)?;
        change(exec, node, task)
    }

    fn cuGraphAddMemcpyNode(node: Out<NodeHandle>, graph: Handle<Graph>, before: In<NodeHandle>, count: usize,
                            parameters: In<Copy3d>, _context: Handle<Context>) {
        let task = copy_task(&*current()?, &parameters.get()?)?;
        add(node, graph, before, count, task)
    }

    fn cuGraphMemcpyNodeGetParams(node: Handle<Node>, parameters: Out<Copy3d>) {
        gpu()?;
        match node.get()?.task() {
            Task::Operation(Operation::Copy(copy)) => parameters.set(node_parameters(&copy)),
            _ => Err(Error::InvalidValue),
        }
    }

    fn cuGraphMemcpyNodeSetParams(node: Handle<Node>, parameters: In<Copy3d>) {
        let task = copy_task(&*current()?, &parameters.get()?)?;
        node.get()?.set_task(task)
    }

    fn cuGraphExecMemcpyNodeSetParams(exec: Handle<GraphExec>, node: NodeHandle, parameters: In<Copy3d>,
            _context: Handle<Context>) {
        let task = copy_task(&*current()?, &parameters.get()?)?;
        change(exec, node, task)
    }

    fn cuGraphAddMemsetNode(node: Out<NodeHandle>, graph: Handle<Graph>, before: In<NodeHandle>, count: usize,
                            parameters: In<MemsetNode>, _context: Handle<Context>) {
        let task = memset_task(&*current()?, &parameters.get()?)?;
        add(node, graph, before, count, task)
    }

    fn cuGraphMemsetNodeGetParams(node: Handle<Node>, parameters: Out<MemsetNode>) {
        gpu()?;
        let Task::Operation(Operation::Fill(fill)) = node.get()?.task() else { return Err(Error::InvalidValue) };
        let Fill { address, pitch, value, element, width, height } = fill;
        let (pitch, width, height) = (pitch as usize, width as usize, height as usize);
        parameters.set(MemsetNode { address, pitch, value, element, width, height })
    }

    fn cuGraphMemsetNodeSetParams(node: Handle<Node>, parameters: In<MemsetNode>) {
        let task = memset_task(&*current()?, &parameters.get()?)?;
        node.get()?.set_task(task)
    }

    fn cuGraphExecMemsetNodeSetParams(exec: Handle<GraphExec>, node: NodeHandle, parameters: In<MemsetNode>,
            _context: Handle<Context>) {
        let task = memset_task(&*current()?, &parameters.get()?)?;
        change(exec, node, task)
    }

    fn cuGraphAddHostNode(node: Out<NodeHandle>, graph: Handle<Graph>, before: In<NodeHandle>, count: usize,
            parameters: In<HostNode>) {
        gpu()?;
        add(node, graph, before, count, host_task(&parameters.get()?)?)
    }

    fn cuGraphHostNodeGetParams(node: Handle<Node>, parameters: Out<HostNode>) {
        gpu()?;
        match node.get()?.task() {
            Task::Operation(Operation::Host(HostCall { function: HostFunction::Plain(function), data })) => {
                parameters.set(HostNode { function: function as usize as u64, data: data as u64 })
            }
            _ => Err(Error::InvalidValue),
        }
    }

    fn cuGraphHostNodeSetParams(node: Handle<Node>, parameters: In<HostNode>) {
        gpu()?;
        node.get()?.set_task(host_task(&parameters.get()?)?)
    }

    fn cuGraphExecHostNodeSetParams(exec: Handle<GraphExec>, node: NodeHandle, parameters: In<HostNode>) {
        gpu()?;
        change(exec, node, host_task(&parameters.get()?)?)
    }

    fn cuGraphAddEmptyNode(node: Out<NodeHandle>, graph: Handle<Graph>, before: In<NodeHandle>, count: usize) {
        gpu()?;
        add(node, graph, before, count, Task::Operation(Operation::Nothing))
    }

    fn cuGraphAddChildGraphNode(node: Out<NodeHandle>, graph: Handle<Graph>, before: In<NodeHandle>, count: usize,
            child: Handle<Graph>) {
        gpu()?;
        add(node, graph, before, count, child_task(child)?)
    }

    fn cuGraphChildGraphNodeGetGraph(node: Handle<Node>, graph: Out<Handle<Graph>>) {
        use crate::driver::objects::Object;
        gpu()?;
        let Task::Child(child) = node.get()?.task() else { return Err(Error::InvalidValue) };
        let known = Graph::registry().handle_where(|other| other.id == child.id);
        graph.set(known.unwrap_or_else(|| Graph::registry().insert(child)))
    }

    fn cuGraphExecChildGraphNodeSetParams(exec: Handle<GraphExec>, node: NodeHandle, child: Handle<Graph>) {
        gpu()?;
        change(exec, node, child_task(child)?)
    }

    fn cuGraphAddEventRecordNode(node: Out<NodeHandle>, graph: Handle<Graph>, before: In<NodeHandle>, count: usize,
            event: Handle<Event>) {
        gpu()?;
        add(node, graph, before, count, Task::Record(event.get()?))
    }

    fn cuGraphAddEventWaitNode(node: Out<NodeHandle>, graph: Handle<Graph>, before: In<NodeHandle>, count: usize,
            event: Handle<Event>) {
        gpu()?;
        add(node, graph, before, count, Task::Await(event.get()?))
    }

    fn cuGraphEventRecordNodeSetEvent(node: Handle<Node>, event: Handle<Event>) {
        gpu()?;
        node.get()?.set_task(Task::Record(event.get()?))
    }

    fn cuGraphEventWaitNodeSetEvent(node: Handle<Node>, event: Handle<Event>) {
        gpu()?;
        node.get()?.set_task(Task::Await(event.get()?))
    }

    fn cuGraphExecEventRecordNodeSetEvent(exec: Handle<GraphExec>, node: NodeHandle, event: Handle<Event>) {
        gpu()?;
        change(exec, node, Task::Record(event.get()?))
    }

    fn cuGraphExecEventWaitNodeSetEvent(exec: Handle<GraphExec>, node: NodeHandle, event: Handle<Event>) {
        gpu()?;
        change(exec, node, Task::Await(event.get()?))
    }

    /// The memory is there from now on and until the context ends, whenever the graph is launched.
    fn cuGraphAddMemAllocNode(node: Out<NodeHandle>, graph: Handle<Graph>, before: In<NodeHandle>, count: usize,
                              parameters: Out<AllocateNode>) {
        let mut wanted = parameters.get()?;
        let address = current()?.allocate(wanted.bytes as u64, Kind::Pooled)?;
        add(node, graph, before, count, Task::Allocate { address, bytes: wanted.bytes as u64 })?;
        wanted.address = address;
        parameters.set(wanted)
    }

    fn cuGraphAddMemFreeNode(node: Out<NodeHandle>, graph: Handle<Graph>, before: In<NodeHandle>, count: usize,
            address: u64) {
        gpu()?;
        add(node, graph, before, count, Task::Release { address })
    }

    fn cuGraphMemFreeNodeGetParams(node: Handle<Node>, address: Out<u64>) {
        gpu()?;
        match node.get()?.task() {
            Task::Release { address: released } => address.set(released),
            _ => Err(Error::InvalidValue),
        }
    }

    fn cuGraphAddNode(node: Out<NodeHandle>, graph: Handle<Graph>, before: In<NodeHandle>, count: usize,
            parameters: Out<AnyNode>) {
        let task = any_task(&*current()?, &parameters.get()?, parameters.address())?;
        add(node, graph, before, count, task)
    }

    fn cuGraphAddNode_v2(node: Out<NodeHandle>, graph: Handle<Graph>, before: In<NodeHandle>, _edges: In<u64>,
            count: usize,
                         parameters: Out<AnyNode>) {
        let task = any_task(&*current()?, &parameters.get()?, parameters.address())?;
        add(node, graph, before, count, task)
    }

    fn cuGraphNodeSetParams(node: Handle<Node>, parameters: Out<AnyNode>) {
        let task = any_task(&*current()?, &parameters.get()?, parameters.address())?;
        graph::graph_of(&*node.get()?)?;
        node.get()?.set_task(task)
    }

    fn cuGraphExecNodeSetParams(exec: Handle<GraphExec>, node: NodeHandle, parameters: Out<AnyNode>) {
        let task = any_task(&*current()?, &parameters.get()?, parameters.address())?;
        change(exec, node, task)
    }
}
