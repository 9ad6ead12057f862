//! Slots: a slot is a right to run one worker, with a device and a number of threads, and the environment it gets.

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};

use crate::devices::{self, Device, DevicesError, Share};
use crate::gpus::Gpu;

/// The right to run one worker at a time.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Slot {
    device: Device,
    /// What `CUDA_VISIBLE_DEVICES` becomes: empty for the CPU, so that a CPU worker never touches a GPU; otherwise the
    /// identity of one GPU, or its number where the driver does not list them.
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
    /// The GPUs of this machine (see [`gpus`](crate::gpus())); `None` where nobody can say: then numbers are taken as they are.
    pub gpus: Option<&'a [Gpu]>,
}

impl Slot {
    /// Returns the slots that `request` asks for. Where GPUs are shared, every GPU comes once before any comes again,
    /// so that few runs spread over many GPUs. Each slot has `cores / slots` threads, at least 1, unless told.
    ///
    /// ```
    /// use sweep_scheduler::{Slot, SlotRequest};
    /// let request = SlotRequest { devices: "cpu:2", threads: None, cores: 8, visible_devices: None, gpus: None };
    /// let slots = Slot::plan(&request)?;
    /// assert_eq!((slots.len(), slots[0].threads()), (2, 4));
    /// # Ok::<(), sweep_scheduler::DevicesError>(())
    /// ```
    ///
    /// # Errors
    /// Refuses a text that is no list of devices, a GPU that does not exist, and one that an inherited
    /// `CUDA_VISIBLE_DEVICES` hides.
    pub fn plan(request: &SlotRequest<'_>) -> Result<Vec<Self>, DevicesError> {
        let shares = devices::parse(request.devices)?;
        let total: u32 = shares.iter().map(|share| share.slots).sum();
        let threads = request.threads.unwrap_or(request.cores / total).max(1);
        let visible = shares
            .iter()
            .map(|share| visible_device(share.device, request))
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

/// Returns the `--devices` text for one worker on every GPU of `gpus` that `mask`, an inherited `CUDA_VISIBLE_DEVICES`,
/// leaves; `cpu` where it leaves none.
///
/// ```
/// use sweep_scheduler::every_gpu;
/// assert_eq!(every_gpu(&[], None), "cpu");
/// ```
pub fn every_gpu(gpus: &[Gpu], mask: Option<&str>) -> String {
    let count = mask.map_or(gpus.len(), |mask| unmasked(mask, Some(gpus)).len());
    let numbers: Vec<String> = (0..count).map(|index| index.to_string()).collect();
    if numbers.is_empty() { "cpu".to_owned() } else { format!("cuda:{}", numbers.join(",")) }
}

/// Translates a GPU's number through the mask that the scheduler itself lives under, and into the GPU's identity.
fn visible_device(device: Device, request: &SlotRequest<'_>) -> Result<String, DevicesError> {
    let Device::Cuda(number) = device else { return Ok(String::new()) };
    let index = number as usize;
    match (request.visible_devices, request.gpus) {
        (None, None) => Ok(number.to_string()),
        (None, Some(gpus)) => gpus
            .get(index)
            .map(|gpu| gpu.uuid.clone())
            .ok_or_else(|| DevicesError::Missing { device, existing: in_words(gpus) }),
        (Some(mask), gpus) => {
            let visible = unmasked(mask, gpus);
            let masked = || DevicesError::Masked { device, mask: mask.to_owned(), visible: visible.len() };
            visible.get(index).cloned().ok_or_else(masked)
        }
    }
}

/// Returns the GPUs that a `CUDA_VISIBLE_DEVICES` leaves. CUDA stops reading it at the first entry that names no device,
/// such as `-1`.
fn unmasked(mask: &str, gpus: Option<&[Gpu]>) -> Vec<String> {
    let names_a_device = |entry: &&str| !entry.is_empty() && !entry.starts_with('-');
    let entries = mask.split(',').map(str::trim).take_while(names_a_device);
    entries
        .map_while(|entry| gpus.map_or_else(|| Some(entry.to_owned()), |gpus| identity(entry, gpus)))
        .collect()
}

/// Returns what an entry of a mask means: the number of a GPU, the beginning of the identity of one, or a part of one
/// (`MIG-…`), which the list does not have.
fn identity(entry: &str, gpus: &[Gpu]) -> Option<String> {
    if entry.starts_with("MIG-") {
        return Some(entry.to_owned());
    }
    if let Ok(number) = entry.parse::<usize>() {
        return gpus.get(number).map(|gpu| gpu.uuid.clone());
    }
    let mut found = gpus.iter().filter(|gpu| entry.starts_with("GPU-") && gpu.uuid.starts_with(entry));
    found.next().filter(|_| found.next().is_none()).map(|gpu| gpu.uuid.clone())
}

fn in_words(gpus: &[Gpu]) -> String {
    let one = |(index, gpu): (usize, &Gpu)| format!("`cuda:{index}` ({})", gpu.name);
    let all: Vec<String> = gpus.iter().enumerate().map(one).collect();
    if all.is_empty() { "no GPU".to_owned() } else { all.join(", ") }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plan(devices: &str, threads: Option<u32>, mask: Option<&str>) -> Result<Vec<Slot>, DevicesError> {
        Slot::plan(&SlotRequest { devices, threads, cores: 8, visible_devices: mask, gpus: None })
    }

    /// Two GPUs of one kind, and another.
    fn machine() -> Vec<Gpu> {
        let gpu = |uuid: &str, name: &str| Gpu {
            uuid: uuid.to_owned(),
            name: name.to_owned(),
            memory_bytes: 1 << 37,
        };
        vec![gpu("GPU-8f3a-1", "NVIDIA H200"), gpu("GPU-8f3b-2", "NVIDIA H200"), gpu("GPU-0c-3", "NVIDIA L4")]
    }

    fn plan_on(gpus: &[Gpu], devices: &str, mask: Option<&str>) -> Result<Vec<Slot>, DevicesError> {
        let request =
            SlotRequest { devices, threads: None, cores: 8, visible_devices: mask, gpus: Some(gpus) };
        Slot::plan(&request)
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
    fn where_the_driver_lists_gpus_each_is_known_by_its_identity() {
        let cases: &[(&str, Option<&str>, &[&str])] = &[
            ("cuda:0*2,2", None, &["GPU-8f3a-1", "GPU-0c-3", "GPU-8f3a-1"]),
            ("cuda:0,1", Some("2,0"), &["GPU-0c-3", "GPU-8f3a-1"]),
            ("cuda:0,1,2", Some("GPU-0c, GPU-8f3b-2,MIG-17"), &["GPU-0c-3", "GPU-8f3b-2", "MIG-17"]),
            ("cpu", Some(""), &[""]),
        ];
        for (devices, mask, expected) in cases {
            assert_eq!(masks(&plan_on(&machine(), devices, *mask).unwrap()), *expected, "{devices} {mask:?}");
        }
    }

    #[test]
    fn a_gpu_that_does_not_exist_is_refused_with_those_that_do() {
        let error = plan_on(&machine()[1..], "cuda:0,2", None).unwrap_err();
        assert_eq!(
            error.to_string(),
            "`cuda:2` does not exist: this machine has `cuda:0` (NVIDIA H200), `cuda:1` (NVIDIA L4)"
        );
        let error = plan_on(&[], "cuda:0", None).unwrap_err();
        assert_eq!(error.to_string(), "`cuda:0` does not exist: this machine has no GPU");
        // CUDA reads a mask up to the first entry that is nobody, or could be two.
        for (mask, left) in [("0,3,1", 1), ("GPU-8f", 0), ("1,GPU-8f3a,8f3b", 2)] {
            let error = plan_on(&machine(), "cuda:2", Some(mask)).unwrap_err();
            assert!(matches!(error, DevicesError::Masked { visible, .. } if visible == left), "{error}");
        }
    }

    #[test]
    fn every_gpu_that_is_visible_is_one_slot() {
        let all = |mask| every_gpu(&machine(), mask);
        assert_eq!([all(None), all(Some("2,1")), all(Some(""))], ["cuda:0,1,2", "cuda:0,1", "cpu"]);
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
