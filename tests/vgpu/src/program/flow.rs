//! The control-flow graph of a function: basic blocks, immediate post-dominators, live ranges.

use super::draft::{Draft, Field, Next, Role};

/// No block.
pub(super) const NONE: u32 = u32::MAX;

/// A basic block.
#[derive(Debug, Clone, Default)]
pub(super) struct Block {
    /// Its steps.
    pub first: u32,
    /// One past them.
    pub end: u32,
    /// The blocks that may follow.
    pub next: Vec<u32>,
    /// The block at which all ways from here meet first, or [`NONE`].
    pub meet: u32,
}

/// The blocks of a draft, in the order of the text.
#[derive(Debug)]
pub(super) struct Graph {
    /// The blocks.
    pub blocks: Vec<Block>,
    /// The block of each step.
    pub of_step: Vec<u32>,
}

impl Graph {
    /// Cuts a draft into blocks. Its last step does not go on to a next one.
    pub fn new(draft: &Draft) -> Graph {
        let count = draft.steps.len();
        let mut begins = vec![false; count + 1];
        begins[0] = true;
        for step in draft.labels.iter().flatten() {
            begins[*step as usize] = true;
        }
        for (index, step) in draft.steps.iter().enumerate() {
            begins[index + 1] |= step.next != Next::Through;
        }
        let mut of_step = Vec::with_capacity(count);
        let mut blocks: Vec<Block> = Vec::new();
        for (index, &begin) in begins[..count].iter().enumerate() {
            if begin {
                blocks.push(Block { first: index as u32, end: index as u32, next: Vec::new(), meet: NONE });
            }
            of_step.push(blocks.len() as u32 - 1);
            if let Some(block) = blocks.last_mut() {
                block.end += 1;
            }
        }
        let mut graph = Graph { blocks, of_step };
        graph.connect(draft);
        graph.find_meeting_points();
        graph
    }

    fn connect(&mut self, draft: &Draft) {
        let target = |label: u32, of_step: &[u32]| {
            let step = draft.labels[label as usize]?;
            of_step.get(step as usize).copied()
        };
        for index in 0..self.blocks.len() {
            let last = &draft.steps[self.blocks[index].end as usize - 1];
            let mut next = Vec::new();
            let falls = match last.next {
                Next::Through | Next::Meet => true,
                Next::Branch(label) => {
                    next.extend(target(label.0, &self.of_step));
                    last.guard.is_some()
                }
                Next::Table(table) => {
                    next.extend(draft.tables[table as usize].iter().filter_map(|label| target(label.0, &self.of_step)));
                    last.guard.is_some()
                }
                Next::Finish => {
                    next.push(self.blocks.len() as u32 - 1);
                    last.guard.is_some()
                }
                Next::End | Next::Return => last.guard.is_some(),
            };
            if falls && index + 1 < self.blocks.len() {
                next.push(index as u32 + 1);
            }
            next.sort_unstable();
            next.dedup();
            self.blocks[index].next = next;
        }
    }

    /// Immediate post-dominators, by the iteration of Cooper, Harvey and Kennedy on the reverse graph. A way that ends the thread does not count: the lanes that
    /// are left meet where they would without it. So the graph has one exit, the last block.
    fn find_meeting_points(&mut self) {
        let count = self.blocks.len();
        let exit = count - 1;
        let mut before: Vec<Vec<u32>> = vec![Vec::new(); count];
        for (index, block) in self.blocks.iter().enumerate() {
            for &next in &block.next {
                before[next as usize].push(index as u32);
            }
        }
        // Post-order of the reverse graph, without recursion.
        let mut order = Vec::with_capacity(count);
        let mut number = vec![NONE; count];
        let mut seen = vec![false; count];
        let mut stack = vec![(exit, 0)];
        seen[exit] = true;
        while let Some((block, child)) = stack.pop() {
            match before[block].get(child) {
                Some(&next) => {
                    stack.push((block, child + 1));
                    if !std::mem::replace(&mut seen[next as usize], true) {
                        stack.push((next as usize, 0));
                    }
                }
                None => {
                    number[block] = order.len() as u32;
                    order.push(block);
                }
            }
        }
        let mut dominator = vec![NONE; count];
        dominator[exit] = exit as u32;
        let mut changed = true;
        while changed {
            changed = false;
            for &block in order.iter().rev().filter(|&&block| block != exit) {
                let mut new = NONE;
                for &next in &self.blocks[block].next {
                    if dominator[next as usize] == NONE {
                        continue;
                    }
                    new = if new == NONE { next } else { common(&dominator, &number, new, next) };
                }
                if dominator[block] != new {
                    dominator[block] = new;
                    changed = true;
                }
            }
        }
        for (index, block) in self.blocks.iter_mut().enumerate() {
            block.meet = if index == exit { NONE } else { dominator[index] };
        }
    }

