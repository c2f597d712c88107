//! What the receiver was told to do wrong, path by path.

use std::collections::{HashMap, VecDeque};
use std::str::FromStr;
use std::sync::Mutex;
use std::time::Duration;

use serde::{Serialize, Serializer};
use thiserror::Error;

/// The text describes no fault.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum InvalidFault {
    /// Not `PATH=ANSWER:COUNT`.
    #[error("'{0}' is not of the form PATH=STATUS:COUNT or PATH=hang:COUNT, as /axie=503:2")]
    Failure(String),
    /// Not `PATH=MS`.
    #[error("'{0}' is not of the form PATH=MILLISECONDS, as /axie=1500")]
    Delay(String),
}

/// How a request is answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Answer {
    /// This status.
    Status(u16),
    /// No answer at all; the connection stays open.
    Hang,
}

/// Requests to one path that go wrong.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    path: String,
    answer: Answer,
    count: u64,
}

impl Serialize for Answer {
    /// A status is its number, no answer the word `hang`.
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Status(status) => serializer.serialize_u16(*status),
            Self::Hang => serializer.serialize_str("hang"),
        }
    }
}

impl FromStr for Failure {
    type Err = InvalidFault;

    fn from_str(text: &str) -> Result<Self, InvalidFault> {
        let parse = || {
            let (path, rest) = path_and_rest(text)?;
            let (answer, count) = rest.split_once(':')?;
            let answer = match answer {
                "hang" => Answer::Hang,
                status => Answer::Status(status.parse().ok().filter(|status| (200..600).contains(status))?),
            };
            let count = count.parse().ok().filter(|&count| count > 0)?;
            Some(Self { path: path.to_owned(), answer, count })
        };
        parse().ok_or_else(|| InvalidFault::Failure(text.to_owned()))
    }
}

/// How much later the requests to one path are answered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Delay {
    path: String,
    ms: u64,
}

impl FromStr for Delay {
    type Err = InvalidFault;

    fn from_str(text: &str) -> Result<Self, InvalidFault> {
        let parse = || {
            let (path, ms) = path_and_rest(text)?;
            Some(Self { path: path.to_owned(), ms: ms.parse().ok()? })
        };
        parse().ok_or_else(|| InvalidFault::Delay(text.to_owned()))
    }
}

/// A path may hold `=`; what follows it never does.
fn path_and_rest(text: &str) -> Option<(&str, &str)> {
    text.rsplit_once('=').filter(|(path, _)| path.starts_with('/'))
}

/// The faults that are left.
#[derive(Debug)]
pub(super) struct Faults {
    failures: Mutex<HashMap<String, VecDeque<(Answer, u64)>>>,
    delays: HashMap<String, Duration>,
}

impl Faults {
    /// Several failures of one path follow one another; of several delays the last one counts.
    pub(super) fn new(failures: &[Failure], delays: &[Delay]) -> Self {
        let mut queues: HashMap<String, VecDeque<_>> = HashMap::new();
        for Failure { path, answer, count } in failures {
            queues.entry(path.clone()).or_default().push_back((*answer, *count));
        }
        let delays = delays.iter().map(|delay| (delay.path.clone(), Duration::from_millis(delay.ms))).collect();
        Self { failures: Mutex::new(queues), delays }
    }

    /// What the next request to `path` gets in place of its answer. Each call is one request.
    pub(super) fn take(&self, path: &str) -> Option<Answer> {
        let mut failures = self.failures.lock().expect("no holder of this lock can panic");
        let queue = failures.get_mut(path)?;
        let (answer, left) = queue.front_mut()?;
        let answer = *answer;
        *left -= 1;
        if *left == 0 {
            queue.pop_front();
        }
        Some(answer)
    }

    /// How long the answer to `path` waits.
    pub(super) fn delay(&self, path: &str) -> Duration {
        self.delays.get(path).copied().unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn failures_of_a_path_follow_one_another_and_then_end() {
        let failures = ["/a=503:2", "/b=500:1", "/a=hang:1"].map(|text| text.parse().unwrap());
        let faults = Faults::new(&failures, &[]);
        let taken: Vec<_> = (0..4).map(|_| faults.take("/a")).collect();
        assert_eq!(taken, [Some(Answer::Status(503)), Some(Answer::Status(503)), Some(Answer::Hang), None]);
        assert_eq!(faults.take("/b"), Some(Answer::Status(500)));
        assert_eq!(faults.take("/c"), None);
    }

    #[test]
    fn a_delay_belongs_to_its_path() {
        let faults = Faults::new(&[], &["/a=b=20".parse().unwrap()]);
        assert_eq!(faults.delay("/a=b"), Duration::from_millis(20));
        assert_eq!(faults.delay("/a"), Duration::ZERO);
    }

    #[test]
    fn what_is_no_fault_is_refused_with_an_example() {
        for text in ["/a", "/a=503", "/a=503:0", "/a=100:1", "/a=600:1", "/a=slow:1", "a=503:1", "/a=503:-1"] {
            assert_eq!(text.parse::<Failure>(), Err(InvalidFault::Failure(text.into())));
        }
        assert_eq!(
            "/a=soon".parse::<Delay>().unwrap_err().to_string(),
            "'/a=soon' is not of the form PATH=MILLISECONDS, as /axie=1500"
        );
    }
}
