//! What the layers of a model keep of their forward pass: everything that backward needs, or their input alone (activation recompute).
//!
//! Chen et al., "Training deep nets with sublinear memory cost" (arXiv 1604.06174). With [`Keep::Input`] a layer runs forward once more in front of its
//! backward: about a third more arithmetic, and the memory of one layer in place of all. Both give the same bits: a layer is a function of its input,
//! random masks included.

use serde::{Deserialize, Serialize};

use super::Pass;
use crate::dtype::Element;
use crate::error::Result;

/// The policy of a pass.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Keep {
    /// All that backward needs.
    #[default]
    All,
    /// The input of each layer.
    Input,
}

/// What a layer kept: what its backward needs, or its input `X`.
#[must_use]
pub enum Kept<X, S> {
    /// All that backward needs.
    All(S),
    /// The input, from which it is found again.
    Input(X),
}

impl<X, S> Kept<X, S> {
    /// Runs a layer forward and keeps what the pass says.
    ///
    /// # Errors
    /// Those of the layer.
    pub fn forward<E: Element, Y>(
        pass: &Pass<'_, E>,
        input: X,
        layer: impl FnOnce(&Pass<'_, E>, &X) -> Result<(Y, S)>,
    ) -> Result<(Y, Self)> {
        let (y, saved) = layer(pass, &input)?;
        Ok((y, if pass.keep == Keep::All { Kept::All(saved) } else { Kept::Input(input) }))
    }

    /// What backward needs; `layer` is that of forward.
    ///
    /// # Errors
    /// Those of the layer.
    pub fn saved<E: Element, Y>(
        self,
        pass: &Pass<'_, E>,
        layer: impl FnOnce(&Pass<'_, E>, &X) -> Result<(Y, S)>,
    ) -> Result<S> {
        match self {
            Kept::All(saved) => Ok(saved),
            // A trace has seen this layer.
            Kept::Input(input) => Ok(layer(&Pass { trace: None, ..*pass }, &input)?.1),
        }
    }
}
