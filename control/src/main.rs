//! The `lockgate` binary: parses the command line, runs it, ends with its exit code.
//!
//! Not here: anything else; the verbs are in `control::cli`.

use std::process::ExitCode;

use control::cli::{self, Exit};
use control::render::Out;

/// Buffers of mail data come and go with every message: measured, it costs a tenth of the time that
/// the system's allocator takes, and gives memory back.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    let cli = match cli::parse(std::env::args_os()) {
        Ok(cli) => cli,
        Err((error, exit)) => {
            // Standard output may be closed; the exit code says it all.
            error.print().ok();
            return exit.into();
        }
    };
    let mut out = Out::standard(cli.global.output);
    match start(cli, &mut out) {
        Ok(exit) => exit.into(),
        Err(error) => {
            // Standard error may be closed too.
            out.warn(&format!("lockgate: {}", told(&error))).ok();
            Exit::Error.into()
        }
    }
}

fn start(cli: cli::Cli, out: &mut Out) -> anyhow::Result<Exit> {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    runtime.block_on(cli::run(cli, out))
}

/// An error with its causes; one that already tells its cause does not tell it twice.
fn told(error: &anyhow::Error) -> String {
    let mut text = error.to_string();
    for cause in error.chain().skip(1).map(ToString::to_string) {
        if !text.contains(&cause) {
            text = format!("{text}: {cause}");
        }
    }
    text
}
