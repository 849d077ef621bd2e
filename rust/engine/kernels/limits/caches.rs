//! How large the caches are.

use std::fs;

/// Bytes for one thread that its L2 holds, with room for what else it needs.
pub fn working_set_in_l2() -> Option<usize> {
    cache_bytes(2).map(|bytes| bytes / 2)
}

/// Bytes for each of `threads` threads that a shared L3 holds, and the L2 does not.
pub fn working_set_in_l3(threads: usize) -> Option<usize> {
    let share = cache_bytes(3)? / 4 / threads;
    (share > 2 * cache_bytes(2)?).then_some(share)
}

/// Of the unified cache of this level that the first CPU uses.
fn cache_bytes(level: usize) -> Option<usize> {
    parse_size(&fs::read_to_string(format!("/sys/devices/system/cpu/cpu0/cache/index{level}/size")).ok()?)
}

/// `512K` and the like.
fn parse_size(text: &str) -> Option<usize> {
    let text = text.trim();
    let (number, unit) = text.split_at(text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len()));
    let unit = match unit {
        "" => 1,
        "K" => 1 << 10,
        "M" => 1 << 20,
        _ => return None,
    };
    number.parse::<usize>().ok()?.checked_mul(unit)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_read_as_the_kernel_writes_them() {
        assert_eq!(parse_size("512K\n"), Some(512 << 10));
        assert_eq!(parse_size("32M"), Some(32 << 20));
        assert_eq!(parse_size("64"), Some(64));
        assert_eq!(parse_size("x"), None);
        assert_eq!(parse_size("1T"), None);
    }
}
