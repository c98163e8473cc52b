//! Graphs: operations with dependencies.
//!
//! A [`Graph`] is what the program edits, a [`Plan`] what it was instantiated to: the operations in an order that
//! keeps the dependencies. A launch of a plan is one piece of work in a stream; its modelled time is that of the
//! longest path.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::event::Event;
use super::operation::Operation;
use crate::driver::context::Context;
use crate::driver::errors::{Error, Outcome};
use crate::driver::objects::{Object, object};

/// What a node does.
#[derive(Clone)]
pub enum Task {
    /// Something that a stream could do too.
    Operation(Operation),
    /// Another graph, as it was when it was added.
    Child(Arc<Graph>),
    /// `cuEventRecord`.
    Record(Arc<Event>),
    /// `cuStreamWaitEvent`.
    Await(Arc<Event>),
    /// A stream-ordered allocation: the memory itself is there as long as the graph.
    Allocate { address: u64, bytes: u64 },
    /// The end of one.
    Release { address: u64 },
}

impl Task {
    /// The value of `CUgraphNodeType`.
    pub fn kind(&self) -> u32 {
        match self {
            Task::Operation(Operation::Kernel(_)) => 0,
            Task::Operation(Operation::Copy(_)) => 1,
            Task::Operation(Operation::Fill(_)) => 2,
            Task::Operation(Operation::Host(_)) => 3,
            Task::Child(_) => 4,
            Task::Operation(Operation::WriteValue { .. } | Operation::WaitValue { .. }) => 12,
            Task::Operation(_) => 5,
            Task::Await(_) => 6,
            Task::Record(_) => 7,
            Task::Allocate { .. } => 10,
            Task::Release { .. } => 11,
        }
    }
}

/// A node of a graph. Its number is its handle.
pub struct Node {
    /// The graph's number, as [`Graph::id`].
    pub graph: u64,
    /// The node of the original graph, in a clone.
    pub original: Option<u64>,
    task: Mutex<Task>,
}

object!(Node, 5, Error::InvalidValue);

impl Node {
    /// What it does.
    pub fn task(&self) -> Task {
        self.task.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Gives it something else to do, of the same kind.
    ///
    /// # Errors
    /// [`Error::InvalidValue`] for another kind.
    pub fn set_task(&self, task: Task) -> Outcome {
        let mut own = self.task.lock().unwrap_or_else(PoisonError::into_inner);
        if own.kind() != task.kind() {
            return Err(Error::InvalidValue);
        }
        *own = task;
        Ok(())
    }
}

/// Nodes by number, each with the numbers of those before it.
type Nodes = BTreeMap<u64, (Arc<Node>, Vec<u64>)>;

/// A graph: nodes by number in the order in which they were made, each with the numbers of those before it.
pub struct Graph {
    /// Counts graphs from 1.
    pub id: u64,
    nodes: Mutex<Nodes>,
}

object!(Graph, 4, Error::InvalidValue);

impl Graph {
    /// An empty graph.
    pub fn new() -> Arc<Graph> {
        use std::sync::atomic::{AtomicU64, Ordering};
        static IDS: AtomicU64 = AtomicU64::new(1);
        Arc::new(Graph { id: IDS.fetch_add(1, Ordering::Relaxed), nodes: Mutex::default() })
    }

    /// Adds a node after `before`, all of which must be nodes of this graph.
    ///
    /// # Errors
    /// [`Error::InvalidValue`].
    pub fn add(&self, task: Task, before: &[u64]) -> Outcome<u64> {
        self.add_copy(task, before, None)
    }

    fn add_copy(&self, task: Task, before: &[u64], original: Option<u64>) -> Outcome<u64> {
        let mut nodes = self.lock();
        if before.iter().any(|number| !nodes.contains_key(number)) {
            return Err(Error::InvalidValue);
        }
        let node = Arc::new(Node { graph: self.id, original, task: Mutex::new(task) });
        let number = Node::registry().insert(node.clone()).0;
        let mut before = before.to_vec();
        before.dedup();
        nodes.insert(number, (node, before));
        Ok(number)
    }

    /// All nodes, in the order in which they were made.
    pub fn nodes(&self) -> Vec<u64> {
        self.lock().keys().copied().collect()
    }

    /// The nodes before one.
    ///
    /// # Errors
    /// [`Error::InvalidValue`] if it is not in this graph.
    pub fn before(&self, number: u64) -> Outcome<Vec<u64>> {
        self.lock().get(&number).map(|(_, before)| before.clone()).ok_or(Error::InvalidValue)
    }

    /// The nodes after one.
    pub fn after(&self, number: u64) -> Vec<u64> {
        self.lock().iter().filter(|(_, (_, before))| before.contains(&number)).map(|(&after, _)| after).collect()
    }

    /// All pairs of a node and one after it.
    pub fn edges(&self) -> Vec<(u64, u64)> {
        let nodes = self.lock();
        nodes.iter().flat_map(|(&to, (_, before))| before.iter().map(move |&from| (from, to))).collect()
    }

