//! The driver's binding. The emulated driver runs streams late, in a random order of those that events allow, so that a
//! forgotten event shows.

use std::path::Path;
use std::sync::Arc;

use ferrule_engine::config::Device;
use ferrule_engine::cuda;
use ferrule_engine::cuda::driver::{Context, DeviceBuffer, Driver, Event, PinnedBuffer, Stream};
use ferrule_engine::cuda::launch::{Embed, EmbedTable, Kernels};
use half::bf16;

use crate::emulated_device;

/// How often a race is tried.
const TRIES: i32 = 50;

fn context() -> Arc<Context> {
    cuda::open(Device::CudaEmu).expect("the emulator opens").context(0).expect("it has a device")
}

/// The library is missing, or is no driver: one sentence says so.
#[test]
fn a_missing_driver_is_one_sentence() {
    let error = Driver::open(Path::new("/nonexistent/libcuda.so.1")).unwrap_err().to_string();
    assert!(error.starts_with("no CUDA driver: /nonexistent/libcuda.so.1") && !error.contains('\n'), "{error}");
    let error = Driver::open(Path::new("libc.so.6")).unwrap_err().to_string();
    assert!(error.contains("libc.so.6 is too old: it lacks cuInit") && error.contains("CUDA 12.0"), "{error}");
}

#[test]
fn a_device_says_what_it_is() {
    let Some(_device) = emulated_device() else { return };
    let driver = cuda::open(Device::CudaEmu).unwrap();
    assert!(driver.version().unwrap() >= (12, 0));
    let devices = driver.devices().unwrap();
    assert_eq!(devices[0].ordinal, 0);
    assert!(devices[0].capability >= (8, 0) && devices[0].memory_bytes > 0 && devices[0].num_multiprocessors > 0);
    let error = driver.context(devices.len()).unwrap_err().to_string();
    assert!(error.contains(&format!("no device number {}", devices.len())), "{error}");
}

#[test]
fn memory_keeps_what_is_copied_to_it() {
    let Some(_device) = emulated_device() else { return };
    let values: Vec<i32> = (0..1000).collect();
    let buffer = DeviceBuffer::from_slice(&context(), &values).unwrap();
    assert_eq!(buffer.to_vec().unwrap(), values);
    assert_eq!((buffer.len(), buffer.num_bytes(), buffer.slice(10..30).len()), (1000, 4000, 20));
}

/// How often a copy in one stream sees what a copy in another one brought.
fn times_seen(order: impl Fn(&Event, &Stream, &Stream)) -> i32 {
    let context = context();
    let [first, second] = [(); 2].map(|()| Stream::new(&context).unwrap());
    let event = Event::new(&context).unwrap();
    let [mut from, mut to] = [(); 2].map(|()| PinnedBuffer::<i32>::new(&context, 4).unwrap());
    let device = DeviceBuffer::from_slice(&context, &[0; 4]).unwrap();
    let mut seen = 0;
    for i in 1..=TRIES {
        from.wait().unwrap().fill(i);
        from.upload(device.all(), &first).unwrap();
        order(&event, &first, &second);
        to.download(device.all(), &second).unwrap();
        seen += i32::from(to.wait().unwrap() == [i; 4]);
        context.synchronize().unwrap();
    }
    seen
}

#[test]
fn an_event_orders_streams_and_without_it_the_emulator_shows_the_race() {
    let Some(_device) = emulated_device() else { return };
    let ordered = times_seen(|event, first, second| {
        event.record(first).unwrap();
        second.wait(event).unwrap();
    });
    assert_eq!(ordered, TRIES);
    assert!(times_seen(|_, _, _| ()) < TRIES);
}

#[test]
fn a_recording_refuses_to_wait_and_leaves_nothing_behind() {
    let Some(_device) = emulated_device() else { return };
    let stream = Stream::new(&context()).unwrap();
    let refused = stream.capture(|| stream.synchronize()).unwrap_err().to_string();
    assert!(refused.contains("cuStreamSynchronize"), "{refused}");
    stream.capture(|| Ok(())).expect("the stream records again");
    stream.synchronize().unwrap();
}

/// A device that a kernel has broken stays broken, so this is done in another process.
#[test]
fn a_failed_kernel_is_one_error_that_stays() {
    let Some(_device) = emulated_device() else { return };
    let test = std::env::current_exe().expect("tests know their program");
    let args = ["--ignored", "--exact", "driver::break_the_device"];
    let output = std::process::Command::new(test).args(args).output().expect("the test runs once more");
    let report = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success() && report.contains("1 passed"), "{report}");
}

#[test]
#[ignore = "breaks the emulated device for all tests of its process"]
fn break_the_device() {
    let context = context();
    let kernels = Kernels::load(&context, |_| Ok(vec![0])).unwrap();
    let stream = Stream::new(&context).unwrap();
    let tokens = DeviceBuffer::from_slice(&context, &[i32::MAX]).unwrap();
    let table = DeviceBuffer::from_slice(&context, &[bf16::ONE; 64]).unwrap();
    let residual = DeviceBuffer::from_slice(&context, &[0.0_f32; 8]).unwrap();
    let (scale, hidden_size) = (1.0, 8);
    let sources = DeviceBuffer::from_slice(&context, &[-1]).unwrap();
    let (sources, chosen) = (sources.all(), sources.all());
    let (tokens, table, residual) = (tokens.all(), EmbedTable::Bf16(table.all()), residual.all());
    let call = Embed { tokens, sources, chosen, table, residual, scale, hidden_size };
    // A launch that comes back has only been put in the stream.
    let failed = kernels.launch(&call, &stream).and_then(|()| stream.synchronize()).unwrap_err().to_string();
    assert!(failed.contains("(700)"), "{failed}");
    let again = stream.synchronize().unwrap_err().to_string();
    assert!(again.contains("(700)"), "{again}");
}
