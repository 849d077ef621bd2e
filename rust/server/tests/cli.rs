//! The built binary, as a shell sees it.

use std::io::Write;
use std::path::Path;
use std::process::{Command, Output, Stdio};

use serde_json::Value;

/// The command with a store of its own, and no network.
fn ferrule(home: &Path, args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_ferrule"));
    command.args(args).stdin(Stdio::null()).env("FERRULE_HOME", home).env("HF_HUB_OFFLINE", "1");
    command.env("FERRULE_PYTHON", "no-such-python");
    command
}

fn run(args: &[&str]) -> Output {
    let home = tempfile::tempdir().unwrap();
    ferrule(home.path(), args).output().unwrap()
}

fn stdout(output: &Output) -> String {
    String::from_utf8(output.stdout.clone()).unwrap()
}

/// Checks code and message, and that nothing but one line of error was said.
fn assert_fails(args: &[&str], code: i32, message: &str) {
    let output = run(args);
    let stderr = String::from_utf8(output.stderr.clone()).unwrap();
    assert_eq!(output.status.code(), Some(code), "{args:?}: {stderr}");
    assert!(stderr.contains(message), "{args:?}: {stderr}");
    let last = stderr.lines().last().unwrap_or_default();
    assert!(last.starts_with("error: ") && !stderr.contains("panicked"), "{args:?}: {stderr}");
    assert_eq!(stdout(&output), "", "{args:?}");
}

