//! What tensors are for.

/// What a tensor is for. Layer indices count from 0.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Role {
    Embedding,
    FinalNorm,
    /// Only if the embeddings are not tied.
    Head,
    AttnNorm(usize),
    Query(usize),
    Key(usize),
    Value(usize),
    QueryBias(usize),
    KeyBias(usize),
    ValueBias(usize),
    QueryNorm(usize),
    KeyNorm(usize),
    AttnOutput(usize),
    AttnPostNorm(usize),
    FfnNorm(usize),
    Gate(usize),
    Up(usize),
    Down(usize),
    /// What tells a token's experts from the others.
    Router(usize),
    /// Layer and expert.
    ExpertGate(usize, usize),
    ExpertUp(usize, usize),
    ExpertDown(usize, usize),
    FfnPostNorm(usize),
}

impl Role {
    pub fn is_matrix(self) -> bool {
        use Role::*;
        let in_experts = matches!(self, Router(_) | ExpertGate(..) | ExpertUp(..) | ExpertDown(..));
        in_experts
            || matches!(
                self,
                Embedding | Head | Query(_) | Key(_) | Value(_) | AttnOutput(_) | Gate(_) | Up(_) | Down(_)
            )
    }

    pub fn is_norm(self) -> bool {
        use Role::*;
        matches!(
            self,
            FinalNorm | AttnNorm(_) | QueryNorm(_) | KeyNorm(_) | AttnPostNorm(_) | FfnNorm(_) | FfnPostNorm(_)
        )
    }

    /// The expert that it belongs to.
    pub fn expert(self) -> Option<usize> {
        match self {
            Self::ExpertGate(_, expert) | Self::ExpertUp(_, expert) | Self::ExpertDown(_, expert) => Some(expert),
            _ => None,
        }
    }

    /// Whether quantizing leaves it as it is: a router is small, and what it picks changes by leaps.
    pub fn is_kept(self) -> bool {
        matches!(self, Self::Router(_))
    }

    /// The layer that it belongs to.
    pub fn layer(self) -> Option<usize> {
        use Role::*;
        match self {
            Embedding | FinalNorm | Head => None,
            AttnNorm(i)
            | Query(i)
            | Key(i)
            | Value(i)
            | QueryBias(i)
            | KeyBias(i)
            | ValueBias(i)
            | QueryNorm(i)
            | KeyNorm(i)
            | AttnOutput(i)
            | AttnPostNorm(i)
            | FfnNorm(i)
            | Gate(i)
            | Up(i)
            | Down(i)
            | Router(i)
            | ExpertGate(i, _)
            | ExpertUp(i, _)
            | ExpertDown(i, _)
            | FfnPostNorm(i) => Some(i),
        }
    }
}
