//! Reads HAProxy's program, files and options from the command line of its unit, whose variables are in environment files. Both are read again
//! at each reload, as systemd reads them at each start.

use std::cell::RefCell;
use std::collections::BTreeSet;
use std::io;
use std::path::{Path, PathBuf};

use super::command_line;
use super::environment_file::variables;
use crate::config::Haproxy;
use crate::fs::read_plain;

/// The longest environment file, in bytes.
const LONGEST: u64 = 1 << 20;

/// The settings with the program, the files and the options of the unit's command line, where the configuration names one. It blocks.
///
/// # Errors
/// A sentence.
pub fn resolve(haproxy: &Haproxy) -> Result<Haproxy, String> {
    let Some(unit) = &haproxy.unit_command else { return Ok(haproxy.clone()) };
    let mut environment = unit.default_environment.clone();
    environment.retain(|name, _| std::env::var_os(name).is_none());
    environment.extend(read_environment(&unit.environment_files)?);
    let value = |name: &str| environment.get(name).cloned().or_else(|| std::env::var(name).ok());
    let mut words = expand(&unit.line, value);
    let prefixes = prefixes(&unit.line);
    let program = words.first().map(|word| PathBuf::from(&word[prefixes.len().min(word.len())..]));
    // After the prefix `@` the second word is the process's name.
    if prefixes.contains('@') && words.len() > 1 {
        words.remove(1);
    }
    let program = program.filter(|program| program.is_absolute()).ok_or_else(|| {
        format!("haproxy.command-line: `{}` does not begin with the absolute path of a program", unit.line)
    })?;
    let line = command_line::read(&program, &words).map_err(|why| format!("haproxy.command-line: {why}"))?;
    Ok(Haproxy { binary: line.binary, config: line.config, args: line.args, environment, ..haproxy.clone() })
}

/// The prefixes of a command line (systemd.service(5)).
pub fn prefixes(line: &str) -> &str {
    let bare = line.trim_start_matches(['@', '-', ':', '+', '!', '|']);
    &line[..line.len() - bare.len()]
}

/// A command line without its prefixes.
pub fn without_prefixes(line: &str) -> &str {
    &line[prefixes(line).len()..]
}

/// The variables of these files, in their order. A file whose name follows a `-` need not exist.
fn read_environment(files: &[String]) -> Result<Vec<(String, String)>, String> {
    let mut all = Vec::new();
    for file in files {
        let (path, may_lack) = file.strip_prefix('-').map_or((file.as_str(), false), |path| (path, true));
        match read_text(Path::new(path)) {
            Ok(text) => all.extend(variables(&text)),
            Err(error) if error.kind() == io::ErrorKind::NotFound && path.contains(['*', '?', '[']) => {
                return Err(format!("haproxy.environment-files: {path} is a pattern: name each file"));
            }
            Err(error) if may_lack && error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(format!("haproxy.environment-files: cannot read {path}: {error}")),
        }
    }
    Ok(all)
}

fn read_text(path: &Path) -> io::Result<String> {
    String::from_utf8(read_plain(path, LONGEST)?).map_err(io::Error::other)
}

/// The variables of one `Environment=`. One whose value has a specifier of systemd, such as `%i`, is left out.
pub fn assignments(value: &str) -> Vec<(String, String)> {
    let words = split(value);
    let pairs = words.iter().filter_map(|word| word.split_once('='));
    let known = pairs.filter(|(_, value)| !value.replace("%%", "").contains('%'));
    known.map(|(name, value)| (name.to_owned(), value.replace("%%", "%"))).collect()
}

/// The variables that decide what a command line says.
pub fn names_in(line: &str) -> BTreeSet<String> {
    let names = RefCell::new(BTreeSet::new());
    expand(line, |name| {
        names.borrow_mut().insert(name.to_owned());
        None
    });
    names.into_inner()
}

/// Splits a command line and replaces its variables (systemd.service(5), "Command lines"): `${NAME}` is replaced within a word, and `$NAME` as a
/// word of its own by any number of words. Pure.
fn expand(line: &str, value: impl Fn(&str) -> Option<String>) -> Vec<String> {
    let mut words = Vec::new();
    for word in split(line) {
        let alone = word.strip_prefix('$').filter(|name| !name.is_empty() && name.chars().all(is_of_name));
        match alone {
            // Quotes within the value keep words together.
            Some(name) => words.extend(split(&value(name).unwrap_or_default())),
            None => words.push(with_values(&word, &value)),
        }
    }
    words
}