fn json(args: &[&str]) -> Value {
    let output = run(args);
    assert!(output.status.success(), "{args:?}: {}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).unwrap()
}

fn assert_has(value: &Value, fields: &[&str]) {
    for field in fields {
        assert!(value.get(field).is_some(), "'{field}' is missing in {value}");
    }
}

#[test]
fn help_names_every_command_and_exit_code() {
    let output = run(&["--help"]);
    assert_eq!(output.status.code(), Some(0));
    let help = stdout(&output);
    for word in [
        "run",
        "serve",
        "ps",
        "stop",
        "bench",
        "perplexity",
        "quantize",
        "plan",
        "doctor",
        "pull",
        "list",
        "show",
        "rm",
    ] {
        assert!(help.contains(word), "{word}: {help}");
    }
    for word in ["Exit codes", "130", "FERRULE_HOST"] {
        assert!(help.contains(word), "{word}: {help}");
    }
    let run_help = stdout(&run(&["run", "--help"]));
    for flag in ["--max-tokens", "--temperature", "--top-p", "--seed", "--raw", "--stats", "--json", "[default: 0.7]"] {
        assert!(run_help.contains(flag), "{flag}: {run_help}");
    }
    assert_eq!(stdout(&run(&["--version"])), format!("ferrule {}\n", env!("CARGO_PKG_VERSION")));
}

#[test]
fn wrong_usage_is_code_2() {
    for args in [
        &[][..],
        &["fly"],
        &["run"],
        &["run", "m", "p", "--temperature", "hot"],
        &["run", "m", "p", "--kv-cache-memory", "5XB"],
        &["run", "m", "p", "--device", "toaster"],
        &["run", "m", "p", "--raw", "--system", "s"],
        &["bench", "m", "--batch", "0"],
        &["bench", "m", "--gen-len", "0"],
        &["bench", "null", "--prompt-len", "40", "--shared-prefix", "40"],
        &["perplexity", "m", "f", "--ctx", "1"],
    ] {
        let output = run(args);
        assert_eq!(output.status.code(), Some(2), "{args:?}");
        assert!(output.stdout.is_empty() && !output.stderr.is_empty(), "{args:?}");
    }
}

#[test]
fn names_that_are_no_models_are_the_callers_business() {
    assert_fails(&["run", "smolm2", "hi"], 2, "did you mean smollm2");
    assert_fails(&["run", "no/such/repo", "hi"], 2, "no/such/repo");
    assert_fails(&["run", "org/repo", "hi"], 2, "hf:org/repo");
    assert_fails(&["run", "./missing.gguf", "hi"], 2, "does not exist");
    assert_fails(&["show", "smollm2"], 2, "ferrule pull smollm2");
    assert_fails(&["plan", "smollm2"], 2, "ferrule pull smollm2");
    assert_fails(&["rm", "smollm2", "-y"], 2, "not in the local store");
    assert_fails(&["rm", "./a.gguf", "-y"], 2, "path");
    assert_fails(&["pull", "hf:../x"], 2, "hf:ORG/REPO");
}

#[test]
fn sources_out_of_reach_are_the_machines_business() {
    assert_fails(&["pull", "smollm2"], 4, "FERRULE_PYTHON");
    assert_fails(&["pull", "hf:org/repo"], 4, "HF_HUB_OFFLINE");
}

#[test]
fn files_that_are_no_models_are_code_3() {
    let dir = tempfile::tempdir().unwrap();
    let path = |name: &str| dir.path().join(name).to_str().unwrap().to_owned();
    std::fs::write(path("garbage.gguf"), [0x5a; 4096]).unwrap();
    std::fs::write(path("empty.gguf"), "").unwrap();
    std::fs::write(path("cut.gguf"), b"GGUF\x03\x00\x00\x00\xff\xff\xff\xff\xff\xff\xff\x7f").unwrap();
    std::fs::create_dir(path("folder")).unwrap();
    for name in ["garbage.gguf", "empty.gguf", "cut.gguf", "folder"] {
        for command in ["run", "show", "plan"] {
            let path = path(name);
            let args = if command == "run" { vec!["run", &path, "hi"] } else { vec![command, &path] };
            assert_fails(&args, 3, &path);
        }
    }
}

#[test]
fn prompts_that_cannot_be_are_refused_before_anything_is_loaded() {
    assert_fails(&["run", "smollm2"], 2, "prompt is empty");
    assert_fails(&["run", "smollm2", "  "], 2, "prompt is empty");
    assert_fails(&["run", "smollm2", "hi", "--temperature", "-1"], 2, "temperature is -1");
    assert_fails(&["run", "smollm2", "hi", "--top-p", "2"], 2, "top_p is 2");
    assert_fails(&["run", "smollm2", "hi", "--threads", "0"], 2, "threads is 0");
    assert_fails(&["perplexity", "smollm2", "no-such-file"], 2, "no-such-file");
    let home = tempfile::tempdir().unwrap();
    let mut child = ferrule(home.path(), &["run", "smollm2"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    child.stdin.take().unwrap().write_all(b"\xff\xfe").unwrap();
    let output = child.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(2));
    assert!(String::from_utf8_lossy(&output.stderr).contains("not UTF-8"));
}

#[test]
fn an_empty_store_is_no_error() {
    let output = run(&["list"]);
    assert!(output.status.success() && output.stdout.is_empty());
    assert!(String::from_utf8_lossy(&output.stderr).contains("ferrule pull"));
    assert_eq!(json(&["list", "--json"])["models"], Value::Array(vec![]));
}

#[test]
fn doctor_finds_cores_and_measures_memory() {
    let report = json(&["doctor", "--json"]);
    assert_has(
        &report,
        &["version", "machine", "cpu_features", "huge_pages", "libcuda", "gpus", "libmpi", "libnccl", "store"],
    );
    assert!(report["machine"]["default_threads"].as_u64().unwrap() >= 1);
    assert!(report["read_bandwidth_bytes_per_s"]["one_thread"].as_f64().unwrap() > 1e6);
}

#[test]
fn bench_reports_every_batch() {
    let report = json(&[
        "bench",
        "null",
        "--prompt-len",
        "40",
        "--gen-len",
        "8",
        "--batch",
        "1,3",
        "--repetitions",
        "2",
        "--json",
    ]);
    assert_has(&report, &["machine", "limits", "model", "results"]);
    assert!(report["limits"]["read_bytes_per_s"].as_f64().unwrap() > 1e6);
    let results = report["results"].as_array().unwrap();
    assert_eq!(results.iter().map(|result| result["batch"].as_u64().unwrap()).collect::<Vec<_>>(), [1, 3]);
    for result in results {
        assert_has(result, &["prompt_len", "gen_len", "ttft_ms", "peak_rss_bytes", "spread"]);
        for speed in ["prefill_tokens_per_s", "decode_tokens_per_s", "total_tokens_per_s"] {
            let (value, spread) = (result[speed].as_f64().unwrap(), &result["spread"][speed]);
            assert!(value > 0.0 && spread[0].as_f64().unwrap() <= value && value <= spread[1].as_f64().unwrap());
        }
    }
}

/// A store with the smallest of the golden models, under a name of the catalogue.
fn store_with_a_model() -> tempfile::TempDir {
    let home = tempfile::tempdir().unwrap();
    let folder = home.path().join("models/smollm2=135m");
    let golden = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/golden/models/llama3");
    std::fs::create_dir_all(&folder).unwrap();
    for name in ["config.json", "model.safetensors"] {
        std::fs::copy(golden.join(name), folder.join(name)).unwrap();
    }
    let manifest =
        r#"{"name": "smollm2:135m", "source": "test", "license": null, "entry": "", "files": [], "pulled_at": 0}"#;
    std::fs::write(folder.join("manifest.json"), manifest).unwrap();
    home
}

#[test]
fn packed_weights_are_kept_counted_and_removed() {
    let home = store_with_a_model();
    let packed_files = || std::fs::read_dir(home.path().join("packed")).map_or(0, |entries| entries.count());
    let bench = ["bench", "smollm2", "--prompt-len", "8", "--gen-len", "2", "--batch", "1", "--repetitions", "1"];
    let succeed = |args: &[&str]| {
        let output = ferrule(home.path(), args).output().unwrap();
        assert!(output.status.success(), "{args:?}: {}", String::from_utf8_lossy(&output.stderr));
        stdout(&output)
    };
    let listed = || {
        let list: Value = serde_json::from_str(&succeed(&["list", "--json"])).unwrap();
        list["models"][0]["packed_bytes"].as_u64().unwrap()
    };
    succeed(&[&bench[..], &["--no-packed-weights"]].concat());
    succeed(&[&bench[..], &["--packed-weights-limit", "1KB"]].concat());
    assert_eq!((packed_files(), listed()), (0, 0));
    succeed(&bench);
    assert!(packed_files() == 1 && listed() > 1000);
    let shown: Value = serde_json::from_str(&succeed(&["show", "smollm2", "--json"])).unwrap();
    assert_eq!(shown["packed_bytes"], listed());
    succeed(&["rm", "smollm2", "-y"]);
    assert_eq!(packed_files(), 0);
}

#[cfg(unix)]
#[test]
fn a_reader_that_leaves_ends_the_command_quietly() {
    let home = tempfile::tempdir().unwrap();
    let (reader, writer) = std::io::pipe().unwrap();
    drop(reader);
    let output = ferrule(home.path(), &["list", "--json"]).stdout(writer).stderr(Stdio::piped()).output().unwrap();
    assert_eq!((output.status.code(), output.stderr.as_slice()), (Some(0), &b""[..]));
}

#[cfg(unix)]
#[test]
fn an_interrupt_ends_a_long_measurement() {
    use std::os::unix::process::ExitStatusExt;
    let home = tempfile::tempdir().unwrap();
    let args = ["bench", "null", "--repetitions", "1000000", "--gen-len", "8", "--batch", "1"];
    let mut child = ferrule(home.path(), &args).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    std::thread::sleep(std::time::Duration::from_millis(500));
    // SAFETY: the child was not waited for, so its id is still its own.
    assert_eq!(unsafe { libc::kill(child.id() as i32, libc::SIGINT) }, 0);
    let status = child.wait().unwrap();
    // On a busy machine the signal may come before the command watches for it; shells call both 130.
    assert!(status.code() == Some(130) || status.signal() == Some(libc::SIGINT), "{status:?}");
}
