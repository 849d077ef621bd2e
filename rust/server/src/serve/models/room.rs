//! Who makes room for a model that is to be loaded: a pure decision.

use std::time::Instant;

/// A model that holds memory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Occupant {
    pub id: String,
    pub bytes: u64,
    /// Since when nobody uses it. None: it is answering, or being loaded or unloaded.
    pub idle_since: Option<Instant>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Room {
    /// After these, least recently used first, have gone, there is room.
    After(Vec<String>),
    /// There will be room when models that work now have finished.
    Later,
    /// It is larger than the budget.
    Never,
}

/// Room for `need` bytes within `budget`.
pub fn make_room(need: u64, budget: u64, occupants: &[Occupant]) -> Room {
    if need > budget {
        return Room::Never;
    }
    let mut used: u64 = occupants.iter().map(|occupant| occupant.bytes).sum();
    let mut idle: Vec<_> = occupants.iter().filter_map(|o| Some((o.idle_since?, o))).collect();
    idle.sort_by_key(|(since, _)| *since);
    let mut leaving = Vec::new();
    for (_, occupant) in idle {
        if used + need <= budget {
            break;
        }
        used -= occupant.bytes;
        leaving.push(occupant.id.clone());
    }
    match used + need <= budget {
        true => Room::After(leaving),
        false => Room::Later,
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn occupants(of: &[(&str, u64, Option<u64>)]) -> Vec<Occupant> {
        let base = Instant::now();
        let since = |secs: u64| base + Duration::from_secs(secs);
        of.iter().map(|&(id, bytes, idle)| Occupant { id: id.into(), bytes, idle_since: idle.map(since) }).collect()
    }

    #[test]
    fn the_least_recently_used_leave_first_and_no_more_than_needed() {
        let three = occupants(&[("new", 30, Some(9)), ("old", 30, Some(1)), ("middle", 30, Some(5))]);
        assert_eq!(make_room(10, 100, &three), Room::After(vec![]));
        assert_eq!(make_room(20, 100, &three), Room::After(vec!["old".into()]));
        assert_eq!(make_room(70, 100, &three), Room::After(vec!["old".into(), "middle".into()]));
        assert_eq!(make_room(100, 100, &three), Room::After(vec!["old".into(), "middle".into(), "new".into()]));
    }

    #[test]
    fn who_works_is_never_sent_away() {
        let two = occupants(&[("busy", 80, None), ("idle", 10, Some(1))]);
        assert_eq!(make_room(30, 100, &two), Room::Later);
        assert_eq!(make_room(20, 100, &two), Room::After(vec!["idle".into()]));
        assert_eq!(make_room(101, 100, &two), Room::Never);
    }
}