    /// Lets `to` come after `from`.
    ///
    /// # Errors
    /// [`Error::InvalidValue`] for nodes of other graphs, a pair that exists, or a circle.
    pub fn connect(&self, from: u64, to: u64) -> Outcome {
        let mut nodes = self.lock();
        if from == to || !nodes.contains_key(&from) || reaches(&nodes, to, from) {
            return Err(Error::InvalidValue);
        }
        let before = &mut nodes.get_mut(&to).ok_or(Error::InvalidValue)?.1;
        if before.contains(&from) {
            return Err(Error::InvalidValue);
        }
        before.push(from);
        Ok(())
    }

    /// Takes a dependency away.
    ///
    /// # Errors
    /// [`Error::InvalidValue`] if there is none.
    pub fn disconnect(&self, from: u64, to: u64) -> Outcome {
        let mut nodes = self.lock();
        let before = &mut nodes.get_mut(&to).ok_or(Error::InvalidValue)?.1;
        let at = before.iter().position(|&number| number == from).ok_or(Error::InvalidValue)?;
        before.remove(at);
        Ok(())
    }

    /// Takes a node out, with its dependencies.
    pub fn remove(&self, number: u64) {
        let mut nodes = self.lock();
        nodes.remove(&number);
        nodes.values_mut().for_each(|(_, before)| before.retain(|&other| other != number));
        Node::registry().remove(number);
    }

    /// Whether `last` comes after `first`, directly or not (or is it).
    pub fn reaches(&self, first: u64, last: u64) -> bool {
        reaches(&self.lock(), first, last)
    }

    /// A copy whose nodes remember their originals.
    ///
    /// # Errors
    /// [`Error::InvalidValue`] cannot happen for a graph without circles.
    pub fn copy(&self) -> Outcome<Arc<Graph>> {
        let copy = Graph::new();
        let mut numbers = BTreeMap::new();
        for number in self.sorted()? {
            let (task, before) = self
                .lock()
                .get(&number)
                .map(|(node, before)| (node.task(), before.clone()))
                .ok_or(Error::InvalidValue)?;
            let before: Vec<u64> = before.iter().filter_map(|old| numbers.get(old).copied()).collect();
            numbers.insert(number, copy.add_copy(task, &before, Some(number))?);
        }
        Ok(copy)
    }

    /// The plan of this graph.
    ///
    /// # Errors
    /// [`Error::InvalidValue`] cannot happen for a graph without circles.
    pub fn plan(&self) -> Outcome<Plan> {
        let order = self.sorted()?;
        let nodes = self.lock();
        let position: BTreeMap<u64, usize> = order.iter().enumerate().map(|(index, &number)| (number, index)).collect();
        let mut steps = Vec::with_capacity(order.len());
        for number in &order {
            let (node, before) = nodes.get(number).ok_or(Error::InvalidValue)?;
            let after = before.iter().filter_map(|number| position.get(number).copied()).collect();
            let child = match node.task() {
                Task::Child(graph) => Some(Arc::new(graph.plan()?)),
                _ => None,
            };
            steps.push(Step { node: *number, task: node.task(), child, after, enabled: true });
        }
        Ok(Plan { steps })
    }

    /// Forgets all nodes.
    pub fn clear(&self) {
        for number in self.nodes() {
            Node::registry().remove(number);
        }
        self.lock().clear();
    }

    /// The nodes in an order that keeps the dependencies, otherwise that in which they were made.
    fn sorted(&self) -> Outcome<Vec<u64>> {
        let nodes = self.lock();
        let mut order: Vec<u64> = Vec::with_capacity(nodes.len());
        let mut done = std::collections::BTreeSet::new();
        while order.len() < nodes.len() {
            let ready: Vec<u64> = nodes
                .iter()
                .filter(|(number, (_, before))| {
                    !done.contains(*number) && before.iter().all(|other| done.contains(other))
                })
                .map(|(&number, _)| number)
                .collect();
            if ready.is_empty() {
                return Err(Error::InvalidValue);
            }
            done.extend(ready.iter().copied());
            order.extend(ready);
        }
        Ok(order)
    }

    fn lock(&self) -> MutexGuard<'_, Nodes> {
        self.nodes.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn reaches(nodes: &Nodes, first: u64, last: u64) -> bool {
    let mut open = vec![last];
    let mut seen = std::collections::BTreeSet::new();
    while let Some(number) = open.pop() {
        if number == first {
            return true;
        }
        if seen.insert(number)
            && let Some((_, before)) = nodes.get(&number)
        {
            open.extend(before);
        }
    }
    false
}

/// One step of a plan.
#[derive(Clone)]
pub struct Step {
    /// The number of the node it was made from.
    pub node: u64,
    /// What to do.
    pub task: Task,
    /// The plan of a child graph.
    pub child: Option<Arc<Plan>>,
    /// Positions of the steps that come before.
    pub after: Vec<usize>,
    /// Whether it is done at all.
    pub enabled: bool,
}

/// An instantiated graph: steps in an order that keeps the dependencies.
#[derive(Clone)]
pub struct Plan {
    /// The steps.
    pub steps: Vec<Step>,
}

impl Plan {
    /// Does all steps. Returns the nanoseconds of the longest path.
    ///
    /// # Errors
    /// What the first step that fails met.
    pub fn execute(&self, context: &Arc<Context>) -> Outcome<u64> {
        let mut ends: Vec<u64> = Vec::with_capacity(self.steps.len());
        for step in &self.steps {
            let start = step.after.iter().map(|&index| ends[index]).max().unwrap_or(0);
            let time = if step.enabled { step.execute(context, start)? } else { 0 };
            ends.push(start + time);
        }
        Ok(ends.into_iter().max().unwrap_or(0))
    }

