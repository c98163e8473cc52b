//! What there is to say about an address that should not have been touched.

use std::fmt;

use super::{Allocation, Kind};

/// The place of an address among the allocations, for people.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Story {
    /// The address.
    pub address: u64,
    /// Bytes from there on.
    pub bytes: u64,
    /// Where that is.
    pub place: Place,
}

/// Where an address lies.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Place {
    /// The first page of the address space.
    Null,
    /// Inside a live allocation, `offset` bytes from its start; the range leaves it if it is longer than the rest.
    Inside { allocation: Allocation, offset: u64 },
    /// Inside an allocation that was freed.
    Freed { allocation: Allocation, offset: u64 },
    /// `distance` bytes past the end of the nearest allocation below.
    After { allocation: Allocation, distance: u64 },
    /// `distance` bytes before the nearest allocation above.
    Before { allocation: Allocation, distance: u64 },
    /// Far from everything.
    Nowhere,
}

/// An allocation further away than this is not what the program meant.
const NEAR: u64 = 1 << 24;

impl Story {
    pub(super) fn tell(
        address: u64,
        bytes: u64,
        before: Option<&Allocation>,
        after: Option<&Allocation>,
        freed: Option<&Allocation>,
    ) -> Story {
        let inside = before.filter(|allocation| address < allocation.end());
        let below = before.map(|allocation| (address.saturating_sub(allocation.end()), allocation));
        let above = after.map(|allocation| (allocation.start - address, allocation));
        let place = if address < super::PAGE {
            Place::Null
        } else if let Some(allocation) = inside {
            Place::Inside { allocation: allocation.clone(), offset: address - allocation.start }
        } else if let Some(allocation) = freed {
            Place::Freed { allocation: allocation.clone(), offset: address - allocation.start }
        } else {
            match (below.filter(|near| near.0 < NEAR), above.filter(|near| near.0 < NEAR)) {
                (Some((past, _)), Some((distance, allocation))) if distance < past => {
                    Place::Before { allocation: allocation.clone(), distance }
                }
                (Some((distance, allocation)), _) => Place::After { allocation: allocation.clone(), distance },
                (None, Some((distance, allocation))) => Place::Before { allocation: allocation.clone(), distance },
                (None, None) => Place::Nowhere,
            }
        };
        Story { address, bytes, place }
    }
}

impl fmt::Display for Story {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "address {:#x} ", self.address)?;
        match &self.place {
            Place::Null => write!(f, "is a null pointer"),
            Place::Inside { allocation, offset } => {
                write!(f, "is byte {offset} of {allocation}")?;
                let rest = allocation.bytes - offset;
                if self.bytes > rest {
                    write!(f, "; {} bytes from there leave it by {}", self.bytes, self.bytes - rest)?;
                }
                Ok(())
            }
            Place::Freed { allocation, offset } => write!(f, "was byte {offset} of {allocation}, which has been freed"),
            Place::After { allocation, distance: 0 } => write!(f, "is just past the end of {allocation}"),
            Place::After { allocation, distance } => write!(f, "is {distance} bytes past the end of {allocation}"),
            Place::Before { allocation, distance } => write!(f, "is {distance} bytes before {allocation}"),
            Place::Nowhere => write!(f, "is in no allocation"),
        }
    }
}

impl fmt::Display for Allocation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Allocation { start, bytes, serial, .. } = self;
        match &self.kind {
            Kind::Variable(name) => write!(f, "the module variable `{name}` ({bytes} bytes at {start:#x})"),
            kind => write!(f, "{} {serial} ({bytes} bytes at {start:#x})", kind.noun()),
        }
    }
}

impl Kind {
    fn noun(&self) -> &'static str {
        match self {
            Kind::Device => "allocation",
            Kind::Pooled => "stream-ordered allocation",
            Kind::Mapped => "mapped memory",
            Kind::Array => "array",
            Kind::Managed => "managed allocation",
            Kind::Pinned => "host-pinned allocation",
            Kind::Registered => "registered host range",
            Kind::Variable(_) => "variable",
        }
    }
}
