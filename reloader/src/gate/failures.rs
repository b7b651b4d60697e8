//! Collects the errors of a cleanup, which goes on after a step that failed and reports every failure.

use std::error::Error;
use std::fmt::{self, Display, Formatter};
use std::io;

/// What stands between two errors in one line.
const SEPARATOR: &str = "; also: ";

/// Several errors, shown in one line. A sentence that occurs twice is shown once.
#[derive(Debug)]
pub struct ErrorList<E>(Vec<E>);

impl<E: Display> Display for ErrorList<E> {
    fn fmt(&self, formatter: &mut Formatter<'_>) -> fmt::Result {
        let mut sentences: Vec<String> = Vec::new();
        for sentence in self.0.iter().map(ToString::to_string) {
            if !sentences.contains(&sentence) {
                sentences.push(sentence);
            }
        }
        formatter.write_str(&sentences.join(SEPARATOR))
    }
}

impl<E: Error> Error for ErrorList<E> {}

impl From<ErrorList<io::Error>> for io::Error {
    fn from(errors: ErrorList<io::Error>) -> io::Error {
        io::Error::other(errors)
    }
}

/// One error for a step that failed, and for what failed when the step was undone.
pub(crate) fn joined<E: From<ErrorList<E>>>(error: E, further: Option<E>) -> E {
    match further {
        Some(further) => ErrorList(vec![error, further]).into(),
        None => error,
    }
}

/// The errors so far.
#[derive(Debug)]
pub(crate) struct Failures<E>(Vec<E>);

impl<E> Failures<E> {
    /// No error yet.
    pub(crate) fn new() -> Failures<E> {
        Failures(Vec::new())
    }

    /// Adds the error of a step. Returns what the step gave, and `None` where it failed.
    pub(crate) fn note<T>(&mut self, step: Result<T, impl Into<E>>) -> Option<T> {
        step.map_err(|error| self.0.push(error.into())).ok()
    }
}

impl<E: From<ErrorList<E>>> Failures<E> {
    /// One error stays as it is, several become a list. `None` where no step failed.
    pub(crate) fn into_error(mut self) -> Option<E> {
        if self.0.len() > 1 { Some(ErrorList(self.0).into()) } else { self.0.pop() }
    }

    /// What was done, unless a step failed.
    ///
    /// # Errors
    /// As [`into_error`](Self::into_error).
    pub(crate) fn into_result<T>(self, done: T) -> Result<T, E> {
        self.into_error().map_or(Ok(done), Err)
    }
}

impl<E> Extend<E> for Failures<E> {
    fn extend<I: IntoIterator<Item = E>>(&mut self, errors: I) {
        self.0.extend(errors);
    }
}

impl<E> FromIterator<E> for Failures<E> {
    fn from_iter<I: IntoIterator<Item = E>>(errors: I) -> Failures<E> {
        Failures(errors.into_iter().collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, thiserror::Error)]
    enum CleanupError {
        #[error("{0} stays")]
        Stays(&'static str),
        #[error(transparent)]
        Several(#[from] ErrorList<CleanupError>),
    }

    fn clean_up(stays: &[&'static str]) -> Result<usize, CleanupError> {
        stays.iter().map(|what| CleanupError::Stays(what)).collect::<Failures<_>>().into_result(7)
    }

    #[test]
    fn every_error_is_shown() {
        assert_eq!(clean_up(&["a", "b", "c"]).unwrap_err().to_string(), "a stays; also: b stays; also: c stays");
    }

    #[test]
    fn an_error_that_occurs_twice_is_shown_once() {
        assert_eq!(clean_up(&["a", "b", "a"]).unwrap_err().to_string(), "a stays; also: b stays");
    }

    #[test]
    fn one_error_stays_as_it_is() {
        assert!(matches!(clean_up(&["a"]), Err(CleanupError::Stays("a"))));
    }

    #[test]
    fn the_result_is_returned_where_nothing_failed() {
        assert_eq!(clean_up(&[]).unwrap(), 7);
    }
}
