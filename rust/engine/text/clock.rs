//! The local date and time as text.

use std::ffi::CString;

/// Longest text that a format may become.
const MAX_LEN: usize = 512;

/// The time now, through C's `strftime`, as Python's `datetime.now().strftime` does. None: too long, or not a
/// C string.
pub(super) fn format_now(format: &str) -> Option<String> {
    // A mark at the end tells an empty result from one that does not fit: strftime answers 0 to both.
    let format = CString::new(format!("{format}.")).ok()?;
    let mut buffer = [0u8; MAX_LEN];
    // SAFETY: `time` accepts null; `localtime_r` writes the whole of `now` or answers null, which is checked
    // before `now` is read; all-zero is a valid `tm`; `format` ends in NUL and `buffer` has MAX_LEN bytes.
    let len = unsafe {
        let seconds = libc::time(std::ptr::null_mut());
        let mut now: libc::tm = std::mem::zeroed();
        if libc::localtime_r(&seconds, &mut now).is_null() {
            return None;
        }
        libc::strftime(buffer.as_mut_ptr().cast(), MAX_LEN, format.as_ptr(), &now)
    };
    let text = String::from_utf8_lossy(&buffer[..len]);
    text.strip_suffix('.').map(str::to_owned)
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::*;

    #[test]
    fn agrees_with_the_date_command() {
        let date = || {
            let output = Command::new("date").arg("+%d %b %Y, %A %H:%M %j%%").env("LC_ALL", "C").output().unwrap();
            String::from_utf8(output.stdout).unwrap().trim_end().to_owned()
        };
        // Midnight, or a new minute, may pass between the two.
        assert!((0..3).any(|_| format_now("%d %b %Y, %A %H:%M %j%%").unwrap() == date()));
    }

    #[test]
    fn odd_formats_end_in_a_value_or_none() {
        assert_eq!(format_now(""), Some(String::new()));
        assert_eq!(format_now("a\0b"), None);
        assert_eq!(format_now("%100000d"), None);
    }
}