    /// The step of a node.
    ///
    /// # Errors
    /// [`Error::InvalidValue`] if it has none.
    pub fn step_of(&mut self, node: u64) -> Outcome<&mut Step> {
        self.steps.iter_mut().find(|step| step.node == node).ok_or(Error::InvalidValue)
    }
}

impl Step {
    fn execute(&self, context: &Arc<Context>, start: u64) -> Outcome<u64> {
        match (&self.task, &self.child) {
            (Task::Operation(operation), _) => operation.execute(context),
            (Task::Child(_), Some(plan)) => plan.execute(context),
            (Task::Record(event), _) => {
                event.record_now(super::completion::Moment { modelled: start, wall: context.gpu.wall_ns() });
                Ok(0)
            }
            (Task::Await(event), _) => {
                if let Some(completion) = event.completion()? {
                    completion.wait();
                }
                Ok(0)
            }
            (Task::Child(_) | Task::Allocate { .. } | Task::Release { .. }, _) => Ok(0),
        }
    }
}

/// What `cuGraphInstantiate` makes.
pub struct GraphExec {
    /// The flags of the call.
    pub flags: u64,
    plan: Mutex<Arc<Plan>>,
}

object!(GraphExec, 6, Error::InvalidValue);

impl GraphExec {
    /// An instance of a plan.
    pub fn new(plan: Plan, flags: u64) -> Arc<GraphExec> {
        Arc::new(GraphExec { flags, plan: Mutex::new(Arc::new(plan)) })
    }

    /// The plan as it is now; a launch in flight keeps the one that it began with.
    pub fn plan(&self) -> Arc<Plan> {
        self.plan.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Changes the plan for launches to come.
    ///
    /// # Errors
    /// What `change` returns; the plan stays as it is then.
    pub fn change(&self, change: impl FnOnce(&mut Plan) -> Outcome) -> Outcome {
        let mut plan = self.plan.lock().unwrap_or_else(PoisonError::into_inner);
        let mut changed = Plan::clone(&plan);
        change(&mut changed)?;
        *plan = Arc::new(changed);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn nothing() -> Task {
        Task::Operation(Operation::Nothing)
    }

    #[test]
    fn a_plan_keeps_the_order() {
        let graph = Graph::new();
        let first = graph.add(nothing(), &[]).unwrap();
        let second = graph.add(nothing(), &[]).unwrap();
        let third = graph.add(nothing(), &[second]).unwrap();
        graph.connect(third, first).unwrap();
        let order: Vec<u64> = graph.plan().unwrap().steps.iter().map(|step| step.node).collect();
        assert_eq!(order, [second, third, first]);
        assert!(graph.reaches(second, first) && !graph.reaches(first, second));
        assert_eq!(graph.edges().len(), 2);
    }

    #[test]
    fn circles_and_strangers_are_refused() {
        let (graph, other) = (Graph::new(), Graph::new());
        let first = graph.add(nothing(), &[]).unwrap();
        let second = graph.add(nothing(), &[first]).unwrap();
        let stranger = other.add(nothing(), &[]).unwrap();
        assert_eq!(graph.connect(second, first), Err(Error::InvalidValue));
        assert_eq!(graph.connect(first, first), Err(Error::InvalidValue));
        assert_eq!(graph.connect(first, second), Err(Error::InvalidValue), "twice");
        assert_eq!(graph.connect(stranger, first), Err(Error::InvalidValue));
        assert_eq!(graph.add(nothing(), &[stranger]), Err(Error::InvalidValue));
    }

    #[test]
    fn a_copy_knows_its_originals() {
        let graph = Graph::new();
        let first = graph.add(nothing(), &[]).unwrap();
        let second = graph.add(nothing(), &[first]).unwrap();
        let copy = graph.copy().unwrap();
        let numbers = copy.nodes();
        let originals: Vec<_> = numbers.iter().map(|&number| Node::registry().find(number).unwrap().original).collect();
        assert_eq!(originals, [Some(first), Some(second)]);
        assert_eq!(copy.edges(), [(numbers[0], numbers[1])]);
        graph.remove(first);
        assert_eq!(graph.nodes(), [second]);
        assert_eq!(copy.nodes().len(), 2);
    }
}
