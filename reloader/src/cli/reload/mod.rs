//! `reloader reload`: reloads a service, or all of them in their order, and waits for the outcome.

mod all;
mod arguments;
mod one;

use super::{CliError, Context, Exit};
pub(super) use arguments::Arguments;
use one::Reload;

pub(super) fn run(context: &Context, arguments: &Arguments) -> Result<Exit, CliError> {
    match arguments.all {
        true => all::run(context, arguments),
        false => Reload { context, arguments, one_of_all: None }.run(),
    }
}
