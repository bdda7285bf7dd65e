//! The program: its file, arguments and environment.

use std::ffi::{CString, OsStr, OsString};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use crate::error::Error;
use crate::init;
use crate::plan::data::Plan;
use crate::plan::handles::Hold;
use crate::plan::numbers;
use crate::plan::text::{c_string, environment};
use crate::step::{CStrings, Exec, Step};

/// Returns the last step, which executes the program or the embedded init.
pub(super) fn program(plan: &Plan) -> Result<Step, Error> {
    let process = &plan.spec.process;
    let args = &process.args;
    let name = match args.first() {
        Some(program) => program.to_string_lossy().into_owned(),
        None => "the init alone".into(),
    };
    let arg = |(index, arg)| {
        c_string("process.args", arg).map_err(|e| e.with_field(format!("process.args[{index}]")))
    };
    let argv = args.iter().enumerate().map(arg).collect::<Result<Vec<_>, _>>()?;
    let candidates = match (&plan.file, args.first()) {
        (Some(file), _) => vec![c_string("process.args", file)?],
        (None, Some(program)) => candidates(program, &process.env)?,
        (None, None) => Vec::new(),
    };
    let envp = environment("process.env", &process.env)?;
    if !plan.spec.has_init() {
        return Ok(Step::Exec(Exec { name, candidates, file: None, argv: CStrings::new(argv), envp }));
    }
    let high = plan.highest_fd();
    let late = matches!(plan.held, Some(Hold::At(_)));
    let report = high + if late { numbers::LATE } else { numbers::REPORT };
    let (step, count) = (plan.steps.len(), candidates.len());
    let exit = high + numbers::EXIT;
    let (output, files, kib) = match &plan.log {
        Some(log) => (high + numbers::OUTPUT, log.count(), log.kib()),
        None => (-1, 0, 0),
    };
    let kill = if plan.kills_cgroup { high + numbers::KILL } else { -1 };
    let session = match (process.new_session, &process.terminal) {
        (_, Some(_)) => 2,
        (new, None) => i32::from(new),
    };
    let contract =
        format!("NSPOD_INIT={report}:{exit}:{step}:{count}:{output}:{files}:{kib}:{kill}:{session}");
    let mut init = vec![c"nspod-init".to_owned()];
    if !argv.is_empty() {
        init.push(c"--".to_owned());
        init.extend(argv);
    }
    let mut strings = vec![c_string("process.args", contract)?];
    strings.extend(candidates);
    strings.extend_from_slice(envp.strings());
    let (argv, envp) = (CStrings::new(init), CStrings::new(strings));
    Ok(Step::Exec(Exec { name, candidates: Vec::new(), file: Some(init::image(plan.above())?), argv, envp }))
}

/// Returns the paths that execvp(3) would try, with `PATH` from the program's environment.
fn candidates(program: &OsStr, env: &[(OsString, OsString)]) -> Result<Vec<CString>, Error> {
    if program.as_bytes().contains(&b'/') {
        return Ok(vec![c_string("process.args", program)?]);
    }
    let path = env.iter().rev().find(|(key, _)| key == "PATH").map(|(_, value)| value.as_os_str());
    let path = path.unwrap_or(OsStr::new(crate::spec::PATH));
    path.as_bytes()
        .split(|b| *b == b':')
        .filter(|dir| !dir.is_empty())
        .map(|dir| c_string("process.args", Path::new(OsStr::from_bytes(dir)).join(program)))
        .collect()
}
