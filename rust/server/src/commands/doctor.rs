//! `ferrule doctor`

use std::time::Duration;

use clap::Args;
use ferrule_store::Store;
use serde_json::{Value, json};

use crate::bandwidth::read_bandwidth;
use crate::failure::Result;
use crate::machine::{Machine, cpu_features, find_library, huge_pages};
use crate::{print, units};

const CUDA: [&str; 2] = ["libcuda.so.1", "libcuda.so"];
const MPI: [&str; 5] = ["libmpi_abi.so.0", "libmpi.so.40", "libmpi.so.12", "libmpi.so.20", "libmpi.so"];
const NCCL: [&str; 2] = ["libnccl.so.2", "libnccl.so"];

#[derive(Debug, Args)]
pub struct Doctor {
    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

struct Findings {
    machine: Machine,
    /// Bytes per second: one thread, and as many as the kernels use.
    bandwidth: (f64, f64),
    features: Vec<String>,
    huge_pages: Option<String>,
    cuda: Option<String>,
    mpi: Option<String>,
    nccl: Option<String>,
    store: Result<StoreFindings>,
}

struct StoreFindings {
    home: std::path::PathBuf,
    num_models: usize,
    bytes: u64,
}

impl Doctor {
    pub fn execute(self) -> Result {
        let findings = Findings::collect();
        match self.json {
            true => print::json(&findings.json()),
            false => print::fields(&findings.lines()),
        }
    }
}

impl Findings {
    fn collect() -> Self {
        let machine = Machine::look();
        let time = Duration::from_millis(200);
        Self {
            bandwidth: (read_bandwidth(1, time), read_bandwidth(machine.default_threads, time)),
            machine,
            features: cpu_features(),
            huge_pages: huge_pages(),
            cuda: find_library(&CUDA),
            mpi: find_library(&MPI),
            nccl: find_library(&NCCL),
            store: look_at_store(),
        }
    }

    fn json(&self) -> Value {
        let store = self.store.as_ref().ok();
        json!({
            "version": env!("CARGO_PKG_VERSION"),
            "machine": self.machine.json(),
            "cpu_features": self.features,
            "read_bandwidth_bytes_per_s": { "one_thread": self.bandwidth.0, "all_threads": self.bandwidth.1 },
            "huge_pages": self.huge_pages,
            "libcuda": self.cuda,
            "libmpi": self.mpi,
            "libnccl": self.nccl,
            "store": store.map(|store| json!({ "path": store.home, "models": store.num_models, "bytes": store.bytes })),
        })
    }

    fn lines(&self) -> Vec<(&'static str, String)> {
        let machine = &self.machine;
        let isa = machine.isa.map_or("none".into(), |isa| isa.to_string());
        let quota = machine.cpu_quota.map_or("no quota".into(), |quota| format!("quota {quota}"));
        let memory = |bytes: Option<u64>| bytes.map_or("?".into(), units::bytes);
        let gigabytes = |rate: f64| units::three_digits(rate / 1e9);
        let library = |found: &Option<String>| found.clone().unwrap_or("not found".into());
        let store = match &self.store {
            Ok(store) => {
                format!("{}: {} models, {}", store.home.display(), store.num_models, units::bytes(store.bytes))
            }
            Err(_) => "out of reach: set FERRULE_HOME to a folder that can be written".into(),
        };
        vec![
            ("ferrule", env!("CARGO_PKG_VERSION").into()),
            ("CPU", machine.cpu.clone()),
            ("kernels", format!("{isa} (the CPU has {})", self.features.join(" "))),
            ("threads", format!("{} of {} CPUs, {quota}", machine.default_threads, machine.allowed_cpus)),
            ("memory", format!("{}, {} available", memory(machine.total_memory), memory(machine.available_memory))),
            (
                "bandwidth",
                format!(
                    "{} GB/s with one thread, {} GB/s with {}",
                    gigabytes(self.bandwidth.0),
                    gigabytes(self.bandwidth.1),
                    machine.default_threads
                ),
            ),
            ("huge pages", self.huge_pages.clone().unwrap_or("unknown".into())),
            ("CUDA driver", library(&self.cuda)),
            ("MPI", library(&self.mpi)),
            ("NCCL", library(&self.nccl)),
            ("store", store),
        ]
    }
}

fn look_at_store() -> Result<StoreFindings> {
    let store = Store::open_default()?;
    let models = store.list()?;
    let bytes = models.iter().map(|model| model.bytes()).sum();
    Ok(StoreFindings { home: store.home().into(), num_models: models.len(), bytes })
}
