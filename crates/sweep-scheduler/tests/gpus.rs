//! Slots on the GPUs that the driver of this machine lists, be it a real one or an emulated one.
#![cfg(feature = "cuda")]

use sweep_scheduler::{DevicesError, Slot, SlotRequest, every_gpu, gpus};

#[test]
#[ignore = "asks the driver of this machine, which must have a GPU"]
fn every_gpu_is_a_slot_and_no_other_is() {
    let gpus = gpus().unwrap();
    assert!(!gpus.is_empty(), "the driver lists no GPU");
    for gpu in &gpus {
        assert!(gpu.uuid.starts_with("GPU-") && !gpu.name.is_empty() && gpu.memory_bytes > 0, "{gpu:?}");
    }
    let plan = |devices: &str| {
        Slot::plan(&SlotRequest {
            devices,
            threads: None,
            cores: 4,
            visible_devices: None,
            gpus: Some(&gpus),
        })
    };
    assert_eq!(plan(&every_gpu(&gpus, None)).unwrap().len(), gpus.len());
    assert_eq!(plan("cuda:0*3").unwrap().len(), 3);
    let beyond = format!("cuda:{}", gpus.len());
    assert!(matches!(plan(&beyond), Err(DevicesError::Missing { .. })));
}
