//! The program. Everything it does is in [`metagov::cli`].

fn main() -> std::process::ExitCode {
    #[cfg(feature = "failpoints")]
    let _armed = metagov::failpoint::arm();
    metagov::cli::main()
}
