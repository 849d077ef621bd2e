//! The token loop allocates nothing but the rare doubling of a buffer.

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::sync::Arc;

use ferrule_engine::SamplingParams;
use ferrule_engine::config::Policy;
use ferrule_engine::ids::{RequestId, SequenceId};
use ferrule_engine::kv::KvGeometry;
use ferrule_engine::request::{Request, Task};
use ferrule_engine::sched::{Scheduler, SchedulerConfig, SchedulerOutput};
use ferrule_engine::sequence::Sequence;

thread_local! {
    static NUM_ALLOCATIONS: Cell<u64> = const { Cell::new(0) };
}

struct Counting;

// SAFETY: every call goes to the system's allocator unchanged; the counter is a thread-local without destructor.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        NUM_ALLOCATIONS.set(NUM_ALLOCATIONS.get() + 1);
        // SAFETY: the caller's promises are the system allocator's conditions.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, ptr: *mut u8, layout: Layout) {
        // SAFETY: `ptr` comes from `alloc` above, thus from the system's allocator, with this layout.
        unsafe { System.dealloc(ptr, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

fn request(id: u64) -> Request {
    Request {
        id: RequestId(id),
        prompt: (0..130).map(|position| id as u32 * 1000 + position).collect(),
        params: Arc::new(SamplingParams::greedy(128)),
        task: Task::Generate,
        priority: 0,
        cache_salt: None,
        seed: 0,
        max_len: 258,
    }
}

#[test]
fn decoding_does_not_allocate() {
    let config = SchedulerConfig {
        max_num_seqs: 32,
        max_num_batched_tokens: 8192,
        policy: Policy::Continuous,
        enable_prefix_caching: true,
        max_logit_rows: 32,
    };
    let mut scheduler = Scheduler::new(config, KvGeometry::new(4096, 16, &[None, Some(40)]));
    (0..32).for_each(|id| scheduler.add(Sequence::new(SequenceId(id), &request(id))));
    let mut step = SchedulerOutput::default();
    let mut num_allocating_steps = 0;
    for index in 0..100 {
        let before = NUM_ALLOCATIONS.get();
        scheduler.schedule(&mut step);
        scheduler.commit(&step);
        step.sequences.iter().for_each(|scheduled| scheduler.append(scheduled.id, 7));
        num_allocating_steps += u32::from(index > 1 && NUM_ALLOCATIONS.get() > before);
    }
    assert_eq!(step.sequences.len(), 32);
    assert!(NUM_ALLOCATIONS.get() > 0, "the counter counts");
    assert!(num_allocating_steps <= 5, "{num_allocating_steps} of 98 steps allocated");
}
