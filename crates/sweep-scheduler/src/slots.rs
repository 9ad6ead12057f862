//! Slots: a slot is a right to run one worker, with a device and a number of threads, and the environment it gets.

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};

use crate::devices::{self, Device, DevicesError, Share};

/// The right to run one worker at a time.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Slot {
    device: Device,
    /// What `CUDA_VISIBLE_DEVICES` becomes: empty for the CPU, so that a CPU worker never touches a GPU.
    visible_devices: String,
    threads: u32,
}

/// What slots are made of.
#[derive(Clone, Copy, Debug)]
pub struct SlotRequest<'a> {
    /// The `--devices` text.
    pub devices: &'a str,
    /// Threads a worker; `None` divides the cores over the slots.
    pub threads: Option<u32>,
    /// Cores of this machine.
    pub cores: u32,
    /// `CUDA_VISIBLE_DEVICES` of the scheduler itself, where it is set.
    pub visible_devices: Option<&'a str>,
}

impl Slot {
    /// Returns the slots that `request` asks for. Where GPUs are shared, every GPU comes once before any comes again,
    /// so that few runs spread over many GPUs. Each slot has `cores / slots` threads, at least 1, unless told.
    ///
    /// ```
    /// use sweep_scheduler::{Slot, SlotRequest};
    /// let request = SlotRequest { devices: "cpu:2", threads: None, cores: 8, visible_devices: None };
    /// let slots = Slot::plan(&request)?;
    /// assert_eq!((slots.len(), slots[0].threads()), (2, 4));
    /// # Ok::<(), sweep_scheduler::DevicesError>(())
    /// ```
    ///
    /// # Errors
    /// Refuses a text that is no list of devices, and a GPU that an inherited `CUDA_VISIBLE_DEVICES` hides.
    pub fn plan(request: &SlotRequest<'_>) -> Result<Vec<Self>, DevicesError> {
        let shares = devices::parse(request.devices)?;
        let total: u32 = shares.iter().map(|share| share.slots).sum();
        let threads = request.threads.unwrap_or(request.cores / total).max(1);
        let visible = shares
            .iter()
            .map(|share| visible_devices(share.device, request.visible_devices))
            .collect::<Result<Vec<String>, DevicesError>>()?;
        let rounds = shares.iter().map(|share| share.slots).max().unwrap_or(0);
        let one = |(share, visible): (&Share, &String)| Self {
            device: share.device,
            visible_devices: visible.clone(),
            threads,
        };
        let round =
            |round| shares.iter().zip(&visible).filter(move |(share, _)| share.slots > round).map(one);
        Ok((0..rounds).flat_map(round).collect())
    }

    /// Returns the device, as the scheduler numbers it.
    pub const fn device(&self) -> Device {
        self.device
    }

    /// Returns the number of threads that the worker computes with, at least 1.
    pub const fn threads(&self) -> u32 {
        self.threads
    }

    /// Returns the worker's `--device`. A worker sees one GPU only, so its number is always 0.
    pub(crate) const fn argument(&self) -> &'static str {
        match self.device {
            Device::Cpu => "cpu",
            Device::Cuda(_) => "cuda:0",
        }
    }

    /// Returns the whole environment of a worker in this slot: what it needs of `inherited`, and what is ours to set.
    /// Anything else stays here, above all other programs' tokens.
    pub(crate) fn environment(
        &self,
        inherited: impl Iterator<Item = (OsString, OsString)>,
    ) -> BTreeMap<OsString, OsString> {
        let mut environment: BTreeMap<_, _> = inherited.filter(|(name, _)| is_passed_on(name)).collect();
        environment.insert("RAYON_NUM_THREADS".into(), self.threads.to_string().into());
        // Training frees and takes the same large buffers over and over: an allocator that gives them back to the system
        // in between spends a fifth of the processor time on that.
        environment.insert("MIMALLOC_PURGE_DELAY".into(), "-1".into());
        environment.insert("CUDA_VISIBLE_DEVICES".into(), self.visible_devices.clone().into());
        environment
    }
}

/// Variables that a worker may need: to find programs, folders, libraries and GPUs, to reach the Hub, and to explain
/// itself.
const PASSED_ON: [&str; 15] = [
    "PATH",
    "HOME",
    "USER",
    "LOGNAME",
    "TMPDIR",
    "TZ",
    "LANG",
    "LD_LIBRARY_PATH",
    "RUST_LOG",
    "RUST_BACKTRACE",
    "HTTP_PROXY",
    "HTTPS_PROXY",
    "ALL_PROXY",
    "NO_PROXY",
    "SSL_CERT_FILE",
];

