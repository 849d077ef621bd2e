//! How many cores this process may use.

use std::collections::BTreeSet;

/// Logical CPUs within the affinity mask and the cgroup's quota, both of which the standard library honours.
pub(super) fn allowed_cpus() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from)
}

/// Distinct cores among the logical CPUs of the affinity mask; None where the system does not tell.
pub(super) fn physical_cores() -> Option<usize> {
    one_cpu_per_core(&affinity()?, siblings).map(|cpus| cpus.len())
}

/// Keeps the calling thread on the `nth` core, counted round and round. Does nothing where the system does not tell
/// or does not let.
pub(in crate::kernels) fn stay_on_core(nth: usize) {
    if let Some(cpus) = affinity().and_then(|cpus| one_cpu_per_core(&cpus, siblings)) {
        stay_on(&[cpus[nth % cpus.len()]]);
    }
}

/// CPUs that this process may use, by the memory that is near them; nothing where the system does not tell.
pub(super) fn nodes() -> Vec<Vec<usize>> {
    affinity().map_or(Vec::new(), |cpus| cpus_of_nodes(&cpus, cpulist))
}

/// Those of `cpus` that each node's list has, up to the first node without one; nodes without any are left out.
fn cpus_of_nodes(cpus: &[usize], list: impl Fn(usize) -> Option<String>) -> Vec<Vec<usize>> {
    let lists = (0..).map_while(list);
    let among = |list: String| cpus.iter().copied().filter(|&cpu| names(&list, cpu)).collect::<Vec<_>>();
    lists.map(among).filter(|cpus| !cpus.is_empty()).collect()
}

/// Whether a list such as `0-3,8` has this CPU.
fn names(list: &str, cpu: usize) -> bool {
    list.trim().split(',').any(|range| {
        let (first, last) = range.split_once('-').unwrap_or((range, range));
        matches!((first.parse(), last.parse()), (Ok(first), Ok(last)) if (first..=last).contains(&cpu))
    })
}

/// Nodes are numbered without gaps, but for those that were taken out of a running machine.
fn cpulist(node: usize) -> Option<String> {
    std::fs::read_to_string(format!("/sys/devices/system/node/node{node}/cpulist")).ok()
}

/// The CPUs near which each of `count` lanes stays: lanes are spread over all CPUs in the order of their nodes. Nothing where that
/// is one node for all.
pub(super) fn homes(nodes: &[Vec<usize>], count: usize) -> Vec<Vec<usize>> {
    let num_cpus: usize = nodes.iter().map(Vec::len).sum();
    let of_cpus: Vec<_> = nodes.iter().flat_map(|node| std::iter::repeat_n(node, node.len())).collect();
    let homes: Vec<_> = (0..count).filter_map(|lane| of_cpus.get(lane * num_cpus / count)).collect();
    match homes.iter().all(|home| *home == homes[0]) {
        true => Vec::new(),
        false => homes.into_iter().map(|home| home.to_vec()).collect(),
    }
}

/// Keeps the calling thread on some CPUs for a while.
pub(super) struct Stay(Option<Vec<usize>>);

impl Stay {
    pub(super) fn on(cpus: &[usize]) -> Self {
        let before = affinity();
        if before.is_some() {
            stay_on(cpus);
        }
        Self(before)
    }
}

impl Drop for Stay {
    fn drop(&mut self) {
        if let Some(before) = &self.0 {
            stay_on(before);
        }
    }
}

/// The CPU that runs the calling thread now.
#[cfg(target_os = "linux")]
pub(super) fn current_cpu() -> Option<usize> {
    // SAFETY: it takes nothing, and answers -1 where it fails.
    usize::try_from(unsafe { libc::sched_getcpu() }).ok()
}

#[cfg(not(target_os = "linux"))]
pub(super) fn current_cpu() -> Option<usize> {
    None
}

/// Moves the calling thread to a CPU that is none of `taken`, and returns which. From there it may go where it might before.
/// None: there is no other.
pub(super) fn leave(taken: &[usize]) -> Option<usize> {
    let all = affinity()?;
    let others: Vec<_> = all.iter().copied().filter(|cpu| !taken.contains(cpu)).collect();
    if others.is_empty() {
        return None;
    }
    stay_on(&others);
    let cpu = current_cpu();
    stay_on(&all);
    cpu
}

fn siblings(cpu: usize) -> Option<String> {
    std::fs::read_to_string(format!("/sys/devices/system/cpu/cpu{cpu}/topology/thread_siblings_list")).ok()
}

/// The first CPU of each core, at least one: CPUs with the same list of siblings are one core.
fn one_cpu_per_core(cpus: &[usize], siblings: impl Fn(usize) -> Option<String>) -> Option<Vec<usize>> {
    let mut seen = BTreeSet::new();
    let mut firsts = Vec::new();
    for &cpu in cpus {
        if seen.insert(siblings(cpu)?) {
            firsts.push(cpu);
        }
    }
    (!firsts.is_empty()).then_some(firsts)
}

