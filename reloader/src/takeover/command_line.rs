//! What HAProxy's own command line says, as far as a generation of reloader's can carry it over. Pure.
//!
//! Source: `init_args` in HAProxy's `haproxy.c`.

use std::path::{Path, PathBuf};

/// What is carried over, and what is not.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Carried {
    /// The program.
    pub binary: PathBuf,
    /// Its configuration files.
    pub config: Vec<PathBuf>,
    /// Further arguments.
    pub args: Vec<String>,
    /// What goes, in sentences.
    pub notes: Vec<String>,
}

/// Options that are followed by a value and mean the same to a generation.
const WITH_VALUE: [&str; 6] = ["-L", "-m", "-n", "-N", "-C", "-G"];

/// Reads the words of a running HAProxy: `binary` is the program, as its relative name may be anything.
///
/// # Errors
/// A sentence: what cannot be carried over.
pub(super) fn read(binary: &Path, words: &[String]) -> Result<Carried, String> {
    let mut carried = Carried { binary: binary.into(), config: Vec::new(), args: Vec::new(), notes: Vec::new() };
    let mut rest = words.iter().skip(1).peekable();
    while let Some(word) = rest.next() {
        let mut value =
            || rest.next().cloned().ok_or_else(|| format!("`{word}` stands at the end of its command line"));
        match word.as_str() {
            "-f" => carried.config.push(absolute(value()?)?),
            // The process's own id and master are reloader's affair now.
            "-p" | "-x" => drop(value()?),
            "-sf" | "-st" => while rest.next_if(|next| next.parse::<u32>().is_ok()).is_some() {},
            "-S" => {
                let socket = value()?;
                let path = socket.split(',').next().unwrap_or_default();
                carried.notes.push(format!(
                    "the master's CLI ({path}) goes with the master: `reloader reload` and `reloader status` take its place"
                ));
            }
            "-D" | "-W" | "-Ws" | "-db" => {}
            "--" => {
                for file in rest.by_ref() {
                    carried.config.push(absolute(file.clone())?);
                }
            }
            option if WITH_VALUE.contains(&option) => {
                let value = value()?;
                carried.args.extend([option.to_owned(), value]);
            }
            // -q, -V, -dM…, -de: one word each.
            option if ["-q", "-V"].contains(&option) || (option.starts_with("-d") && option.len() == 3) => {
                carried.args.push(option.to_owned());
            }
            option if option.starts_with("-dM") => carried.args.push(option.to_owned()),
            other => {
                return Err(format!("it is not known what `{other}` on HAProxy's command line means to a generation"));
            }
        }
    }
    match carried.config.is_empty() {
        true => Err("HAProxy's command line names no configuration file".into()),
        false => Ok(carried),
    }
}

fn absolute(path: String) -> Result<PathBuf, String> {
    let path = PathBuf::from(path);
    match path.is_absolute() {
        true => Ok(path),
        false => Err(format!("its configuration `{}` is no absolute path", path.display())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(line: &str) -> Result<Carried, String> {
        let words: Vec<String> = line.split(' ').map(str::to_owned).collect();
        read(Path::new("/usr/sbin/haproxy"), &words)
    }

    #[test]
    fn debians_own_line_after_a_reload_is_the_default() {
        let carried =
            of("/usr/sbin/haproxy -sf 12 -x sockpair@3 -Ws -f /etc/haproxy/haproxy.cfg -p /run/haproxy.pid -S \
                          /run/haproxy-master.sock")
            .unwrap();
        assert_eq!(carried.config, [PathBuf::from("/etc/haproxy/haproxy.cfg")]);
        assert!(carried.args.is_empty());
        assert!(
            carried.notes.len() == 1 && carried.notes[0].contains("/run/haproxy-master.sock"),
            "{:?}",
            carried.notes
        );
    }

    #[test]
    fn what_means_the_same_is_kept() {
        let carried = of("haproxy -Ws -q -L here -dM -m 512 -f /a.cfg -- /b.cfg /c").unwrap();
        assert_eq!(carried.args, ["-q", "-L", "here", "-dM", "-m", "512"]);
        assert_eq!(carried.config, ["/a.cfg", "/b.cfg", "/c"].map(PathBuf::from));
    }

    #[test]
    fn what_is_not_known_is_refused() {
        assert!(of("haproxy -Ws -f /a.cfg --frobnicate").unwrap_err().contains("--frobnicate"));
        assert!(of("haproxy -Ws -f").is_err() && of("haproxy -Ws").is_err());
        assert!(of("haproxy -Ws -f a.cfg").unwrap_err().contains("absolute"));
    }
}
