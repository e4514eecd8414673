//! From files and flags to a [`Config`].

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use toml::de::DeTable;

use super::{
    Args, Config, DEFAULT_FILE, Finding, Findings, drop_in_directory, reader::File, schema,
};

/// Reads the configuration that `args` asks for.
///
/// # Errors
/// Every mistake of every file and flag at once.
pub(crate) fn load(args: &Args) -> Result<Config, Findings> {
    load_from(args.config.as_deref(), args)
}

/// As [`load`], with `file` instead of that of `args`. A missing default file
/// is no mistake; a missing file that somebody named is.
pub(super) fn load_from(file: Option<&Path>, args: &Args) -> Result<Config, Findings> {
    let mut config = Config::default();
    let mut findings = Vec::new();
    let main = file.unwrap_or(Path::new(DEFAULT_FILE));
    match read(main) {
        Ok(Some(text)) => findings.extend(apply(main, &text, &mut config)),
        Ok(None) if file.is_none() => {}
        Ok(None) => findings.push(whole_file(main, "there is no such file")),
        Err(error) => findings.push(whole_file(main, &error.to_string())),
    }
    match drop_ins(&drop_in_directory(main)) {
        Err(error) => {
            findings.push(whole_file(&drop_in_directory(main), &error.to_string()));
        }
        Ok(files) => {
            for path in files {
                match read(&path) {
                    Ok(text) => {
                        findings.extend(apply(&path, &text.unwrap_or_default(), &mut config));
                    }
                    Err(error) => findings.push(whole_file(&path, &error.to_string())),
                }
            }
        }
    }
    findings.extend(args.apply(&mut config));
    if findings.is_empty() {
        Ok(config)
    } else {
        Err(Findings(findings))
    }
}

fn whole_file(path: &Path, message: &str) -> Finding {
    Finding {
        file: Some(path.to_owned()),
        line: None,
        message: message.to_owned(),
    }
}

/// Applies the text of one file; returns what is wrong with it.
pub(super) fn apply(path: &Path, text: &str, config: &mut Config) -> Vec<Finding> {
    let mut file = File::new(path, text);
    // The parser goes on after a mistake, so that the rest is checked as well.
    let (table, errors) = DeTable::parse_recoverable(text);
    for error in errors {
        file.report(error.span(), error.message().to_owned());
    }
    let mistaken: Vec<_> = file.findings.iter().map(|finding| finding.line).collect();
    schema::apply(table.into_inner(), config, &mut file);
    // What the parser made of a line that it could not read is no second mistake.
    let mut seen = 0;
    file.findings.retain(|finding| {
        seen += 1;
        seen <= mistaken.len() || !mistaken.contains(&finding.line)
    });
    file.findings.sort_by_key(|finding| finding.line);
    file.findings
}

fn read(path: &Path) -> io::Result<Option<String>> {
    match fs::read_to_string(path) {
        Ok(text) => Ok(Some(text)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

fn drop_ins(directory: &Path) -> io::Result<Vec<PathBuf>> {
    let entries = match fs::read_dir(directory) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(error),
    };
    let mut files = Vec::new();
    for entry in entries {
        let path = entry?.path();
        if path
            .extension()
            .is_some_and(|extension| extension == "toml")
        {
            files.push(path);
        }
    }
    files.sort();
    Ok(files)
}
