//! The engine beside crun, runc and a bare C program that makes the same system calls:
//! the same bundle, in turns, on one machine.
//!
//! Everything is below one temporary directory and in control groups of its own, and
//! is gone afterwards.

#![allow(
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "a program for people"
)]

mod bundle;
mod engines;
mod ground;
mod hidden;
mod memory;
mod process;
mod report;

use std::{fs, path::PathBuf, process::ExitCode};

use anyhow::{Context as _, Result, bail, ensure};
use berth_integration::programs;
use clap::Parser;

use crate::{
    bundle::Bundle,
    engines::{Bare, CommandLine, Engine, ShimPath},
    ground::Ground,
    hidden::Hidden,
    report::Measured,
};

/// Turns of each engine that are not counted: caches are cold.
const WARM_UP: usize = 3;
/// Load above which figures are said to be of a busy machine, for each core.
const BUSY: f64 = 0.25;

/// Measure the engine beside crun, runc and a bare C program
#[derive(Debug, Parser)]
struct Cli {
    /// Which engines, separated by commas
    #[arg(
        long,
        value_delimiter = ',',
        default_value = "bare,berth-shim,berth-oci,crun,runc"
    )]
    engines: Vec<String>,
    /// Lives and execs of each
    #[arg(long, default_value_t = 100)]
    rounds: usize,
    /// Containers that run while a shim's memory is read; 0 leaves it out
    #[arg(long, default_value_t = 100)]
    containers: usize,
    /// Where results go
    #[arg(long)]
    out: PathBuf,
}

/// What every engine works in.
#[derive(Debug)]
struct Setting {
    bundle: Bundle,
    ground: Ground,
}

fn main() -> Result<ExitCode> {
    let cli = Cli::parse();
    ensure!(
        nix::unistd::geteuid().is_root(),
        "run this as root: namespaces, mounts and control groups need it"
    );
    fs::create_dir_all(&cli.out)?;
    let load = report::load()?;
    // Inits whose engine has left them end as ours.
    nix::sys::prctl::set_child_subreaper(true)?;
    let place = tempfile::Builder::new()
        .prefix("berth-be-")
        .tempdir_in("/var/tmp")?;
    let setting = Setting {
        bundle: Bundle::make(place.path())?,
        ground: Ground::make()?,
    };
    let done = measure(&cli, &setting);
    let cleared = setting.ground.clear();
    let (all, memory) = done?;
    cleared.context("clean up")?;
    place.close()?;
    print!(
        "{}\n{}",
        report::table(&all, &memory),
        report::goals(&all, &memory)
    );
    let file = cli.out.join("results.json");
    let json = report::json(&all, &memory);
    fs::write(&file, serde_json::to_vec_pretty(&json)?)?;
    fs::write(cli.out.join("results.md"), report::table(&all, &memory))?;
    println!("{}", file.display());
    let cores = std::thread::available_parallelism()?.get();
    #[allow(clippy::cast_precision_loss, reason = "a few cores")]
    if load > BUSY * cores as f64 {
        println!("the machine was busy (load {load:.2}): only the ratios mean something");
    }
    Ok(ExitCode::SUCCESS)
}

fn measure(cli: &Cli, setting: &Setting) -> Result<(Vec<Measured>, Vec<memory::Memory>)> {
    let programs = programs::directory()?;
    let mut shim = None;
    let mut others: Vec<Box<dyn Engine + '_>> = Vec::new();
    for name in &cli.engines {
        match name.as_str() {
            "bare" => others.push(Box::new(Bare::new(setting))),
            "berth-shim" => shim = Some(ShimPath::new(setting, &programs.join("berth-shim"))?),
            "berth-oci" => {
                let program = programs.join("berth-oci");
                others.push(Box::new(CommandLine::new(
                    "berth-oci",
                    program,
                    setting,
                    None,
                )));
            }
            "crun" => {
                let program = programs::tool("debian/usr/bin/crun")?;
                let hidden = Hidden::make()?;
                others.push(Box::new(CommandLine::new("crun", program, setting, hidden)));
            }
            "runc" => {
                let program = programs::tool("debian/usr/sbin/runc")?;
                others.push(Box::new(CommandLine::new("runc", program, setting, None)));
            }
            other => bail!("{other}: not one of bare, berth-shim, berth-oci, crun, runc"),
        }
    }
    let done = {
        let mut engines: Vec<&mut (dyn Engine + '_)> = Vec::new();
        for other in &mut others {
            engines.push(other.as_mut());
        }
        if let Some(shim) = &mut shim {
            engines.push(shim);
        }
        turns(cli, setting, &mut engines)
    };
    let memory = match &shim {
        Some(shim) if done.is_ok() && cli.containers > 0 => memory::measure(shim, cli.containers),
        _ => Ok(Vec::new()),
    };
    let ended = shim.map_or(Ok(()), ShimPath::shut_down);
    let result = (done?, memory?);
    ended?;
    Ok(result)
}

/// Each engine once in every round, so that all have the same weather.
fn turns(
    cli: &Cli,
    setting: &Setting,
    engines: &mut [&mut (dyn Engine + '_)],
) -> Result<Vec<Measured>> {
    let mut all: Vec<Measured> = engines
        .iter()
        .map(|engine| Measured {
            name: engine.name(),
            ..Measured::default()
        })
        .collect();
    for round in 0..cli.rounds + WARM_UP {
        for (engine, measured) in engines.iter_mut().zip(&mut all) {
            let before = setting.ground.cpu()?;
            let life = engine.life()?;
            if round >= WARM_UP {
                measured.lives.push(life);
                measured.life_cpu.push(setting.ground.cpu()? - before);
            }
        }
    }
    let settled = engines.iter_mut().try_for_each(|engine| engine.settle());
    let done = settled.and_then(|()| execs(cli, setting, engines, &mut all));
    for engine in engines {
        engine.unsettle()?;
    }
    done?;
    Ok(all)
}

fn execs(
    cli: &Cli,
    setting: &Setting,
    engines: &mut [&mut (dyn Engine + '_)],
    all: &mut [Measured],
) -> Result<()> {
    for round in 0..cli.rounds + WARM_UP {
        for (engine, measured) in engines.iter_mut().zip(&mut *all) {
            let before = setting.ground.cpu()?;
            let exec = engine.exec()?;
            if round >= WARM_UP {
                measured.execs.push(exec);
                measured.exec_cpu.push(setting.ground.cpu()? - before);
            }
        }
    }
    Ok(())
}
