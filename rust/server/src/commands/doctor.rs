//! `ferrule doctor`

use clap::Args;
use ferrule_engine::EngineConfig;
use ferrule_engine::config::Device;
use ferrule_engine::cuda::{self, driver::DeviceInfo};
use ferrule_engine::kernels::Kernels;
use ferrule_engine::kernels::limits::{Limits, Rates};
use ferrule_store::Store;
use serde_json::{Value, json};

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
    limits: Limits,
    features: Vec<String>,
    huge_pages: Option<String>,
    cuda: Option<String>,
    gpus: ferrule_engine::Result<Gpus>,
    mpi: Option<String>,
    nccl: Option<String>,
    store: Result<StoreFindings>,
}

/// What the CUDA driver serves.
struct Gpus {
    cuda_version: (u32, u32),
    devices: Vec<DeviceInfo>,
}

impl Gpus {
    fn look() -> ferrule_engine::Result<Self> {
        let driver = cuda::open(Device::Cuda)?;
        Ok(Self { cuda_version: driver.version()?, devices: driver.devices()? })
    }

    fn json(&self) -> Value {
        let device = |device: &DeviceInfo| {
            let (major, minor) = device.capability;
            json!({
                "name": device.name,
                "compute_capability": format!("{major}.{minor}"),
                "memory_bytes": device.memory_bytes,
                "multiprocessors": device.num_multiprocessors,
            })
        };
        self.devices.iter().map(device).collect()
    }

    fn line(&self) -> String {
        let device = |device: &DeviceInfo| {
            let (DeviceInfo { name, capability: (major, minor), .. }, memory) =
                (device, units::bytes(device.memory_bytes));
            format!("{name} (compute capability {major}.{minor}, {memory})")
        };
        let (major, minor) = self.cuda_version;
        let devices: Vec<_> = self.devices.iter().map(device).collect();
        format!("{}; the driver serves CUDA {major}.{minor}", devices.join(", "))
    }
}

struct StoreFindings {
    home: std::path::PathBuf,
    num_models: usize,
    bytes: u64,
    packed_bytes: u64,
}

impl StoreFindings {
    fn json(&self) -> serde_json::Value {
        json!({
            "path": self.home,
            "models": self.num_models,
            "bytes": self.bytes,
            "packed_bytes": self.packed_bytes,
        })
    }
}

impl Doctor {
    pub fn execute(self) -> Result {
        let findings = Findings::collect()?;
        match self.json {
            true => print::json(&findings.json()),
            false => {
                print::fields(&[findings.machine_lines(), findings.limit_lines(), findings.other_lines()].concat())
            }
        }
    }
}

impl Findings {
    fn collect() -> Result<Self> {
        let machine = Machine::look();
        let kernels = Kernels::new(EngineConfig::default().isa()?)?;
        Ok(Self {
            limits: Limits::measure(kernels, machine.default_threads),
            machine,
            features: cpu_features(),
            huge_pages: huge_pages(),
            cuda: find_library(&CUDA),
            gpus: Gpus::look(),
            mpi: find_library(&MPI),
            nccl: find_library(&NCCL),
            store: look_at_store(),
        })
    }

    fn json(&self) -> Value {
        let store = self.store.as_ref().ok();
        json!({
            "version": env!("CARGO_PKG_VERSION"),
            "machine": self.machine.json(),
            "cpu_features": self.features,
            "read_bandwidth_bytes_per_s": rates_json(self.limits.dram),
            "l3_bytes_per_s": self.limits.l3.map(rates_json),
            "l2_bytes_per_s": self.limits.l2.map(rates_json),
            "int8_ops_per_s": self.limits.int8.map(rates_json),
            "int4_ops_per_s": self.limits.int4.map(rates_json),
            "bf16_flops_per_s": self.limits.bf16.map(rates_json),
            "f32_flops_per_s": self.limits.f32.map(rates_json),
            "core_round_trip_ns": self.limits.round_trip.map(|time| time.as_nanos() as u64),
            "huge_pages": self.huge_pages,
            "libcuda": self.cuda,
            "gpus": self.gpus.as_ref().map(Gpus::json).unwrap_or(json!([])),
            "libmpi": self.mpi,
            "libnccl": self.nccl,
            "store": store.map(StoreFindings::json),
        })
    }

    fn machine_lines(&self) -> Vec<(&'static str, String)> {
        let machine = &self.machine;
        let isa = machine.isa.map_or("none".into(), |isa| isa.to_string());
        let quota = machine.cpu_quota.map_or("no quota".into(), |quota| format!("quota {quota}"));
        let memory = |bytes: Option<u64>| bytes.map_or("?".into(), units::bytes);
        vec![
            ("ferrule", env!("CARGO_PKG_VERSION").into()),
            ("CPU", machine.cpu.clone()),
            ("kernels", format!("{isa} (the CPU has {})", self.features.join(" "))),
            ("threads", format!("{} of {} CPUs, {quota}", machine.default_threads, machine.allowed_cpus)),
            ("memory", format!("{}, {} available", memory(machine.total_memory), memory(machine.available_memory))),
            ("huge pages", self.huge_pages.clone().unwrap_or("unknown".into())),
        ]
    }

    /// What one thread reaches, and all together.
    fn limit_lines(&self) -> Vec<(&'static str, String)> {
        let threads = self.machine.default_threads;
        let line = |rates: Rates, unit: &str| {
            let [one, all] = [rates.one_thread, rates.all_threads].map(|rate| units::three_digits(rate / 1e9));
            format!("{one} {unit} with one thread, {all} {unit} with {threads}")
        };
        let limits = &self.limits;
        let given = [
            ("memory read", Some(limits.dram), "GB/s"),
            ("L3 read", limits.l3, "GB/s"),
            ("L2 read", limits.l2, "GB/s"),
            ("int8", limits.int8, "GOPS"),
            ("int8 x int4", limits.int4, "GOPS"),
            ("bf16", limits.bf16, "GFLOP/s"),
            ("f32", limits.f32, "GFLOP/s"),
        ];
        let rates = given.into_iter().filter_map(|(name, rates, unit)| Some((name, line(rates?, unit))));
        let round_trip = limits.round_trip.map(|time| ("core to core", format!("{} ns and back", time.as_nanos())));
        rates.chain(round_trip).collect()
    }

    fn other_lines(&self) -> Vec<(&'static str, String)> {
        let library = |found: &Option<String>| found.clone().unwrap_or("not found".into());
        let store = match &self.store {
            Ok(store) => {
                let [models, packed] = [store.bytes, store.packed_bytes].map(units::bytes);
                format!("{}: {} models, {models}; packed weights, {packed}", store.home.display(), store.num_models)
            }
            Err(_) => "out of reach: set FERRULE_HOME to a folder that can be written".into(),
        };
        vec![
            ("CUDA driver", library(&self.cuda)),
            ("GPUs", self.gpus.as_ref().map_or_else(ToString::to_string, Gpus::line)),
            ("MPI", library(&self.mpi)),
            ("NCCL", library(&self.nccl)),
            ("store", store),
        ]
    }
}

fn rates_json(rates: Rates) -> Value {
    json!({ "one_thread": rates.one_thread, "all_threads": rates.all_threads })
}

fn look_at_store() -> Result<StoreFindings> {
    let store = Store::open_default()?;
    let models = store.list()?;
    let bytes = models.iter().map(|model| model.bytes()).sum();
    let packed_bytes = super::packed_weights(&store).bytes();
    Ok(StoreFindings { home: store.home().into(), num_models: models.len(), bytes, packed_bytes })
}
