//! What NVIDIA's management library (NVML) says of the GPU that an attempt computes on: its name, and how much of it is
//! used. Nothing depends on it but what is written down; where the library is missing, less is.

use std::sync::mpsc::sync_channel;
use std::thread;

use sweep_core::event::Event;

/// One look at a GPU, all programs on it included.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Look {
    /// Memory in use, in bytes.
    pub(crate) memory_bytes: u64,
    /// Its memory, in bytes.
    pub(crate) memory_total_bytes: u64,
    /// Share of the time since the look before in which it computed anything, in percent.
    pub(crate) busy_percent: u32,
}

/// All looks of an attempt.
#[derive(Debug, Default)]
pub(crate) struct Usage {
    most_bytes: u64,
    total_bytes: u64,
    percents: u64,
    looks: u64,
}

impl Usage {
    pub(crate) fn add(&mut self, look: Look) {
        self.most_bytes = self.most_bytes.max(look.memory_bytes);
        self.total_bytes = look.memory_total_bytes;
        self.percents += u64::from(look.busy_percent.min(100));
        self.looks += 1;
    }

    /// Returns what there is to tell; `None` before the first look.
    pub(crate) fn event(&self) -> Option<Event> {
        (self.looks > 0).then(|| Event::DeviceUsed {
            memory_bytes: self.most_bytes,
            memory_total_bytes: self.total_bytes,
            utilization: self.percents as f64 / (100 * self.looks) as f64,
        })
    }
}

#[cfg(feature = "cuda")]
mod driver {
    use nvml_wrapper::error::NvmlError;
    use nvml_wrapper::{Device, Nvml};

    use super::Look;

    /// A GPU that can be looked at.
    pub(crate) struct Gpu {
        library: Nvml,
        /// What the slot has put into `CUDA_VISIBLE_DEVICES`: an identity, or a number.
        visible: String,
    }

    impl Gpu {
        /// Finds the GPU that this process sees; `None` where it sees none or the driver does not say anything.
        pub(crate) fn of_this_process() -> Option<Self> {
            let visible = std::env::var("CUDA_VISIBLE_DEVICES").ok()?;
            let visible = visible.split(',').next().filter(|first| !first.is_empty())?.to_owned();
            let gpu = Nvml::init().map(|library| Self { library, visible });
            gpu.inspect_err(|error| tracing::warn!("the GPU's use is not recorded: {error}")).ok()
        }

        fn device(&self) -> Result<Device<'_>, NvmlError> {
            match self.visible.parse() {
                Ok(number) => self.library.device_by_index(number),
                Err(_) => self.library.device_by_uuid(self.visible.as_str()),
            }
        }

        /// Returns its name, such as `NVIDIA H200`.
        pub(crate) fn name(&self) -> Option<String> {
            self.device().and_then(|device| device.name()).ok()
        }

        pub(crate) fn look(&self) -> Option<Look> {
            let look = self.device().and_then(|device| {
                let (memory, busy) = (device.memory_info()?, device.utilization_rates()?);
                Ok(Look {
                    memory_bytes: memory.used,
                    memory_total_bytes: memory.total,
                    busy_percent: busy.gpu,
                })
            });
            look.ok()
        }
    }
}

#[cfg(not(feature = "cuda"))]
mod driver {
    use super::Look;

    /// There is none in this build.
    pub(crate) enum Gpu {}

    impl Gpu {
        pub(crate) const fn of_this_process() -> Option<Self> {
            None
        }

        pub(crate) const fn name(&self) -> Option<String> {
            match *self {}
        }

        pub(crate) const fn look(&self) -> Option<Look> {
            match *self {}
        }
    }
}

pub(crate) use driver::Gpu;

/// Returns what the device called `device` is known as: `cpu`, or the name of the GPU where the driver says it.
pub(crate) fn name_of(device: &str) -> String {
    let gpu = if device == "cpu" { None } else { Gpu::of_this_process() };
    gpu.and_then(|gpu| gpu.name()).unwrap_or_else(|| device.to_owned())
}

/// Looks from a thread of its own, which a driver in trouble may keep forever: nobody waits for it, and it ends when nobody
/// wants its looks any more. Returns what gives the newest look, each once.
pub(crate) fn watch(mut look: impl FnMut() -> Option<Look> + Send + 'static) -> impl FnMut() -> Option<Look> {
    // Without room in between, the next look is made when this one was taken.
    let (send, looks) = sync_channel(0);
    let watching =
        thread::Builder::new().name("gpu".to_owned()).spawn(move || while send.send(look()).is_ok() {});
    if let Err(error) = watching {
        tracing::warn!("the GPU's use is not recorded: {error}");
    }
    move || looks.try_recv().ok().flatten()
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc::channel;

    use sweep_testkit::wait_until;

    use super::*;

    fn look(memory_bytes: u64) -> Look {
        Look { memory_bytes, memory_total_bytes: 16, busy_percent: 0 }
    }

    #[test]
    fn looks_come_one_by_one_until_nobody_wants_them() {
        let (gone, end) = channel::<()>();
        let mut next = 0;
        let mut looks = watch(move || {
            let _alive = &gone;
            next += 1;
            // Every other one fails.
            (next % 2 == 1).then(|| look(next))
        });
        let mut seen = Vec::new();
        wait_until("three looks", || {
            seen.extend(looks());
            (seen.len() == 3).then_some(())
        });
        assert_eq!(seen, [look(1), look(3), look(5)]);
        drop(looks);
        assert!(end.recv().is_err(), "the thread has ended");
    }

    #[test]
    fn nobody_waits_for_a_driver_that_does_not_answer() {
        let (_asked, answer) = channel::<Look>();
        let mut looks = watch(move || answer.recv().ok());
        assert_eq!(looks(), None);
    }

    #[test]
    fn usage_is_the_most_memory_and_the_mean_of_the_rest() {
        let mut usage = Usage::default();
        assert_eq!(usage.event(), None);
        for (memory_bytes, busy_percent) in [(3, 100), (9, 50), (5, 0)] {
            usage.add(Look { memory_bytes, memory_total_bytes: 16, busy_percent });
        }
        let expected = Event::DeviceUsed { memory_bytes: 9, memory_total_bytes: 16, utilization: 0.5 };
        assert_eq!(usage.event(), Some(expected));
    }
}
