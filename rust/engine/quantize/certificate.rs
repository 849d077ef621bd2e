//! What was measured of a quantized model, for its file's own metadata.

use serde::{Deserialize, Serialize};

use crate::evaluate::Comparison;

/// The key in a file's metadata; the value is JSON.
pub const KEY: &str = "ferrule.certificate";

/// The quality of a quantized model beside its source's, on a named text.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Certificate {
    /// Ferrule's.
    pub version: String,
    pub scheme: String,
    /// Columns that share a scale. None: all of a row.
    pub group_size: Option<usize>,
    /// The source's name.
    pub source: String,
    pub calibration: Option<CertifiedText>,
    /// None: nothing was measured.
    pub quality: Option<Quality>,
    /// Bytes of tensors.
    pub source_bytes: u64,
    pub bytes: u64,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct CertifiedText {
    pub name: String,
    pub tokens: usize,
}

/// With float32 activations.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Quality {
    pub text: CertifiedText,
    /// Tokens of a window, whose first ones are predicted from few others.
    pub window: usize,
    pub source_perplexity: f64,
    pub perplexity: f64,
    /// Of the next token's distribution, from the source's, in nats.
    pub mean_kl: f64,
    /// Share of the tokens before which both find the same one likeliest.
    pub same_top: f64,
}

impl Quality {
    pub fn new(text: CertifiedText, window: usize, measured: &Comparison) -> Self {
        Self {
            text,
            window,
            source_perplexity: measured.source.perplexity(),
            perplexity: measured.other.perplexity(),
            mean_kl: measured.mean_kl(),
            same_top: measured.same_top(),
        }
    }

    /// How much larger the perplexity is, as a share of the source's.
    pub fn loss(&self) -> f64 {
        self.perplexity / self.source_perplexity - 1.0
    }
}

impl Certificate {
    pub fn to_json(&self) -> String {
        serde_json::to_string(self).expect("numbers and texts become JSON")
    }
}
