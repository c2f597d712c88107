//! Our canonical form against the JavaScript that receivers run (A25): the Axie document's verifier hashes
//! `JSON.stringify` of the parsed body.

use std::io::Write;
use std::process::{Command, Stdio};

use tidings::domain::json::{Canonical, Cause, InvalidJson, canonicalise};

const SEED: u64 = 0x5eed_a25a_25a2_5a25;
const TEXTS: usize = 8_000;

/// Texts that broke somebody.
const HOSTILE: &[&str] = &[
    "-0",
    "1e999",
    "-1e999",
    "1e21",
    "1e-7",
    "1e-400",
    "5e-324",
    "2.2250738585072011e-308",
    "1.7976931348623157e308",
    "9007199254740992",
    "9007199254740993",
    "-9007199254740993.0",
    "12345678901234567890",
    "0.1000000000000000055",
    "0.10000000000000001",
    r#""\ud800""#,
    r#""\udc00\ud800""#,
    r#""\ud83d\ud83d\ude00""#,
    r#""\u007f\u2028\u00ad\/<>&'\ufeff""#,
    r#"{"__proto__":{"x":1},"a":1,"__proto__":2}"#,
    r#"{"constructor":1,"toString":2,"toJSON":3,"length":4}"#,
    r#"{"4294967294":1,"4294967295":2,"4294967296":3,"9007199254740992":4,"a":5,"0":6,"00":7,"-0":8,"1.0":9,"+2":10}"#,
    r#"{"b":{"2":[{"z":1,"1":2}],"1":{}},"a":0,"b":{"9":1,"8":2}}"#,
    "{\"a\u{2028}\":\"\u{2029}\u{7f}\u{0}\"}",
    "\u{feff}1",
    "\u{a0}1",
    "01",
    "1.",
    "[1,]",
    "{\"a\":1,}",
    "'a'",
    "NaN",
    "\"\t\"",
    "/**/1",
    "",
];

#[test]
fn what_is_not_flagged_is_exactly_what_javascript_writes_and_what_is_flagged_has_a_reason() {
    println!("seed {SEED:#x}");
    let mut random = Random(SEED);
    let mut givens: Vec<String> = HOSTILE.iter().map(|&text| text.to_owned()).collect();
    givens.extend((0..TEXTS).map(|_| random.text()));
    let ours: Vec<_> = givens.iter().map(|given| canonicalise(given.as_bytes())).collect();
    let questions =
        givens.iter().zip(&ours).map(|(given, ours)| [given.clone(), told(given, ours)]).collect::<Vec<_>>();
    let mut seen = Seen::default();
    for ((given, ours), [of_given, of_ours]) in givens.iter().zip(&ours).zip(ask_node(&questions)) {
        match ours {
            Ok(ours) => seen.accepted(given, ours, &of_given, &of_ours),
            Err(InvalidJson::Syntax(_)) => {
                seen.refused += 1;
                assert_eq!(of_given, None, "JavaScript reads {given:?}");
            }
            Err(InvalidJson::NumberTooLarge { .. }) => {
                seen.too_large += 1;
                assert_eq!(of_ours.as_deref(), Some("null"), "JavaScript keeps a number of {given:?}");
            }
            Err(error @ (InvalidJson::NotUtf8 { .. } | InvalidJson::TooDeep)) => panic!("{error}: {given:?}"),
        }
    }
    println!("{seen:?}");
    assert!(
        [seen.stable, seen.numbers, seen.keys, seen.refused, seen.too_large].into_iter().all(|count| count > 20),
        "the generator no longer reaches every case: {seen:?}"
    );
}

/// How many texts went which way.
#[derive(Debug, Default)]
struct Seen {
    stable: usize,
    numbers: usize,
    keys: usize,
    refused: usize,
    too_large: usize,
}

impl Seen {
    fn accepted(&mut self, given: &str, ours: &Canonical, of_given: &Option<String>, of_ours: &Option<String>) {
        let flagged = |cause| ours.instabilities().iter().any(|flag| flag.cause == cause);
        let (of_given, of_ours) = (of_given.as_deref(), of_ours.as_deref());
        if ours.is_stable() {
            self.stable += 1;
            assert_eq!(of_ours, Some(ours.text()), "no fixed point, from {given:?}");
            assert_eq!(of_given, Some(ours.text()), "not what JavaScript makes of {given:?}");
        }
        if flagged(Cause::Number) && !flagged(Cause::DuplicateKey) {
            self.numbers += 1;
            assert_ne!(of_ours, Some(ours.text()), "flagged a number that JavaScript keeps, in {given:?}");
        }
        if flagged(Cause::DuplicateKey) {
            self.keys += 1;
            assert!(members(given) > members(ours.text()), "flagged a key that occurs once, in {given:?}");
        }
        if flagged(Cause::DuplicateKey) && !flagged(Cause::Number) {
            assert_eq!(of_ours, Some(ours.text()), "no fixed point, from {given:?}");
            assert_eq!(of_given, Some(ours.text()), "not the value that JavaScript picks of {given:?}");
        }
    }
}

/// The text that JavaScript is asked about: what we wrote, or the number that we refused.
fn told(given: &str, ours: &Result<Canonical, InvalidJson>) -> String {
    match ours {
        Ok(canonical) => canonical.text().to_owned(),
        Err(InvalidJson::NumberTooLarge { at }) => {
            given[*at..].split([',', ']', '}', ' ', '\t', '\r', '\n']).next().unwrap_or_default().to_owned()
        }
        Err(InvalidJson::Syntax(_) | InvalidJson::NotUtf8 { .. } | InvalidJson::TooDeep) => String::new(),
    }
}

