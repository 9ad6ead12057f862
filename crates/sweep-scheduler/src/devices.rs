//! `--devices`: which devices workers may use, and how many workers share one.

use std::fmt;

/// Most workers that one device, or the CPU, may be asked to carry.
const MAX_SHARE: u32 = 256;

/// What the grammar accepts, for error messages.
const ACCEPTED: &str = "`cpu`, `cpu:2` (two CPU slots), `cuda:0,1` (two GPUs), `cuda:0*2` (two slots on one GPU), \
                        or several of them separated by commas";

/// A device as the scheduler names it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Device {
    /// The CPU.
    Cpu,
    /// The GPU with this number among those that the scheduler itself sees; where the driver lists them, in the order of the
    /// PCI bus.
    Cuda(u32),
}

impl fmt::Display for Device {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Cpu => formatter.write_str("cpu"),
            Self::Cuda(index) => write!(formatter, "cuda:{index}"),
        }
    }
}

/// Why a `--devices` text, or the slots it asks for, cannot be had.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DevicesError {
    /// A part is no device.
    #[error("`{part}` in `{text}` is no device: expected {ACCEPTED}")]
    Syntax {
        /// The part between two commas.
        part: String,
        /// The whole text.
        text: String,
    },
    /// A device is named twice.
    #[error("`{device}` is named twice in `{text}`: write `{}` for two slots on it", twice(*device))]
    Duplicate {
        /// The device.
        device: Device,
        /// The whole text.
        text: String,
    },
    /// A number of slots is 0 or absurd.
    #[error("`{part}` asks for {slots} slots: expected 1 to {MAX_SHARE} a device")]
    Share {
        /// The part between two commas.
        part: String,
        /// What it asks for.
        slots: u64,
    },
    /// The machine has no such GPU.
    #[error("`{device}` does not exist: this machine has {existing}")]
    Missing {
        /// The device.
        device: Device,
        /// Those that there are, in words.
        existing: String,
    },
    /// The scheduler itself may not see that GPU.
    #[error("`{device}` does not exist: CUDA_VISIBLE_DEVICES is `{mask}`, which leaves {visible} GPUs")]
    Masked {
        /// The device.
        device: Device,
        /// The inherited variable.
        mask: String,
        /// GPUs that it leaves.
        visible: usize,
    },
}

fn twice(device: Device) -> String {
    match device {
        Device::Cpu => "cpu:2".to_owned(),
        Device::Cuda(index) => format!("cuda:{index}*2"),
    }
}

/// A device and the number of workers that may run on it at once (at least 1).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Share {
    pub(crate) device: Device,
    pub(crate) slots: u32,
}

/// Reads a `--devices` text into shares, in the order written. No device comes twice.
pub(crate) fn parse(text: &str) -> Result<Vec<Share>, DevicesError> {
    let mut shares: Vec<Share> = Vec::new();
    for part in text.split(',').map(str::trim) {
        let follows_gpu = matches!(shares.last(), Some(Share { device: Device::Cuda(_), .. }));
        let share = parse_part(part, follows_gpu, text)?;
        if shares.iter().any(|other| other.device == share.device) {
            return Err(DevicesError::Duplicate { device: share.device, text: text.to_owned() });
        }
        shares.push(share);
    }
    Ok(shares)
}

/// Reads one part. A bare number means a GPU, but only after another GPU: `cuda:0,1`.
fn parse_part(part: &str, follows_gpu: bool, text: &str) -> Result<Share, DevicesError> {
    let syntax = || DevicesError::Syntax { part: part.to_owned(), text: text.to_owned() };
    if part == "cpu" {
        return Ok(Share { device: Device::Cpu, slots: 1 });
    }
    if let Some(slots) = part.strip_prefix("cpu:") {
        return Ok(Share { device: Device::Cpu, slots: slot_count(slots, part).ok_or_else(syntax)?? });
    }
    let gpu = match part.strip_prefix("cuda:") {
        Some(gpu) => gpu,
        None if follows_gpu => part,
        None => return Err(syntax()),
    };
    let (index, slots) = gpu.split_once('*').unwrap_or((gpu, "1"));
    let index = number(index).and_then(|index| u32::try_from(index).ok()).ok_or_else(syntax)?;
    Ok(Share { device: Device::Cuda(index), slots: slot_count(slots, part).ok_or_else(syntax)?? })
}

fn slot_count(digits: &str, part: &str) -> Option<Result<u32, DevicesError>> {
    let slots = number(digits)?;
    let in_range = u32::try_from(slots).ok().filter(|slots| (1..=MAX_SHARE).contains(slots));
    Some(in_range.ok_or_else(|| DevicesError::Share { part: part.to_owned(), slots }))
}

/// Reads plain digits; `u64::from_str` alone would take a sign.
fn number(digits: &str) -> Option<u64> {
    if digits.bytes().all(|byte| byte.is_ascii_digit()) { digits.parse().ok() } else { None }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shares(text: &str) -> Vec<(String, u32)> {
        parse(text).unwrap().iter().map(|share| (share.device.to_string(), share.slots)).collect()
    }

    fn owned(expected: &[(&str, u32)]) -> Vec<(String, u32)> {
        expected.iter().map(|(device, slots)| ((*device).to_owned(), *slots)).collect()
    }

    #[test]
    fn what_is_accepted() {
        let cases: &[(&str, &[(&str, u32)])] = &[
            ("cpu", &[("cpu", 1)]),
            ("cpu:2", &[("cpu", 2)]),
            ("cuda:0", &[("cuda:0", 1)]),
            ("cuda:0,1", &[("cuda:0", 1), ("cuda:1", 1)]),
            ("cuda:0*2", &[("cuda:0", 2)]),
            ("cuda:0*2, 3*4 ,cpu:3", &[("cuda:0", 2), ("cuda:3", 4), ("cpu", 3)]),
            ("cuda:0,cuda:1", &[("cuda:0", 1), ("cuda:1", 1)]),
        ];
        for (text, expected) in cases {
            assert_eq!(shares(text), owned(expected), "{text}");
        }
    }

    #[test]
    fn nonsense_is_refused_with_what_is_accepted() {
        let nonsense = [
            "",
            "gpu",
            "cuda",
            "cuda:",
            "cuda:x",
            "0",
            "cpu,0",
            "cpu:-1",
            "cpu:+1",
            "cpu:",
            "cuda:0*",
            "cuda:0,,1",
        ];
        for text in nonsense.into_iter().chain(["cuda:99999999999", "cpu*2", "CPU", "cuda:0;1", "cuda:0*2*2"])
        {
            let error = parse(text).unwrap_err();
            assert!(matches!(error, DevicesError::Syntax { .. }), "{text}: {error}");
            assert!(error.to_string().contains("`cuda:0*2`"), "{error}");
        }
    }

    #[test]
    fn a_share_lies_between_one_and_the_limit() {
        for text in ["cpu:0", "cuda:0*0", "cpu:257", "cpu:18446744073709551615"] {
            assert!(matches!(parse(text), Err(DevicesError::Share { .. })), "{text}");
        }
    }

    #[test]
    fn a_device_named_twice_is_refused_with_the_way_to_share_it() {
        for (text, hint) in [("cpu,cpu", "cpu:2"), ("cuda:0,0", "cuda:0*2"), ("cuda:1*2,cuda:1", "cuda:1*2")]
        {
            let error = parse(text).unwrap_err();
            assert!(matches!(error, DevicesError::Duplicate { .. }), "{text}");
            assert!(error.to_string().contains(hint), "{error}");
        }
    }
}
