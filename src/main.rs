//! `deem`: see `deem --help`.

fn main() -> std::process::ExitCode {
    deem::cli::run()
}
