//! Graphs as a whole: making, connecting, instantiating, launching, updating.

use std::sync::Arc;

use super::stream::{NodeHandle, StreamHandle};
use crate::driver::context::{current, stream};
use crate::driver::engine::capture;
use crate::driver::engine::graph::{Graph, GraphExec, Node, Task};
use crate::driver::engine::operation::Operation;
use crate::driver::errors::Error;
use crate::driver::ffi::{Handle, In, Out, Plain, Text};
use crate::driver::gpu::gpu;
use crate::driver::objects::Object;
use crate::driver::{Outcome, functions};

/// `CUDA_GRAPH_INSTANTIATE_PARAMS`.
#[derive(Clone, Copy)]
#[repr(C)]
pub struct InstantiateParameters {
    flags: u64,
    upload: StreamHandle,
    error_node: u64,
    result: u32,
}

// SAFETY: integers.
unsafe impl Plain for InstantiateParameters {}

/// `CUgraphExecUpdateResultInfo`.
#[derive(Clone, Copy)]
#[repr(C)]
pub struct UpdateResult {
    result: u32,
    error_node: u64,
    error_from_node: u64,
}

// SAFETY: integers.
unsafe impl Plain for UpdateResult {}

/// `CUgraphExecUpdateResult`.
mod update {
    pub const SUCCESS: u32 = 0;
    pub const TOPOLOGY_CHANGED: u32 = 2;
    pub const NODE_TYPE_CHANGED: u32 = 3;
}

fn instantiate(exec: Out<Handle<GraphExec>>, graph: Handle<Graph>, flags: u64) -> Outcome {
    gpu()?;
    if flags & !15 != 0 || exec.is_null() {
        return Err(Error::InvalidValue);
    }
    let plan = graph.get()?.plan()?;
    exec.set(GraphExec::registry().insert(GraphExec::new(plan, flags)))
}

/// Gives an instance the tasks of a graph with the same nodes in the same order. Returns what is different, and where.
fn update(exec: &GraphExec, graph: &Graph) -> Outcome<(u32, u64)> {
    let new = graph.plan()?;
    let mut verdict = (update::SUCCESS, 0);
    exec.change(|plan| {
        if plan.steps.len() != new.steps.len() {
            verdict = (update::TOPOLOGY_CHANGED, 0);
            return Ok(());
        }
        for (old, new) in plan.steps.iter().zip(&new.steps) {
            if old.after != new.after {
                verdict = (update::TOPOLOGY_CHANGED, new.node);
                return Ok(());
            }
            if old.task.kind() != new.task.kind() {
                verdict = (update::NODE_TYPE_CHANGED, new.node);
                return Ok(());
            }
        }
        for (old, new) in plan.steps.iter_mut().zip(&new.steps) {
            old.task = new.task.clone();
            old.child = new.child.clone();
        }
        Ok(())
    })?;
    Ok(verdict)
}

/// Writes as many handles as the caller has room for, and how many there are.
fn tell(nodes: &[u64], out: Out<NodeHandle>, count: Out<usize>) -> Outcome {
    if !out.is_null() {
        let room = count.get()?;
        out.set_list(&nodes[..nodes.len().min(room)])?;
        for index in nodes.len()..room.min(nodes.len() + 64) {
            out.set_at(index, 0)?;
        }
    }
    count.set(nodes.len())
}

fn tell_edges(graph: Handle<Graph>, from: Out<NodeHandle>, to: Out<NodeHandle>, count: Out<usize>) -> Outcome {
    gpu()?;
    let edges = graph.get()?.edges();
    if !from.is_null() && !to.is_null() {
        let room = count.get()?.min(edges.len());
        let (sources, targets): (Vec<u64>, Vec<u64>) = edges[..room].iter().copied().unzip();
        from.set_list(&sources)?;
        to.set_list(&targets)?;
    }
    count.set(edges.len())
}

fn connect(graph: Handle<Graph>, from: In<NodeHandle>, to: In<NodeHandle>, count: usize) -> Outcome {
    gpu()?;
    let graph = graph.get()?;
    let pairs = from.list(count)?.into_iter().zip(to.list(count)?);
    pairs.into_iter().try_for_each(|(from, to)| graph.connect(from, to))
}

fn disconnect(graph: Handle<Graph>, from: In<NodeHandle>, to: In<NodeHandle>, count: usize) -> Outcome {
    gpu()?;
    let graph = graph.get()?;
    let pairs = from.list(count)?.into_iter().zip(to.list(count)?);
    pairs.into_iter().try_for_each(|(from, to)| graph.disconnect(from, to))
}

/// The graph of a node, if it is one that programs hold.
///
/// # Errors
/// [`Error::InvalidValue`].
pub fn graph_of(node: &Node) -> Outcome<Arc<Graph>> {
    Graph::registry().handle_where(|graph| graph.id == node.graph).ok_or(Error::InvalidValue)?.get()
}

