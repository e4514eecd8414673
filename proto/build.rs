//! Compiles the schemas without protoc: protox parses, prost and tonic generate.

use std::{env, error::Error, fs, path::PathBuf};

fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo::rerun-if-changed=cri/v1/api.proto");
    println!("cargo::rerun-if-changed=berth/v1/berth.proto");
    println!("cargo::rerun-if-changed=shim/v1/shim.proto");
    let out = PathBuf::from(env::var_os("OUT_DIR").ok_or("OUT_DIR is not set")?);

    let shim = protox::compile(["shim/v1/shim.proto"], ["."])?;
    prost_build::Config::new().compile_fds(shim)?;

    if env::var_os("CARGO_FEATURE_GRPC").is_some() {
        let mut compiler = protox::Compiler::new(["."])?;
        compiler
            .include_imports(true)
            .open_files(["cri/v1/api.proto", "berth/v1/berth.proto"])?;
        // Encoded by protox: prost-types would drop options that it does not know, such as debug_redact.
        fs::write(out.join("grpc.fds"), compiler.encode_file_descriptor_set())?;
        let all = compiler.file_descriptor_set();

        let mut config = prost_build::Config::new();
        // Stable order on the wire and in print: equal requests have equal bytes.
        config.btree_map(["."]);
        // Secrets never reach a log line through a derived Debug.
        config.skip_debug([".runtime.v1.AuthConfig"]);
        tonic_prost_build::configure().compile_fds_with_config(all, config)?;
    }
    Ok(())
}
