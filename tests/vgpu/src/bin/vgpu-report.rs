//! Prints the table of a report: `vgpu-report FILE`, or standard input for `-`.

use std::io::Read;
use std::process::ExitCode;

fn main() -> ExitCode {
    let Some(path) = std::env::args().nth(1).filter(|path| !path.starts_with("--")) else {
        eprintln!(
            "usage: vgpu-report FILE\n\nFILE is what a program wrote that ran with VGPU_REPORT=FILE; `-` reads standard input."
        );
        return ExitCode::from(2);
    };
    match read(&path).and_then(|text| cuda::report::table(&text).map_err(|error| error.to_string())) {
        Ok(table) => {
            print!("{table}");
            ExitCode::SUCCESS
        }
        Err(problem) => {
            eprintln!("vgpu-report: {path}: {problem}");
            ExitCode::FAILURE
        }
    }
}

fn read(path: &str) -> Result<String, String> {
    let mut text = String::new();
    let read = if path == "-" {
        std::io::stdin().read_to_string(&mut text).map(|_| ())
    } else {
        std::fs::read_to_string(path).map(|read| text = read)
    };
    read.map(|()| text).map_err(|error| error.to_string())
}
