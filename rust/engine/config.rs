//! Every setting of the engine. The only module that reads environment variables.

use std::path::PathBuf;
use std::sync::Arc;

use crate::error::{Error, Result};
use crate::profile::Profile;

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Device {
    #[default]
    Cpu,
    /// The first NVIDIA GPU, through libcuda.so.1.
    Cuda,
    /// The same code on an emulated GPU: for tests.
    CudaEmu,
}

/// What the matrix kernels compute with.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Activations {
    /// Activations are quantized to int8 in groups of 32 before each matrix product.
    #[default]
    Int8,
    /// Activations are rounded to bf16, on CPUs that multiply those; others compute in float32. What `Int8` does with weights
    /// of sixteen bits.
    Bf16,
    /// The exact mode: float32 activations and (unless set otherwise) float32 KV cache.
    F32,
}

/// What a full-precision checkpoint's matrices are rounded to while it loads.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Quantization {
    /// Eight bits, a scale per 32 columns.
    Int8,
    /// Four bits with a scale and a zero point per 32 columns; the embedding table and the head have six (Q6_K), as in
    /// GGUF files of four bits.
    Int4,
}

/// What keys and values are kept as.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum KvDtype {
    F32,
    F16,
    Bf16,
    /// With a float32 scale per position and head: x = q * scale, q in -127 ..= 127.
    Int8,
    /// E4M3 without a scale: what is greater than 448 becomes 448.
    Fp8,
}

impl KvDtype {
    /// Bytes of a number.
    pub fn number_bytes(self) -> usize {
        match self {
            Self::F32 => 4,
            Self::F16 | Self::Bf16 => 2,
            Self::Int8 | Self::Fp8 => 1,
        }
    }

    /// Bytes of the scale that the numbers of one position and head share.
    pub fn scale_bytes(self) -> usize {
        if self == Self::Int8 { size_of::<f32>() } else { 0 }
    }

    /// Bytes of one position's keys, or values, of one head.
    pub fn head_bytes(self, head_dim: usize) -> usize {
        head_dim * self.number_bytes() + self.scale_bytes()
    }
}

/// How waiting requests join the running ones.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Policy {
    /// Requests join and leave at every step.
    #[default]
    Continuous,
    /// A batch is admitted together and run to its end: the baseline.
    Static,
}

/// Instruction-set tier of the CPU kernels, lowest first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Isa {
    Scalar,
    Avx2,
    /// With VNNI.
    Avx512,
    /// With products of bf16 besides, for attention over keys and values of that type.
    Avx512Bf16,
}

/// How far the cores of a CPU's threads are from each other.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cores {
    /// Some share a cache.
    Near,
    /// What one writes reaches every other one through memory's interconnect.
    Far,
}

#[derive(Debug, Clone)]
pub struct EngineConfig {
    /// Most sequences in one step.
    pub max_num_seqs: usize,
    /// Token budget of one step, prompts and running sequences together.
    pub max_num_batched_tokens: usize,
    /// Longest prompt plus output, in tokens. None: what the model was trained for.
    pub max_model_len: Option<usize>,
    /// Tokens per KV block. Only 16 is built.
    pub block_size: usize,
    /// Bytes for the KV cache. None: sized from the machine's free memory.
    pub kv_cache_memory: Option<u64>,
    /// Bytes of page-locked host memory in which the GPU keeps blocks of preempted sequences. 0: these are computed again.
    pub swap_space: u64,
    /// None: f32 in the exact mode, bf16 otherwise.
    pub kv_cache_dtype: Option<KvDtype>,
    pub activations: Activations,
    /// None: weights are computed with as their files have them.
    pub quantization: Option<Quantization>,
    /// Threads of the kernels. None: the physical cores that this process may use.
    pub threads: Option<usize>,
    /// Whether these threads' cores share a cache. None: measured now and then. Answers are the same.
    pub cores: Option<Cores>,
    pub device: Device,
    /// On GPUs: have cuBLASLt make products of 128 rows or more with matrices of bf16. An answer then depends on what ran
    /// beside it, by rounding, since the library's order of sums depends on the number of rows.
    pub cublaslt: bool,
    pub policy: Policy,
    pub enable_prefix_caching: bool,
    /// On a GPU, launch a step before the tokens of the one before are known. Answers are the same without.
    pub async_scheduling: bool,
    /// Requests that may wait in the queue before `Overloaded`.
    pub max_queue_len: usize,
    /// Force a lower tier than the machine has. Default: FERRULE_ISA (scalar, avx2, avx512, avx512bf16).
    pub isa: Option<Isa>,
    /// Is told where the time of steps goes. None: nothing is timed.
    pub profile: Option<Arc<Profile>>,
    /// Folder where kernel-ready weights are kept for the next start. None: they are packed at every start. Kernels that
    /// were compiled for a GPU are kept beside it.
    pub packed_weights: Option<PathBuf>,
    /// Bytes that this folder may hold; what was not used for longest goes first.
    pub packed_weights_limit: u64,
}