/// Families of variables that a worker may need. `HF_` includes the token of the Hub, which a worker downloads from.
const PASSED_ON_PREFIXES: [&str; 7] = ["LC_", "XDG_", "HF_", "CUDA_", "NVIDIA_", "MIMALLOC_", "SWEEP_"];

fn is_passed_on(name: &OsStr) -> bool {
    let Some(name) = name.to_str() else {
        return false;
    };
    // Proxies are written in either case.
    PASSED_ON.iter().any(|passed| passed.eq_ignore_ascii_case(name))
        || PASSED_ON_PREFIXES.iter().any(|prefix| name.starts_with(prefix))
}

/// Translates a GPU's number through the mask that the scheduler itself lives under. CUDA stops reading a mask at the
/// first entry that names no device, such as `-1`.
fn visible_devices(device: Device, mask: Option<&str>) -> Result<String, DevicesError> {
    let (index, mask) = match (device, mask) {
        (Device::Cpu, _) => return Ok(String::new()),
        (Device::Cuda(index), None) => return Ok(index.to_string()),
        (Device::Cuda(index), Some(mask)) => (index as usize, mask),
    };
    let names_a_device = |entry: &&str| !entry.is_empty() && !entry.starts_with('-');
    let visible: Vec<&str> = mask.split(',').map(str::trim).take_while(names_a_device).collect();
    let masked = || DevicesError::Masked { device, mask: mask.to_owned(), visible: visible.len() };
    visible.get(index).map(|entry| (*entry).to_owned()).ok_or_else(masked)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plan(devices: &str, threads: Option<u32>, mask: Option<&str>) -> Result<Vec<Slot>, DevicesError> {
        Slot::plan(&SlotRequest { devices, threads, cores: 8, visible_devices: mask })
    }

    fn masks(slots: &[Slot]) -> Vec<&str> {
        slots.iter().map(|slot| slot.visible_devices.as_str()).collect()
    }

    #[test]
    fn threads_are_divided_over_slots_and_never_zero() {
        for (devices, threads, expected) in
            [("cpu", None, 8), ("cpu:3", None, 2), ("cpu:9", None, 1), ("cpu:2", Some(6), 6)]
        {
            let slots = plan(devices, threads, None).unwrap();
            assert!(slots.iter().all(|slot| slot.threads() == expected), "{devices}");
        }
        assert_eq!(plan("cpu", Some(0), None).unwrap()[0].threads(), 1);
    }

    #[test]
    fn every_gpu_comes_once_before_any_comes_again() {
        assert_eq!(masks(&plan("cuda:0*2,1,cpu:2", None, None).unwrap()), ["0", "1", "", "0", ""]);
    }

    #[test]
    fn numbers_go_through_an_inherited_mask() {
        assert_eq!(masks(&plan("cuda:0,1", None, Some("2, GPU-8f3a")).unwrap()), ["2", "GPU-8f3a"]);
        for (devices, mask, left) in [("cuda:2", "4,5", 2), ("cuda:0", "", 0), ("cuda:1", "3,-1,4", 1)] {
            let error = plan(devices, None, Some(mask)).unwrap_err();
            assert!(matches!(error, DevicesError::Masked { visible, .. } if visible == left), "{error}");
        }
    }

    #[test]
    fn the_environment_is_built_and_tokens_stay_here() {
        let inherited = [
            ("PATH", "/bin"),
            ("https_proxy", "proxy"),
            ("HF_TOKEN", "hub"),
            ("GITHUB_TOKEN", "secret"),
            ("AWS_SECRET_ACCESS_KEY", "secret"),
            ("CUDA_VISIBLE_DEVICES", "0,1,2"),
            ("RAYON_NUM_THREADS", "64"),
        ];
        let inherited = inherited.map(|(name, value)| (OsString::from(name), OsString::from(value)));
        let slot = &plan("cuda:2", Some(3), Some("0,1,7")).unwrap()[0];
        let environment = slot.environment(inherited.into_iter());
        let expected = [
            ("CUDA_VISIBLE_DEVICES", "7"),
            ("HF_TOKEN", "hub"),
            ("MIMALLOC_PURGE_DELAY", "-1"),
            ("PATH", "/bin"),
            ("RAYON_NUM_THREADS", "3"),
            ("https_proxy", "proxy"),
        ];
        assert_eq!(environment, expected.map(|(name, value)| (name.into(), value.into())).into());
        assert_eq!(slot.argument(), "cuda:0");
    }
}
