//! The `reloader` binary.

fn main() -> std::process::ExitCode {
    reloader::cli::main()
}