impl Default for EngineConfig {
    fn default() -> Self {
        Self {
            max_num_seqs: 64,
            max_num_batched_tokens: 512,
            max_model_len: None,
            block_size: 16,
            kv_cache_memory: None,
            swap_space: 0,
            kv_cache_dtype: None,
            activations: Activations::Int8,
            quantization: None,
            threads: None,
            cores: None,
            device: Device::Cpu,
            cublaslt: false,
            policy: Policy::Continuous,
            enable_prefix_caching: true,
            async_scheduling: true,
            max_queue_len: 1024,
            isa: None,
            profile: None,
            packed_weights: None,
            packed_weights_limit: 16 << 30,
        }
    }
}

impl EngineConfig {
    /// Refuses settings that cannot work, naming the setting and the value.
    pub fn validate(&self) -> Result<()> {
        let at_least = |name: &str, value: usize, least: usize| match value >= least {
            true => Ok(()),
            false => Err(Error::InvalidConfig(format!("{name} is {value}: it must be at least {least}"))),
        };
        at_least("max_num_seqs", self.max_num_seqs, 1)?;
        at_least("max_num_batched_tokens", self.max_num_batched_tokens, 1)?;
        at_least("max_queue_len", self.max_queue_len, 1)?;
        at_least("threads", self.threads.unwrap_or(1), 1)?;
        at_least("max_model_len", self.max_model_len.unwrap_or(1), 1)?;
        if self.cublaslt && self.device == Device::Cpu {
            return Err(Error::InvalidConfig("cublaslt is set and device is cpu: it needs a GPU".into()));
        }
        if self.block_size != 16 {
            return Err(Error::InvalidConfig(format!("block_size is {}: only 16 is built", self.block_size)));
        }
        Ok(())
    }

    pub fn kv_dtype(&self) -> KvDtype {
        self.kv_cache_dtype.unwrap_or(match self.activations {
            Activations::Int8 | Activations::Bf16 => KvDtype::Bf16,
            Activations::F32 => KvDtype::F32,
        })
    }

    /// The tier asked for by the setting or by FERRULE_ISA; None: the best that the machine has.
    pub fn isa(&self) -> Result<Option<Isa>> {
        if self.isa.is_some() {
            return Ok(self.isa);
        }
        match std::env::var("FERRULE_ISA") {
            Err(_) => Ok(None),
            Ok(name) => name.parse().map(Some),
        }
    }
}

/// The emulated driver's library. Default: FERRULE_CUDA_EMU; None: it lies where it was built or installed.
pub fn cuda_emulator() -> Option<PathBuf> {
    std::env::var_os("FERRULE_CUDA_EMU").map(PathBuf::from)
}

/// Parsing of the names that flags and keyword arguments use.
macro_rules! named {
    ($type:ident { $($name:literal => $value:ident),+ $(,)? }) => {
        impl std::str::FromStr for $type {
            type Err = Error;
            fn from_str(s: &str) -> Result<Self> {
                match s {
                    $($name => Ok(Self::$value),)+
                    _ => Err(Error::InvalidConfig(format!(
                        concat!("'{}' is not one of: ", $("'", $name, "' "),+), s
                    ))),
                }
            }
        }
        impl std::fmt::Display for $type {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.pad(match self { $(Self::$value => $name),+ })
            }
        }
    };
}

named!(Device { "cpu" => Cpu, "cuda" => Cuda, "cuda-emu" => CudaEmu });
named!(Activations { "int8" => Int8, "bf16" => Bf16, "f32" => F32 });
named!(Quantization { "int8" => Int8, "int4" => Int4 });
named!(KvDtype { "f32" => F32, "f16" => F16, "bf16" => Bf16, "int8" => Int8, "fp8" => Fp8 });
named!(Policy { "continuous" => Continuous, "static" => Static });
named!(Isa { "scalar" => Scalar, "avx2" => Avx2, "avx512" => Avx512, "avx512bf16" => Avx512Bf16 });
