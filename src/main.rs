//! The program. Everything it does is in [`metagov::cli`].

fn main() -> std::process::ExitCode {
    metagov::cli::main()
}
