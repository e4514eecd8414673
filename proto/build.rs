//! Compiles the schemas without protoc: protox parses, prost and tonic generate.

use std::{env, error::Error, fs, path::PathBuf};

use prost::Message as _;

fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo::rerun-if-changed=cri/v1/api.proto");
    println!("cargo::rerun-if-changed=berth/v1/berth.proto");
    println!("cargo::rerun-if-changed=shim/v1/shim.proto");
    let out = PathBuf::from(env::var_os("OUT_DIR").ok_or("OUT_DIR is not set")?);

    let shim = protox::compile(["shim/v1/shim.proto"], ["."])?;
    prost_build::Config::new().compile_fds(shim)?;

    if env::var_os("CARGO_FEATURE_GRPC").is_some() {
        let all = protox::compile(["cri/v1/api.proto", "berth/v1/berth.proto"], ["."])?;
        fs::write(out.join("grpc.fds"), all.encode_to_vec())?;

        let mut config = prost_build::Config::new();
        // Stable order on the wire and in print: equal requests have equal bytes.
        config.btree_map(["."]);
        // Secrets never reach a log line through a derived Debug.
        config.skip_debug([".runtime.v1.AuthConfig"]);
        tonic_prost_build::configure().compile_fds_with_config(all, config)?;
    }
    Ok(())
}
