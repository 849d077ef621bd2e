use std::sync::atomic::AtomicUsize;
use std::time::{Duration, Instant};

use super::*;

fn run_ok(pool: &Pool, job: &(dyn Fn(Lane<'_>) + Sync)) {
    pool.run(job).expect("no lane panics");
}

/// Every lane adds to its own cell between barriers and reads all cells after: a missed meeting shows.
fn check_lockstep(lanes: usize, rounds: usize) {
    let pool = Pool::new(lanes);
    let cells: Vec<AtomicUsize> = (0..lanes).map(|_| AtomicUsize::new(0)).collect();
    run_ok(&pool, &|lane| {
        for round in 1..=rounds {
            cells[lane.id].store(round, Ordering::Relaxed);
            lane.barrier();
            assert!(cells.iter().all(|cell| cell.load(Ordering::Relaxed) == round));
            lane.barrier();
        }
    });
}

#[test]
fn thousands_of_barriers_keep_lockstep() {
    check_lockstep(1, 10);
    check_lockstep(2, 5_000);
    check_lockstep(3, 500);
}

#[test]
fn more_lanes_than_cores_still_progress() {
    let begin = Instant::now();
    check_lockstep(8, 250);
    assert!(begin.elapsed() < Duration::from_secs(20), "500 barriers took {:?}", begin.elapsed());
}

#[test]
fn every_lane_runs_every_job() {
    for lanes in [1, 2, 4] {
        let pool = Pool::new(lanes);
        let ran: Vec<AtomicUsize> = (0..lanes).map(|_| AtomicUsize::new(0)).collect();
        for _ in 0..200 {
            run_ok(&pool, &|lane| {
                ran[lane.id].fetch_add(1, Ordering::Relaxed);
            });
        }
        assert!(ran.iter().all(|n| n.load(Ordering::Relaxed) == 200));
        assert_eq!(pool.num_lanes(), lanes);
    }
}

#[test]
fn jobs_reach_sleeping_lanes() {
    let pool = Pool::new(3);
    let ran = AtomicUsize::new(0);
    for _ in 0..5 {
        std::thread::sleep(Duration::from_millis(3));
        run_ok(&pool, &|lane| {
            if lane.id == 1 {
                std::thread::sleep(Duration::from_millis(3));
            }
            lane.barrier();
            ran.fetch_add(1, Ordering::Relaxed);
        });
    }
    assert_eq!(ran.load(Ordering::Relaxed), 15);
}

#[test]
fn a_panic_in_any_lane_at_any_barrier_ends_the_job_and_spares_the_pool() {
    for lanes in 1..=3 {
        let pool = Pool::new(lanes);
        for (culprit, at) in (0..lanes).flat_map(|lane| (0..4).map(move |at| (lane, at))) {
            let outcome = pool.run(&|lane| {
                for step in 0..4 {
                    if lane.id == culprit && step == at {
                        // No panic hook: dozens of traces would drown a real failure.
                        resume_unwind(Box::new(format!("lane {culprit} at {at}")));
                    }
                    lane.barrier();
                }
            });
            let text = outcome.expect_err("the panic is reported").to_string();
            assert!(text.contains(&format!("lane {culprit} at {at}")), "{text}");
            run_ok(&pool, &|lane| lane.barrier());
        }
    }
}

#[test]
fn all_lanes_may_panic_at_once() {
    let pool = Pool::new(3);
    for _ in 0..50 {
        let outcome = pool.run(&|_| resume_unwind(Box::new("boom")));
        assert!(matches!(outcome, Err(Error::Internal(text)) if text.contains("boom")));
    }
    run_ok(&pool, &|lane| lane.barrier());
}

#[test]
fn a_nested_job_is_refused() {
    for lanes in [1, 2] {
        let pool = Pool::new(lanes);
        run_ok(&pool, &|_| assert!(matches!(pool.run(&|_| ()), Err(Error::Internal(_)))));
        run_ok(&pool, &|_| ());
    }
}

#[test]
fn many_pools_live_side_by_side() {
    let total = AtomicUsize::new(0);
    std::thread::scope(|scope| {
        for _ in 0..6 {
            scope.spawn(|| {
                let pool = Pool::new(3);
                for _ in 0..20 {
                    run_ok(&pool, &|lane| {
                        lane.barrier();
                        total.fetch_add(1, Ordering::Relaxed);
                    });
                }
            });
        }
    });
    assert_eq!(total.load(Ordering::Relaxed), 6 * 20 * 3);
}

#[test]
fn lanes_have_names() {
    let pool = Pool::new(2);
    run_ok(&pool, &|lane| {
        if lane.id == 1 {
            assert_eq!(std::thread::current().name(), Some("ferrule-lane-1"));
        }
    });
}

#[test]
fn zero_threads_mean_one_lane() {
    assert_eq!(Pool::new(0).num_lanes(), 1);
    assert!(Pool::default_threads() >= 1);
}

#[test]
fn lanes_stay_near_their_memory_and_their_caller_does_not() {
    let nodes: Vec<Vec<usize>> = topology::nodes().into_iter().flatten().map(|cpu| vec![cpu]).collect();
    let lanes = nodes.len();
    if lanes < 2 {
        return;
    }
    let pool = Pool::at(lanes, topology::homes(&nodes, lanes));
    assert!(pool.spans_nodes());
    let before = topology::nodes();
    for _ in 0..50 {
        run_ok(&pool, &|lane| {
            assert_eq!(topology::current_cpu(), Some(nodes[lane.id][0]));
            lane.barrier();
        });
    }
    assert_eq!(topology::nodes(), before);
}