/// Keeps the calling thread on these CPUs, as far as the system lets.
#[cfg(target_os = "linux")]
pub(super) fn stay_on(cpus: &[usize]) {
    // SAFETY: cpu_set_t is plain bits, for which zero is a value.
    let mut set: libc::cpu_set_t = unsafe { std::mem::zeroed() };
    for &cpu in cpus {
        // SAFETY: `affinity` gave the CPU, whose number is below the set's size.
        unsafe { libc::CPU_SET(cpu, &mut set) };
    }
    // SAFETY: the pointer and the size are those of `set`; pid 0 is the calling thread. A refusal changes nothing.
    unsafe { libc::sched_setaffinity(0, size_of_val(&set), &set) };
}

#[cfg(not(target_os = "linux"))]
pub(super) fn stay_on(_: &[usize]) {}

#[cfg(target_os = "linux")]
fn affinity() -> Option<Vec<usize>> {
    // SAFETY: cpu_set_t is plain bits, for which zero is a value.
    let mut set: libc::cpu_set_t = unsafe { std::mem::zeroed() };
    // SAFETY: the pointer and the size are those of `set`; pid 0 is the calling thread.
    let failed = unsafe { libc::sched_getaffinity(0, size_of_val(&set), &mut set) } != 0;
    // SAFETY: every index is below the set's size.
    let has = |&cpu: &usize| unsafe { libc::CPU_ISSET(cpu, &set) };
    (!failed).then(|| (0..libc::CPU_SETSIZE as usize).filter(has).collect())
}

#[cfg(not(target_os = "linux"))]
fn affinity() -> Option<Vec<usize>> {
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hyperthreads_count_once() {
        let pairs = |cpu: usize| Some(format!("{},{}\n", cpu % 4, cpu % 4 + 4));
        assert_eq!(one_cpu_per_core(&[0, 1, 2, 3, 4, 5, 6, 7], pairs), Some(vec![0, 1, 2, 3]));
        assert_eq!(one_cpu_per_core(&[1, 5, 6], pairs), Some(vec![1, 6]));
    }

    #[test]
    fn nodes_have_the_cpus_of_their_lists() {
        let lists = ["0-3,8-11\n", "\n", "4-7,12"];
        let list = |node: usize| lists.get(node).map(|list| list.to_string());
        let all: Vec<_> = (0..16).collect();
        assert_eq!(cpus_of_nodes(&all, list), [vec![0, 1, 2, 3, 8, 9, 10, 11], vec![4, 5, 6, 7, 12]]);
        assert_eq!(cpus_of_nodes(&[1, 5, 6], list), [vec![1], vec![5, 6]]);
        assert!(cpus_of_nodes(&all, |_| None).is_empty());
        assert!(nodes().iter().flatten().all(|cpu| affinity().unwrap().contains(cpu)));
    }

    #[test]
    fn lanes_are_spread_over_nodes_and_stay_where_there_is_one() {
        let nodes = [vec![0, 1, 2, 3], vec![4, 5], vec![6, 7]];
        let node = |lane: usize| nodes.iter().position(|node| *node == homes(&nodes, 4)[lane]).unwrap();
        assert_eq!([0, 1, 2, 3].map(node), [0, 0, 1, 2]);
        assert_eq!(homes(&nodes, 2), [nodes[0].clone(), nodes[1].clone()]);
        for count in [0, 1] {
            assert!(homes(&nodes, count).is_empty());
        }
        assert!(homes(&nodes[..1], 4).is_empty() && homes(&[], 4).is_empty());
    }

    #[test]
    fn who_stays_may_go_again() {
        let Some(all) = affinity() else { return };
        for cpu in &all {
            let stay = Stay::on(&[*cpu]);
            assert_eq!((affinity(), current_cpu()), (Some(vec![*cpu]), Some(*cpu)));
            drop(stay);
            assert_eq!(affinity(), Some(all.clone()));
        }
    }

    #[test]
    fn who_leaves_a_cpu_goes_on_elsewhere_and_may_come_back() {
        let Some(all) = affinity() else { return };
        let (here, others) = (&all[..1], &all[1..]);
        assert_eq!(leave(&all), None);
        for taken in [here, others].into_iter().filter(|taken| taken.len() < all.len()) {
            let cpu = leave(taken).unwrap();
            assert!(all.contains(&cpu) && !taken.contains(&cpu), "{cpu}");
            assert_eq!(affinity(), Some(all.clone()));
        }
    }

    #[test]
    fn silence_is_not_a_count() {
        assert_eq!(one_cpu_per_core(&[0, 1], |cpu| (cpu == 0).then(|| "0".into())), None);
        assert_eq!(one_cpu_per_core(&[], |_| None), None);
    }

    #[test]
    fn this_machine_has_a_core() {
        let cpus = allowed_cpus();
        assert!(cpus >= 1);
        assert!(physical_cores().is_none_or(|cores| cores >= 1));
    }
}