/// The number of colons outside strings.
fn members(json: &str) -> usize {
    let (mut colons, mut in_string, mut escaped) = (0, false, false);
    for byte in json.bytes() {
        colons += usize::from(byte == b':' && !in_string);
        in_string ^= byte == b'"' && !escaped;
        escaped = byte == b'\\' && !escaped;
    }
    colons
}

/// What one Node process makes of each text: what it writes after parsing it, nothing if it cannot parse it.
fn ask_node(questions: &[[String; 2]]) -> Vec<[Option<String>; 2]> {
    let mut node = Command::new("node")
        .arg(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/node/fixed_point.mjs"))
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap_or_else(|error| panic!("this test runs receivers' JavaScript and needs `node` in PATH: {error}"));
    let mut input = node.stdin.take().expect("stdin is piped");
    let lines: String =
        questions.iter().map(|pair| serde_json::to_string(pair).expect("strings are JSON") + "\n").collect();
    let feeder = std::thread::spawn(move || input.write_all(lines.as_bytes()));
    let output = node.wait_with_output().expect("node runs to its end");
    feeder.join().expect("the feeder does not panic").expect("node reads all of its input");
    assert!(output.status.success(), "node ended with {}", output.status);
    let answers: Vec<_> = output
        .stdout
        .split(|&byte| byte == b'\n')
        .filter(|line| !line.is_empty())
        .map(|line| serde_json::from_slice(line).expect("node answers with pairs of texts"))
        .collect();
    assert_eq!(answers.len(), questions.len());
    answers
}

/// SplitMix64: the same texts on every run.
struct Random(u64);

impl Random {
    fn below(&mut self, bound: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((mixed ^ (mixed >> 31)) % bound as u64) as usize
    }

    fn pick<'a>(&mut self, from: &[&'a str]) -> &'a str {
        from[self.below(from.len())]
    }

    /// A JSON text; one in six was damaged and may be none any more.
    fn text(&mut self) -> String {
        const DAMAGE: &[char] = &['{', ']', ',', ':', '"', '\\', '0', '-', '.', 'e', '\u{a0}', '\t'];
        let mut text = self.value(4);
        if self.below(6) == 0 {
            let mut chars: Vec<char> = text.chars().collect();
            let at = self.below(chars.len());
            match self.below(3) {
                0 => drop(chars.remove(at)),
                1 => chars.insert(at, DAMAGE[self.below(DAMAGE.len())]),
                _ => chars.truncate(at),
            }
            text = chars.into_iter().collect();
        }
        text
    }

    fn value(&mut self, depth: usize) -> String {
        let space = self.pick(&["", "", "", " ", "\n", "\t\r\n "]);
        let value = match self.below(if depth == 0 { 5 } else { 10 }) {
            0..=1 => self.number(),
            2..=3 => self.string(),
            4 => self.pick(&["null", "true", "false"]).to_owned(),
            5..=6 => self.array(depth),
            _ => self.object(depth),
        };
        format!("{space}{value}{space}")
    }

    fn array(&mut self, depth: usize) -> String {
        let items: Vec<_> = (0..self.below(4)).map(|_| self.value(depth - 1)).collect();
        format!("[{}]", items.join(","))
    }

    fn object(&mut self, depth: usize) -> String {
        let members: Vec<_> = (0..self.below(6)).map(|_| format!("{}:{}", self.key(), self.value(depth - 1))).collect();
        format!("{{{}}}", members.join(","))
    }

    fn key(&mut self) -> String {
        match self.below(4) {
            0 => format!("\"{}\"", self.below(30)),
            1 => format!("\"{}\"", u64::from(u32::MAX) - 3 + self.below(6) as u64),
            2 => format!(
                "\"{}\"",
                self.pick(&["a", "b", "\\u0061", "__proto__", "00", "01", "-1", "1.5", "", "toJSON", "é", "\\u00e9"])
            ),
            _ => self.string(),
        }
    }

    fn string(&mut self) -> String {
        const PIECES: &[&str] = &[
            "a",
            "Z",
            " ",
            "é",
            "😀",
            "\u{2028}",
            "\u{7f}",
            "<>&",
            "\\n",
            "\\u000a",
            "\\u000B",
            "\\u001f",
            "\\/",
            "\\\"",
            "\\u0022",
            "\\\\",
            "\\u005c",
            "\\ud83d\\ude00",
            "\\uD83D",
            "\\udE00",
            "\\u00e9",
            "\\u2029",
            "\\b",
            "\\f",
            "\\r",
            "\\t",
            "\\uffff",
            ":,]}",
        ];
        let body: String = (0..self.below(6)).map(|_| self.pick(PIECES)).collect();
        format!("\"{body}\"")
    }

    fn number(&mut self) -> String {
        let sign = self.pick(&["", "-"]);
        let double = loop {
            let bits = (self.below(1 << 32) as u64) << 32 | self.below(1 << 32) as u64;
            if let double = f64::from_bits(bits).abs()
                && double.is_finite()
            {
                break double;
            }
        };
        let digits = match self.below(8) {
            0 => format!("{double:e}"),
            1 => format!("{double:.16e}"),
            2 => format!("{double:.20e}"),
            3 => (self.below(1 << 54)).to_string(),
            4 => format!("{}.{:02}", self.below(1_000_000), self.below(100)),
            5 => self.below(1_000).to_string(),
            6 => format!("{}{}{}", self.below(9) + 1, self.pick(&["e", "E", ".0e", ".50E+"]), self.below(25)),
            _ => format!("{}e{}{}", self.below(9) + 1, self.pick(&["", "-"]), 290 + self.below(40)),
        };
        format!("{sign}{digits}")
    }
}
