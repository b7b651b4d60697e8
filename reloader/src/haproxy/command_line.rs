//! Reads the command line of a running HAProxy, so that the daemon's generations get the same files and options.
//!
//! Source: `init_args` in HAProxy's `haproxy.c`.

use std::path::{Path, PathBuf};

/// What a generation takes from the command line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CommandLine {
    /// HAProxy's program file.
    pub binary: PathBuf,
    /// Its configuration files.
    pub config: Vec<PathBuf>,
    /// Options that generations get, too.
    pub args: Vec<String>,
    /// The pid file (`-p`), which the daemon keeps with its own pid.
    pub pid_file: Option<PathBuf>,
    /// What matters to the operator and is not carried over, one sentence each.
    pub notes: Vec<String>,
}

/// Options with a value that have the same meaning for a generation.
const KEPT_OPTIONS_WITH_VALUE: [&str; 6] = ["-L", "-m", "-n", "-N", "-C", "-G"];

/// Reads the words of the command line. `binary` is the program file, because the first word may be any name.
///
/// # Errors
/// A sentence that says what cannot be carried over.
pub fn read(binary: &Path, words: &[String]) -> Result<CommandLine, String> {
    let mut line =
        CommandLine { binary: binary.into(), config: Vec::new(), args: Vec::new(), pid_file: None, notes: Vec::new() };
    let mut rest = words.iter().skip(1).peekable();
    while let Some(word) = rest.next() {
        let mut value = || {
            rest.next().cloned().ok_or_else(|| format!("`{word}` at the end of HAProxy's command line has no value"))
        };
        match word.as_str() {
            "-f" => line.config.push(absolute(value()?)?),
            "-p" => line.pid_file = Some(absolute(value()?)?),
            // The daemon passes sockets itself.
            "-x" => drop(value()?),
            "-sf" | "-st" => while rest.next_if(|next| next.parse::<u32>().is_ok()).is_some() {},
            "-S" => {
                let socket = value()?;
                let path = socket.split(',').next().unwrap_or_default();
                line.notes.push(format!(
                    "the master's CLI ({path}) ends with the master; use `reloader reload` and `reloader status` instead"
                ));
            }
            "-D" | "-W" | "-Ws" | "-db" => {}
            "--" => {
                for file in rest.by_ref() {
                    line.config.push(absolute(file.clone())?);
                }
            }
            option if KEPT_OPTIONS_WITH_VALUE.contains(&option) => {
                let value = value()?;
                line.args.extend([option.to_owned(), value]);
            }
            // Options of one word: -q, -V, -dM…, -de.
            option if ["-q", "-V"].contains(&option) || (option.starts_with("-d") && option.len() == 3) => {
                line.args.push(option.to_owned());
            }
            option if option.starts_with("-dM") => line.args.push(option.to_owned()),
            other => {
                return Err(format!(
                    "reloader does not know `{other}` on HAProxy's command line, and cannot pass it to a generation"
                ));
            }
        }
    }
    match line.config.is_empty() {
        true => Err("HAProxy's command line names no configuration file".into()),
        false => Ok(line),
    }
}

fn absolute(path: String) -> Result<PathBuf, String> {
    let path = PathBuf::from(path);
    match path.is_absolute() {
        true => Ok(path),
        false => Err(format!("HAProxy's configuration `{}` is not an absolute path", path.display())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read_line(line: &str) -> Result<CommandLine, String> {
        let words: Vec<String> = line.split(' ').map(str::to_owned).collect();
        read(Path::new("/usr/sbin/haproxy"), &words)
    }

    #[test]
    fn debian_command_line_after_a_reload_needs_no_configuration() {
        let line = read_line(
            "/usr/sbin/haproxy -sf 12 -x sockpair@3 -Ws -f /etc/haproxy/haproxy.cfg -p /run/haproxy.pid -S \
                          /run/haproxy-master.sock",
        )
        .unwrap();
        assert_eq!(line.config, [PathBuf::from("/etc/haproxy/haproxy.cfg")]);
        assert!(line.args.is_empty());
        assert_eq!(line.pid_file, Some("/run/haproxy.pid".into()));
        assert!(line.notes.len() == 1 && line.notes[0].contains("/run/haproxy-master.sock"), "{:?}", line.notes);
    }

    #[test]
    fn options_valid_for_a_generation_are_kept() {
        let line = read_line("haproxy -Ws -q -L here -dM -m 512 -f /a.cfg -- /b.cfg /c").unwrap();
        assert_eq!(line.args, ["-q", "-L", "here", "-dM", "-m", "512"]);
        assert_eq!(line.config, ["/a.cfg", "/b.cfg", "/c"].map(PathBuf::from));
    }

    #[test]
    fn unknown_options_are_refused() {
        assert!(read_line("haproxy -Ws -f /a.cfg --frobnicate").unwrap_err().contains("--frobnicate"));
        assert!(read_line("haproxy -Ws -f").is_err() && read_line("haproxy -Ws").is_err());
        assert!(read_line("haproxy -Ws -f a.cfg").unwrap_err().contains("absolute"));
    }
}
