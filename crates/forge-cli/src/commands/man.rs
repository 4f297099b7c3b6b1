//! `swe-forge man`: the manual, as pages for `man`.

use std::path::Path;

use clap::CommandFactory;
use clap_mangen::Man;

use crate::arguments::{Arguments, ManArguments};
use crate::error::CliError;
use crate::escape;
use crate::exit_status::ExitStatus;
use crate::session::Session;

pub(super) fn carry_out(
    session: &Session,
    arguments: ManArguments,
) -> Result<ExitStatus, CliError> {
    match arguments.to {
        Some(folder) => {
            write_all(&folder).map_err(CliError::file("write the manual to", &folder))?;
            let line = format!("the manual is in {}", escape::path(&folder));
            session.printer.progress(&line);
        }
        None => {
            let mut page = Vec::new();
            let rendered = Man::new(Arguments::command()).render(&mut page);
            rendered.map_err(CliError::Output)?;
            session.printer.bytes(&page)?;
        }
    }
    Ok(ExitStatus::Success)
}

fn write_all(folder: &Path) -> std::io::Result<()> {
    std::fs::create_dir_all(folder)?;
    clap_mangen::generate_to(Arguments::command(), folder)
}