fn node_relations(node: Handle<Node>, out: Out<NodeHandle>, count: Out<usize>, after: bool) -> Outcome {
    gpu()?;
    let graph = graph_of(&*node.get()?)?;
    let nodes = if after { graph.after(node.0) } else { graph.before(node.0)? };
    tell(&nodes, out, count)
}

functions! {
    fn cuGraphCreate(graph: Out<Handle<Graph>>, flags: u32) {
        gpu()?;
        if flags != 0 || graph.is_null() {
            return Err(Error::InvalidValue);
        }
        graph.set(Graph::registry().insert(Graph::new()))
    }

    fn cuGraphDestroy(graph: Handle<Graph>) {
        gpu()?;
        graph.take()?.clear();
        Ok(())
    }

    fn cuGraphClone(clone: Out<Handle<Graph>>, graph: Handle<Graph>) {
        gpu()?;
        let copy = graph.get()?.copy()?;
        clone.set(Graph::registry().insert(copy))
    }

    fn cuGraphGetId(graph: Handle<Graph>, id: Out<u32>) {
        gpu()?;
        id.set(graph.get()?.id as u32)
    }

    fn cuGraphGetNodes(graph: Handle<Graph>, nodes: Out<NodeHandle>, count: Out<usize>) {
        gpu()?;
        tell(&graph.get()?.nodes(), nodes, count)
    }

    fn cuGraphGetRootNodes(graph: Handle<Graph>, nodes: Out<NodeHandle>, count: Out<usize>) {
        gpu()?;
        let graph = graph.get()?;
        let is_root = |&node: &u64| graph.before(node).is_ok_and(|before| before.is_empty());
        let roots: Vec<u64> = graph.nodes().into_iter().filter(is_root).collect();
        tell(&roots, nodes, count)
    }

    fn cuGraphGetEdges(graph: Handle<Graph>, from: Out<NodeHandle>, to: Out<NodeHandle>, count: Out<usize>) {
        tell_edges(graph, from, to, count)
    }

    fn cuGraphGetEdges_v2(graph: Handle<Graph>, from: Out<NodeHandle>, to: Out<NodeHandle>, _edges: Out<u64>,
            count: Out<usize>) {
        tell_edges(graph, from, to, count)
    }

    fn cuGraphAddDependencies(graph: Handle<Graph>, from: In<NodeHandle>, to: In<NodeHandle>, count: usize) {
        connect(graph, from, to, count)
    }

    fn cuGraphAddDependencies_v2(graph: Handle<Graph>, from: In<NodeHandle>, to: In<NodeHandle>, _edges: In<u64>,
            count: usize) {
        connect(graph, from, to, count)
    }

    fn cuGraphRemoveDependencies(graph: Handle<Graph>, from: In<NodeHandle>, to: In<NodeHandle>, count: usize) {
        disconnect(graph, from, to, count)
    }

    fn cuGraphRemoveDependencies_v2(graph: Handle<Graph>, from: In<NodeHandle>, to: In<NodeHandle>, _edges: In<u64>,
            count: usize) {
        disconnect(graph, from, to, count)
    }

    fn cuGraphNodeGetDependencies(node: Handle<Node>, nodes: Out<NodeHandle>, count: Out<usize>) {
        node_relations(node, nodes, count, false)
    }

    fn cuGraphNodeGetDependencies_v2(node: Handle<Node>, nodes: Out<NodeHandle>, _edges: Out<u64>, count: Out<usize>) {
        node_relations(node, nodes, count, false)
    }

    fn cuGraphNodeGetDependentNodes(node: Handle<Node>, nodes: Out<NodeHandle>, count: Out<usize>) {
        node_relations(node, nodes, count, true)
    }

    fn cuGraphNodeGetDependentNodes_v2(node: Handle<Node>, nodes: Out<NodeHandle>, _edges: Out<u64>,
            count: Out<usize>) {
        node_relations(node, nodes, count, true)
    }

    fn cuGraphNodeGetContainingGraph(node: Handle<Node>, graph: Out<Handle<Graph>>) {
        gpu()?;
        let own = node.get()?.graph;
        graph.set(Graph::registry().handle_where(|known| known.id == own).ok_or(Error::InvalidValue)?)
    }

    fn cuGraphNodeGetType(node: Handle<Node>, kind: Out<u32>) {
        gpu()?;
        kind.set(node.get()?.task().kind())
    }

    fn cuGraphNodeFindInClone(node: Out<NodeHandle>, original: Handle<Node>, clone: Handle<Graph>) {
        gpu()?;
        original.get()?;
        let nodes = clone.get()?.nodes();
        let original = Some(original.0);
        let copy_of = |number: &u64| Node::registry().find(*number).is_some_and(|copy| copy.original == original);
        node.set(nodes.into_iter().find(copy_of).ok_or(Error::InvalidValue)?)
    }

    fn cuGraphDestroyNode(node: Handle<Node>) {
        gpu()?;
        graph_of(&*node.get()?)?.remove(node.0);
        Ok(())
    }

    /// A graph without circles can always be instantiated, and circles cannot be made.
    fn cuGraphInstantiate_v2(exec: Out<Handle<GraphExec>>, graph: Handle<Graph>, error_node: Out<NodeHandle>,
            log: Out<u8>, bytes: usize) {
        error_node.set_if_wanted(0)?;
        if !log.is_null() && bytes > 0 {
            log.set_text("", bytes)?;
        }
        instantiate(exec, graph, 0)
    }

    fn cuGraphInstantiateWithFlags(exec: Out<Handle<GraphExec>>, graph: Handle<Graph>, flags: u64) {
        instantiate(exec, graph, flags)
    }

    fn cuGraphInstantiateWithParams | cuGraphInstantiateWithParams_ptsz(exec: Out<Handle<GraphExec>>,
            graph: Handle<Graph>,
                                                                        parameters: Out<InstantiateParameters>) {
        let mut wanted = parameters.get()?;
        instantiate(exec, graph, wanted.flags)?;
        (wanted.error_node, wanted.result) = (0, 0);
        parameters.set(wanted)
    }

    fn cuGraphUpload | cuGraphUpload_ptsz(exec: Handle<GraphExec>, handle: StreamHandle) {
        exec.get()?;
        stream(handle).map(|_| ())
    }

    /// In a stream that captures, the graph becomes a child.
    fn cuGraphLaunch | cuGraphLaunch_ptsz(exec: Handle<GraphExec>, handle: StreamHandle) {
        current()?;
        let plan = exec.get()?.plan();
        capture::submit(&stream(handle)?, Operation::Graph(plan)).map(|_| ())
    }

    fn cuGraphExecDestroy(exec: Handle<GraphExec>) {
        gpu()?;
        exec.take().map(|_| ())
    }

    fn cuGraphExecGetFlags(exec: Handle<GraphExec>, flags: Out<u64>) {
        gpu()?;
        flags.set(exec.get()?.flags)
    }

    fn cuGraphExecUpdate(exec: Handle<GraphExec>, graph: Handle<Graph>, error_node: Out<NodeHandle>, result: Out<u32>) {
        gpu()?;
        let (verdict, node) = update(&*exec.get()?, &*graph.get()?)?;
        error_node.set_if_wanted(node)?;
        result.set_if_wanted(verdict)?;
        if verdict == update::SUCCESS { Ok(()) } else { Err(Error::GraphExecUpdateFailure) }
    }

    fn cuGraphExecUpdate_v2(exec: Handle<GraphExec>, graph: Handle<Graph>, result: Out<UpdateResult>) {
        gpu()?;
        let (verdict, node) = update(&*exec.get()?, &*graph.get()?)?;
        result.set_if_wanted(UpdateResult { result: verdict, error_node: node, error_from_node: 0 })?;
        if verdict == update::SUCCESS { Ok(()) } else { Err(Error::GraphExecUpdateFailure) }
    }

    fn cuGraphNodeSetEnabled(exec: Handle<GraphExec>, node: NodeHandle, enabled: u32) {
        gpu()?;
        exec.get()?.change(|plan| {
            plan.step_of(node)?.enabled = enabled != 0;
            Ok(())
        })
    }

    fn cuGraphNodeGetEnabled(exec: Handle<GraphExec>, node: NodeHandle, enabled: Out<u32>) {
        gpu()?;
        let plan = exec.get()?.plan();
        let step = plan.steps.iter().find(|step| step.node == node).ok_or(Error::InvalidValue)?;
        enabled.set(step.enabled.into())
    }

    /// Writes the graph in the language of Graphviz.
    fn cuGraphDebugDotPrint(graph: Handle<Graph>, path: Text, _flags: u32) {
        gpu()?;
        let graph = graph.get()?;
        let mut text = String::from("digraph graph_1 {\n");
        for number in graph.nodes() {
            let task = Handle::<Node>::new(number).get()?.task();
            let label = match &task {
                Task::Operation(Operation::Kernel(call)) => call.function.kernel.name.clone(),
                other => format!("type {}", other.kind()),
            };
            text.push_str(&format!("  n{number} [label=\"{label}\"];\n"));
        }
        for (from, to) in graph.edges() {
            text.push_str(&format!("  n{from} -> n{to};\n"));
        }
        text.push_str("}\n");
        std::fs::write(path.get()?, text).map_err(|_| Error::OperatingSystem)
    }
}
