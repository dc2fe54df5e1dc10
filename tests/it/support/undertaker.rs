//! Ends the processes that a killed test process leaves behind.
//!
//! A shell learns the process ids through its standard input; when that ends without a process having been taken back,
//! the process is killed. (Kinto and PostgreSQL watch their own standard input; the sidecar has no reason to.)

use std::io::Write;
use std::process::{Child, Command, Stdio};
use std::sync::{LazyLock, Mutex, PoisonError};

static UNDERTAKER: LazyLock<Mutex<Child>> = LazyLock::new(|| {
    let script = r#"
        trap '' INT TERM HUP
        living=" "
        while read -r sign process; do
            case $sign in
                +) living="$living$process " ;;
                -) living="${living%% $process *} ${living#* $process }" ;;
            esac
        done
        [ "$living" = " " ] || kill -KILL $living 2>/dev/null
    "#;
    let shell = Command::new("sh").args(["-c", script]).stdin(Stdio::piped()).spawn();
    Mutex::new(shell.unwrap())
});

/// Starts a process that is spoken with through its standard streams, and ends with this one.
pub fn piped(command: &mut Command) -> Child {
    let command = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null());
    let process = command.spawn().unwrap();
    watch(&process);
    process
}

/// From now on the process ends with this one.
pub fn watch(process: &Child) {
    tell(&format!("+ {}\n", process.id()));
}

/// The process has ended.
pub fn release(process: &Child) {
    tell(&format!("- {}\n", process.id()));
}

fn tell(line: &str) {
    let mut undertaker = UNDERTAKER.lock().unwrap_or_else(PoisonError::into_inner);
    undertaker.stdin.as_mut().unwrap().write_all(line.as_bytes()).unwrap();
}