/// The words of a text. Other than in HAProxy's configuration, `#` begins no comment.
fn split(text: &str) -> Vec<String> {
    super::words::words_before(text, None)
}

fn is_of_name(letter: char) -> bool {
    letter.is_ascii_alphanumeric() || letter == '_'
}

fn with_values(word: &str, value: &impl Fn(&str) -> Option<String>) -> String {
    let mut text = String::new();
    let mut rest = word;
    while let Some((before, after)) = rest.split_once('$') {
        text.push_str(before);
        rest = match (after.strip_prefix('{').and_then(|inner| inner.split_once('}')), after.strip_prefix('$')) {
            (Some((name, behind)), _) => {
                text.push_str(&value(name).unwrap_or_default());
                behind
            }
            (None, Some(behind)) => {
                text.push('$');
                behind
            }
            (None, None) => {
                text.push('$');
                after
            }
        };
    }
    text + rest
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;
    use crate::config::UnitCommand;

    fn value(name: &str) -> Option<String> {
        let known =
            [("CONFIG", "/etc/haproxy/haproxy.cfg"), ("EXTRAOPTS", "-S /run/m.sock -m 512"), ("DIR", "/etc/x y")];
        known.iter().find(|(known, _)| *known == name).map(|(_, value)| (*value).to_owned())
    }

    #[test]
    fn variables_are_replaced_as_systemd_does() {
        let words = |line: &str| expand(line, value);
        assert_eq!(
            words("/usr/sbin/haproxy -Ws -f $CONFIG $EXTRAOPTS $NONE"),
            ["/usr/sbin/haproxy", "-Ws", "-f", "/etc/haproxy/haproxy.cfg", "-S", "/run/m.sock", "-m", "512"]
        );
        assert_eq!(
            words("a ${DIR}/b '${CONFIG}' $$HOME x#y"),
            ["a", "/etc/x y/b", "/etc/haproxy/haproxy.cfg", "$HOME", "x#y"]
        );
        assert_eq!(words("a 'x #y' # z"), ["a", "x #y", "#", "z"]);
        let quoted = |_: &str| Some("-m 512 -L 'my host'".to_owned());
        assert_eq!(expand("a $EXTRAOPTS", quoted), ["a", "-m", "512", "-L", "my host"]);
    }

    #[test]
    fn later_files_count_and_missing_ones_may() {
        let directory = tempfile::tempdir().unwrap();
        let path = |name: &str| directory.path().join(name).display().to_string();
        fs::write(path("one"), "CONFIG=/one.cfg\nARGS=-q\n").unwrap();
        fs::write(path("two"), "CONFIG=/two.cfg\n").unwrap();
        let command = |files: Vec<String>| UnitCommand {
            line: "/usr/sbin/haproxy -Ws -f $CONFIG $ARGS".into(),
            environment_files: files,
            default_environment: [("CONFIG".to_owned(), "/default.cfg".to_owned())].into(),
        };
        let haproxy = |files| Haproxy { unit_command: Some(command(files)), ..Haproxy::default() };
        let found = resolve(&haproxy(vec![path("one"), format!("-{}", path("none")), path("two")])).unwrap();
        assert_eq!((found.config, found.args), (vec![PathBuf::from("/two.cfg")], vec!["-q".to_owned()]));
        assert!(resolve(&haproxy(vec![path("none")])).unwrap_err().contains("cannot read"));
        assert!(resolve(&haproxy(vec![format!("-{}", path("*"))])).unwrap_err().contains("name each file"));
        let found = resolve(&haproxy(vec![])).unwrap();
        assert_eq!(found.config, [PathBuf::from("/default.cfg")]);
        assert_eq!(found.environment, [("CONFIG".to_owned(), "/default.cfg".to_owned())].into());
        let mut named = haproxy(vec![path("one")]);
        named.unit_command.as_mut().unwrap().line = "!@/usr/sbin/haproxy lb -Ws -f $CONFIG $ARGS".into();
        let found = resolve(&named).unwrap();
        assert_eq!((found.binary, found.config), ("/usr/sbin/haproxy".into(), vec![PathBuf::from("/one.cfg")]));
        let mut bare = haproxy(vec![]);
        bare.unit_command.as_mut().unwrap().default_environment.clear();
        assert!(resolve(&bare).unwrap_err().contains("command-line"), "no variable is set");
    }
}
