//! Where a run runs, so that a reader of its log can tell why another was faster, and can start it again.

use serde::Serialize;
use std::time::{SystemTime, UNIX_EPOCH};
use sysinfo::{CpuRefreshKind, MemoryRefreshKind, Pid, ProcessRefreshKind, ProcessesToUpdate, RefreshKind, System};

/// This process and its machine.
#[derive(Debug, Clone, Default, Serialize)]
pub struct Environment {
    /// The command line.
    pub command: Vec<String>,
    /// The folder that it was started in.
    pub folder: String,
    /// When, in seconds since 1970.
    pub unix_s: u64,
    /// Version of tandem.
    pub tandem: &'static str,
    /// Name of the machine of rank 0.
    pub host: String,
    /// Its operating system.
    pub system: String,
    /// Its CPU.
    pub cpu: String,
    /// CPUs that this process may use.
    pub cpus: usize,
    /// The machine's memory.
    pub memory_bytes: u64,
}

impl Environment {
    /// Of this process.
    pub fn here() -> Self {
        let kind = RefreshKind::nothing()
            .with_memory(MemoryRefreshKind::nothing().with_ram())
            .with_cpu(CpuRefreshKind::nothing());
        let system = System::new_with_specifics(kind).ok();
        let cpu = system.as_ref().and_then(|system| Some(system.cpus().first()?.brand().trim().to_string()));
        Self {
            command: std::env::args().collect(),
            folder: std::env::current_dir().map(|path| path.display().to_string()).unwrap_or_default(),
            unix_s: SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs()),
            tandem: env!("CARGO_PKG_VERSION"),
            host: System::host_name().unwrap_or_default(),
            system: System::long_os_version().unwrap_or_default(),
            cpu: cpu.unwrap_or_default(),
            cpus: std::thread::available_parallelism().map_or(1, usize::from),
            memory_bytes: system.map_or(0, |system| system.total_memory()),
        }
    }
}

/// Bytes of memory that this process holds; 0 where the system does not tell.
pub fn resident_bytes() -> u64 {
    let pid = Pid::from_u32(std::process::id());
    let Ok(mut system) = System::new() else { return 0 };
    let kind = ProcessRefreshKind::nothing().with_memory();
    system.refresh_processes_specifics(ProcessesToUpdate::Some(&[pid]), false, kind);
    system.process(pid).map_or(0, |process| process.memory())
}
