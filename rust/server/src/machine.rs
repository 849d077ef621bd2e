//! What this machine offers to the engine.

use std::fs;

use ferrule_engine::config::Isa;
use ferrule_engine::kernels::Kernels;
use ferrule_engine::kernels::threads::Pool;
use serde_json::{Value, json};

/// What the machine is, for figures that are to be compared.
#[derive(Debug)]
pub struct Machine {
    pub cpu: String,
    pub isa: Option<Isa>,
    /// Logical CPUs that this process may use, a quota counted in.
    pub allowed_cpus: usize,
    /// Cores that the kernels use by default: hyperthreads of one core count once.
    pub default_threads: usize,
    /// CPUs' worth of time that a control group grants. None: no quota.
    pub cpu_quota: Option<f64>,
    pub total_memory: Option<u64>,
    pub available_memory: Option<u64>,
}

impl Machine {
    pub fn look() -> Self {
        Self {
            cpu: cpuinfo("model name").unwrap_or_else(|| std::env::consts::ARCH.into()),
            isa: Kernels::new(None).ok().map(|kernels| kernels.isa()),
            allowed_cpus: std::thread::available_parallelism().map_or(1, usize::from),
            default_threads: Pool::default_threads(),
            cpu_quota: cpu_quota(),
            total_memory: meminfo("MemTotal:"),
            available_memory: meminfo("MemAvailable:"),
        }
    }

    pub fn json(&self) -> Value {
        json!({
            "cpu": self.cpu,
            "isa": self.isa.map(|isa| isa.to_string()),
            "allowed_cpus": self.allowed_cpus,
            "default_threads": self.default_threads,
            "cpu_quota": self.cpu_quota,
            "total_memory_bytes": self.total_memory,
            "available_memory_bytes": self.available_memory,
        })
    }
}

fn cpuinfo(key: &str) -> Option<String> {
    let text = fs::read_to_string("/proc/cpuinfo").ok()?;
    let line = text.lines().find(|line| line.starts_with(key))?;
    Some(line.split_once(':')?.1.trim().to_owned())
}

/// The vector and matrix extensions that kernels can be written for.
pub fn cpu_features() -> Vec<String> {
    const OF_INTEREST: [&str; 9] =
        ["avx2", "fma", "f16c", "avx_vnni", "avx512f", "avx512_vnni", "avx512_bf16", "amx_int8", "amx_bf16"];
    let flags = cpuinfo("flags").unwrap_or_default();
    let has = |feature: &&&str| flags.split(' ').any(|flag| flag == **feature);
    OF_INTEREST.iter().filter(has).map(|feature| feature.to_string()).collect()
}

/// A line of /proc/meminfo, in bytes.
pub fn meminfo(key: &str) -> Option<u64> {
    let text = fs::read_to_string("/proc/meminfo").ok()?;
    let line = text.lines().find(|line| line.starts_with(key))?;
    let kilobytes: u64 = line.split_whitespace().nth(1)?.parse().ok()?;
    Some(kilobytes * 1024)
}

/// Of control groups, version 2.
fn cpu_quota() -> Option<f64> {
    let text = fs::read_to_string("/sys/fs/cgroup/cpu.max").ok()?;
    let (quota, period) = text.trim().split_once(' ')?;
    Some(quota.parse::<f64>().ok()? / period.parse::<f64>().ok()?)
}

/// Whether transparent huge pages are on: `always`, `madvise` or `never`.
pub fn huge_pages() -> Option<String> {
    let text = fs::read_to_string("/sys/kernel/mm/transparent_hugepage/enabled").ok()?;
    let (_, rest) = text.split_once('[')?;
    Some(rest.split_once(']')?.0.to_owned())
}

/// Most memory that this process has had at once.
#[cfg(unix)]
pub fn peak_rss_bytes() -> Option<u64> {
    // SAFETY: rusage is plain integers, for which zero is a valid value.
    let mut usage: libc::rusage = unsafe { std::mem::zeroed() };
    // SAFETY: `usage` is writable for the length of the call.
    let status = unsafe { libc::getrusage(libc::RUSAGE_SELF, &mut usage) };
    let unit = if cfg!(target_os = "macos") { 1 } else { 1024 };
    (status == 0).then(|| usage.ru_maxrss as u64 * unit)
}

/// Lets `peak_rss_bytes` begin anew, from what the process has now, where the system can do that.
pub fn restart_peak_rss() {
    #[cfg(target_os = "linux")]
    let _ = fs::write("/proc/self/clear_refs", "5");
}

#[cfg(not(unix))]
pub fn peak_rss_bytes() -> Option<u64> {
    None
}

/// The first of these shared libraries that the system can load.
#[cfg(unix)]
pub fn find_library(names: &[&str]) -> Option<String> {
    let loads = |name: &&&str| {
        let Ok(path) = std::ffi::CString::new(**name) else { return false };
        // SAFETY: `path` ends in NUL. The libraries looked for (CUDA, MPI, NCCL) only register themselves when
        // they are loaded, and the handle stays open, so that nothing is unloaded under a running thread.
        !unsafe { libc::dlopen(path.as_ptr(), libc::RTLD_LAZY | libc::RTLD_LOCAL) }.is_null()
    };
    names.iter().find(loads).map(|name| name.to_string())
}

#[cfg(not(unix))]
pub fn find_library(_names: &[&str]) -> Option<String> {
    None
}