    /// For each register the first and the last step between which it holds a value, and the most that do at once.
    pub fn live_ranges(&self, draft: &Draft) -> Vec<(u32, u32)> {
        let words = draft.registers.len().div_ceil(64);
        let count = self.blocks.len();
        let mut needed = vec![0u64; words * count];
        let mut defined = vec![0u64; words * count];
        for (index, block) in self.blocks.iter().enumerate() {
            let needed = &mut needed[index * words..][..words];
            let defined = &mut defined[index * words..][..words];
            for step in &draft.steps[block.first as usize..block.end as usize] {
                for (register, reads, writes) in step.accesses() {
                    let (word, bit) = (register as usize / 64, 1 << (register % 64));
                    if reads && defined[word] & bit == 0 {
                        needed[word] |= bit;
                    }
                    // Accesses come sources first.
                    if writes {
                        defined[word] |= bit;
                    }
                }
            }
        }
        // `needed` grows to what is live at the begin of each block.
        let mut live_out = vec![0u64; words * count];
        let mut before: Vec<Vec<u32>> = vec![Vec::new(); count];
        for (index, block) in self.blocks.iter().enumerate() {
            for &next in &block.next {
                before[next as usize].push(index as u32);
            }
        }
        let mut queue: Vec<u32> = (0..count as u32).collect();
        let mut queued = vec![true; count];
        while let Some(block) = queue.pop() {
            let block = block as usize;
            queued[block] = false;
            let mut changed = false;
            for word in 0..words {
                let mut out = 0;
                for &next in &self.blocks[block].next {
                    out |= needed[next as usize * words + word];
                }
                let at = block * words + word;
                live_out[at] = out;
                let new = needed[at] | out & !defined[at];
                changed |= new != needed[at];
                needed[at] = new;
            }
            if changed {
                for &previous in &before[block] {
                    if !std::mem::replace(&mut queued[previous as usize], true) {
                        queue.push(previous);
                    }
                }
            }
        }
        let mut ranges = vec![(u32::MAX, 0); draft.registers.len()];
        let mut extend = |register: usize, at: u32| {
            let range: &mut (u32, u32) = &mut ranges[register];
            *range = (range.0.min(at), range.1.max(at));
        };
        for (index, block) in self.blocks.iter().enumerate() {
            for word in 0..words {
                let at = index * words + word;
                for (mut bits, step) in [(needed[at], block.first), (live_out[at], block.end)] {
                    while bits != 0 {
                        extend(word * 64 + bits.trailing_zeros() as usize, step);
                        bits &= bits - 1;
                    }
                }
            }
            for (step, at) in draft.steps[block.first as usize..block.end as usize].iter().zip(block.first..) {
                // What a handler reads after it began to write must outlive the step.
                let last = at + u32::from(step.listed);
                for (register, reads, _) in step.accesses() {
                    extend(register as usize, at);
                    if reads {
                        extend(register as usize, last);
                    }
                }
            }
        }
        ranges
    }
}

/// The nearest common post-dominator of two blocks.
fn common(dominator: &[u32], number: &[u32], mut a: u32, mut b: u32) -> u32 {
    while a != b {
        while number[a as usize] < number[b as usize] {
            a = dominator[a as usize];
        }
        while number[b as usize] < number[a as usize] {
            b = dominator[b as usize];
        }
    }
    a
}

impl super::draft::Step {
    /// The registers of a step, sources first, each with whether it is read and whether all of it is written.
    pub fn accesses(&self) -> impl Iterator<Item = (u32, bool, bool)> + '_ {
        let conditional = self.guard.is_some();
        let guard = self.guard.map(|(register, _)| (register.0, true, false));
        let sources = self.fields.iter().filter_map(|field| match *field {
            Field::Register(register, Role::Source | Role::Both) | Field::Not(register) => {
                Some((register.0, true, false))
            }
            _ => None,
        });
        let destinations = self.fields.iter().filter_map(move |field| match *field {
            // Lanes in which the guard fails keep what they had.
            Field::Register(register, Role::Destination) => Some((register.0, conditional, true)),
            Field::Register(register, Role::Both) => Some((register.0, true, true)),
            _ => None,
        });
        guard.into_iter().chain(sources).chain(destinations)
    }
}
