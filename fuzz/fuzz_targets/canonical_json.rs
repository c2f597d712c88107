//! The canonical form against JavaScript: what is not flagged is what `JSON.stringify(JSON.parse(text))` writes.
#![no_main]

use std::io::{BufRead, BufReader, Write};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::sync::{LazyLock, Mutex};

use libfuzzer_sys::fuzz_target;
use tidings::domain::json::{InvalidJson, canonicalise};

/// Answers each line, a JSON text, with what JavaScript makes of the text, or null where it is no JSON.
const PROGRAM: &str = "let rest = ''; \
    process.stdin.setEncoding('utf8').on('data', (more) => { \
        const lines = (rest + more).split('\\n'); \
        rest = lines.pop(); \
        for (const line of lines) { \
            let answer = null; \
            try { answer = JSON.stringify(JSON.parse(JSON.parse(line))); } catch {} \
            process.stdout.write(JSON.stringify(answer) + '\\n'); \
        } \
    });";

struct Node {
    _process: Child,
    questions: ChildStdin,
    answers: BufReader<ChildStdout>,
}

static NODE: LazyLock<Mutex<Node>> = LazyLock::new(|| {
    let mut process = Command::new("node")
        .args(["-e", PROGRAM])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("node is installed");
    let (questions, answers) = (process.stdin.take(), process.stdout.take());
    let (Some(questions), Some(answers)) = (questions, answers) else { panic!("both are piped") };
    Mutex::new(Node { _process: process, questions, answers: BufReader::new(answers) })
});

impl Node {
    fn round_trip(&mut self, text: &str) -> Option<String> {
        let question = serde_json::to_string(text).expect("a text is JSON");
        self.questions.write_all(format!("{question}\n").as_bytes()).expect("node reads");
        let mut answer = String::new();
        self.answers.read_line(&mut answer).expect("node answers");
        serde_json::from_str(&answer).expect("node answers in JSON")
    }
}

fuzz_target!(|text: &str| {
    let mut node = NODE.lock().expect("a failure ends the process");
    match canonicalise(text.as_bytes()) {
        Ok(canonical) => {
            let again = canonicalise(canonical.text().as_bytes()).expect("what we write is JSON");
            assert_eq!(again.text(), canonical.text(), "no fixed point of our own, from {text:?}");
            if canonical.is_stable() {
                let theirs = node.round_trip(text);
                assert_eq!(theirs.as_deref(), Some(canonical.text()), "not what JavaScript makes of {text:?}");
            }
        }
        Err(InvalidJson::Syntax(_)) => assert_eq!(node.round_trip(text), None, "JavaScript reads {text:?}"),
        Err(InvalidJson::NumberTooLarge { .. } | InvalidJson::TooDeep | InvalidJson::NotUtf8 { .. }) => {}
    }
});
