//! Gives memory back that a start or a reload needed, and an idle daemon does not.

use std::fs;
use std::ops::Range;

use nix::libc;

/// Gives free memory back to the kernel, and unmaps the pages of the program's own code. The kernel maps again what is used next, without a read of
/// the file, as long as the page cache has it. Takes a few milliseconds.
pub(crate) fn give_back_idle_memory() {
    // SAFETY: malloc_trim(3) may be called at any time, from any thread.
    unsafe { libc::malloc_trim(0) };
    let Some(code) = own_code() else { return };
    // SAFETY: the range is one whole mapping, of this program's file. It is private, and neither writable nor ever written: the relocations
    // of a position-independent program are outside of its code. So the kernel fills each page from the file again, with the same bytes.
    let result = unsafe { libc::madvise(code.start as *mut libc::c_void, code.len(), libc::MADV_DONTNEED) };
    if result != 0 {
        log::debug!("the pages of the program stay mapped: {}", std::io::Error::last_os_error());
    }
}

/// Where the mapping is that has this function.
fn own_code() -> Option<Range<usize>> {
    let here = give_back_idle_memory as fn() as usize;
    fs::read_to_string("/proc/self/maps").ok()?.lines().filter_map(code_mapping).find(|range| range.contains(&here))
}

/// The addresses of a line of proc_pid_maps(5) that is private code of a file. Pure.
fn code_mapping(line: &str) -> Option<Range<usize>> {
    let mut words = line.split_whitespace();
    let (start, end) = words.next()?.split_once('-')?;
    let is_code = words.next()? == "r-xp" && words.nth(3)?.starts_with('/');
    let address = |text| usize::from_str_radix(text, 16).ok();
    is_code.then_some(address(start)?..address(end)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_private_code_of_a_file_is_given_back() {
        let code = "5650a000-5650c000 r-xp 00052000 fe:00 131 /usr/sbin/reloader";
        assert_eq!(code_mapping(code), Some(0x5650_a000..0x5650_c000));
        for other in ["rw-p", "r--p", "r-xs", "rwxp"] {
            assert_eq!(code_mapping(&code.replace("r-xp", other)), None, "{other}");
        }
        assert_eq!(code_mapping("7ffe1000-7ffe3000 r-xp 00000000 00:00 0 [vdso]"), None);
        assert_eq!(code_mapping("7ffe1000-7ffe3000 r-xp 00000000 00:00 0"), None);
    }

    #[test]
    fn program_runs_on_after_its_code_was_unmapped() {
        let code = own_code().expect("the mapping of the test program");
        give_back_idle_memory();
        assert_eq!(own_code(), Some(code));
    }
}
