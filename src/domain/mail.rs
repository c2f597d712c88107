//! Which events owners are told of by e-mail, and in which words.
//!
//! - A mail is a pure function of the event, the webhook as it is set, and the two addresses. So a mail that is sent once
//!   more is the same mail, and its Message-ID, made of the event's id, says so.
//! - What strangers have a say in (URLs) is shown without what may be secret, cut to one line of visible ASCII: no header
//!   and no line can be added to a mail. What endpoints answer is not told at all.

use super::circuit::TripCause;
use super::event::{CircuitTripped, DeliveryEvent, DeliveryExhausted, Event, SubscriptionEvent};
use super::id::EventId;
use super::notice::Address;
use super::outcome::FailureCode;
use super::profile::Occurrence;
use super::subscription::Settings;
use super::time::Timestamp;

/// The most characters that a text of somebody else has in a mail.
const MAX_SHOWN_CHARS: usize = 200;

/// Something that an owner may be told of, and all that a mail tells of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Notice {
    /// The event.
    pub event: EventId,
    /// What happened.
    pub occurrence: Occurrence,
    /// When.
    pub at: Timestamp,
    /// What is known of it beside that, in a sentence.
    detail: Option<String>,
}

impl Notice {
    /// What an event is to be told as; `None` if it is told to nobody.
    pub fn of(event: EventId, at: Timestamp, happened: &Event) -> Option<Self> {
        let (occurrence, detail) = match happened {
            Event::Subscription(event) => of_subscription(event)?,
            Event::Delivery(DeliveryEvent::Exhausted(DeliveryExhausted { delivery, attempts })) => {
                let detail = format!("Delivery {delivery} failed {attempts} times and is not tried again.");
                (Occurrence::DeliveryFailed, Some(detail))
            }
            Event::Delivery(
                DeliveryEvent::Scheduled(_)
                | DeliveryEvent::AttemptFailed(_)
                | DeliveryEvent::Succeeded(_)
                | DeliveryEvent::Expired(_)
                | DeliveryEvent::Rescheduled(_)
                | DeliveryEvent::Cancelled(_)
                | DeliveryEvent::Backfilled(_)
                | DeliveryEvent::JobAdvanced(_)
                | DeliveryEvent::PeriodOpened(_)
                | DeliveryEvent::Carried(_),
            )
            | Event::Tenant(_)
            | Event::Message(_) => return None,
        };
        Some(Self { event, occurrence, at, detail })
    }

    /// The mail about it, ready to be sent: headers and text, with the line ends of mails.
    pub fn mail(&self, webhook: &Settings, from: &Address, to: &Address) -> String {
        let endpoint = endpoint(&webhook.url);
        let host = endpoint.split('/').nth(2).unwrap_or_default();
        let headers = [
            format!("From: <{}>", from.expose()),
            format!("To: <{}>", to.expose()),
            format!("Subject: {}", self.subject(host)),
            format!("Date: {}", self.at.to_rfc2822()),
            format!("Message-ID: <{}@{}>", self.event, from.domain()),
            // Nobody's absence is answered to us (RFC 3834).
            "Auto-Submitted: auto-generated".to_owned(),
            "MIME-Version: 1.0".to_owned(),
            "Content-Type: text/plain; charset=us-ascii".to_owned(),
            "Content-Transfer-Encoding: 7bit".to_owned(),
        ];
        let text = [
            self.sentence().to_owned(),
            String::new(),
            format!("When:      {}", self.at.to_rfc3339_seconds()),
            format!("Webhook:   {}", webhook.id),
            format!("Endpoint:  {endpoint}"),
            format!("Profile:   {}", visible(&webhook.profile)),
            format!("Tenant:    {}", webhook.tenant),
            String::new(),
        ];
        let detail = self.detail.iter().flat_map(|detail| [visible(detail), String::new()]);
        let end = [
            "You are told since the webhook has your address for notices. Whoever manages".to_owned(),
            "it can take the address off.".to_owned(),
        ];
        let lines = headers.into_iter().chain([String::new()]).chain(text).chain(detail).chain(end);
        lines.map(|line| format!("{line}\r\n")).collect()
    }

    fn subject(&self, host: &str) -> String {
        match self.occurrence {
            Occurrence::Created => format!("A webhook to {host} was created"),
            Occurrence::CircuitTripped => format!("The webhook to {host} is held back"),
            Occurrence::Disabled => format!("The webhook to {host} was disabled"),
            Occurrence::EgressBlocked => format!("The webhook to {host} may not be sent"),
            Occurrence::DeliveryFailed => format!("A delivery to {host} failed"),
        }
    }

    fn sentence(&self) -> &'static str {
        match self.occurrence {
            Occurrence::Created => "A webhook was created.",
            Occurrence::CircuitTripped => {
                "The webhook's endpoint keeps failing, so nothing is sent to it for now. What is owed waits."
            }
            Occurrence::Disabled => {
                "The webhook's endpoint answered that it wants nothing any more, so the webhook was disabled."
            }
            Occurrence::EgressBlocked => "The rules of this server keep the webhook from being sent to its endpoint.",
            Occurrence::DeliveryFailed => {
                "A delivery to the webhook's endpoint failed for good. Others may have; this is told once an hour."
            }
        }
    }
}

type Told = (Occurrence, Option<String>);

fn of_subscription(event: &SubscriptionEvent) -> Option<Told> {
    match event {
        SubscriptionEvent::Created(_) => Some((Occurrence::Created, None)),
        SubscriptionEvent::CircuitTripped(tripped) => of_trip(tripped),
        // Whoever did it by hand knows.
        SubscriptionEvent::Disabled(disabled) => disabled.cause.map(|_| (Occurrence::Disabled, None)),
        SubscriptionEvent::EgressBlocked(_) => Some((Occurrence::EgressBlocked, None)),
        SubscriptionEvent::Updated(_)
        | SubscriptionEvent::Enabled(_)
        | SubscriptionEvent::SecretRotated(_)
        | SubscriptionEvent::TestSent(_)
        | SubscriptionEvent::RedeliveryRequested(_)
        | SubscriptionEvent::RescheduleRequested(_)
        | SubscriptionEvent::CancellationRequested(_)
        | SubscriptionEvent::HoldChanged(_)
        | SubscriptionEvent::CircuitReenabled(_)
        | SubscriptionEvent::CircuitProbing(_)
        | SubscriptionEvent::CircuitClosed(_)
        | SubscriptionEvent::MatchesLost(_)
        | SubscriptionEvent::JobStarted(_)
        | SubscriptionEvent::JobEnded(_)
        | SubscriptionEvent::Deleted(_)
        | SubscriptionEvent::Restored(_)
        | SubscriptionEvent::SecretsDestroyed(_) => None,
    }
}

/// An endpoint that is down for long fails one probe after the other: told are the beginning, and the end of all probes.
fn of_trip(tripped: &CircuitTripped) -> Option<Told> {
    let begins = match tripped.cause {
        TripCause::HardFailures | TripCause::SoftFailures => true,
        TripCause::ProbeFailed | TripCause::RecoveryFailed => false,
    };
    let why = failure(tripped.code);
    let detail = match tripped.probe_at {
        Some(at) if begins => format!("The last attempt: {why}. It is tried again by itself at {}.", seconds(at)),
        Some(_) => return None,
        None => format!("The last attempt: {why}. It is tried again only when somebody enables the webhook again."),
    };
    Some((Occurrence::CircuitTripped, Some(detail)))
}

fn seconds(at: Timestamp) -> String {
    at.to_rfc3339_seconds()
}

fn failure(code: FailureCode) -> &'static str {
    match code {
        FailureCode::Status => "the endpoint answered with a status that is no success",
        FailureCode::Timeout => "the answer did not come in time",
        FailureCode::Dns => "the host's name does not resolve",
        FailureCode::Connect => "no connection could be made",
        FailureCode::TlsExpired => "the certificate has expired",
        FailureCode::TlsNotYetValid => "the certificate is not yet valid",
        FailureCode::TlsWrongName => "the certificate is for another name",
        FailureCode::TlsUntrusted => "the certificate is of an issuer that is not trusted",
        FailureCode::TlsVersion => "the endpoint speaks no version of TLS that is spoken here",
        FailureCode::TlsTimeout | FailureCode::TlsReset | FailureCode::Tls => "the TLS handshake failed",
        FailureCode::Blocked => "the rules of this server forbid the address",
        FailureCode::Headers | FailureCode::Body => "the answer was no whole HTTP",
        FailureCode::Aborted => "this server gave it up",
    }
}

/// Where it is, and nothing of the URL that may let somebody in: no user, and no path either, which many services take
/// for a password.
fn endpoint(url: &str) -> String {
    let Some((scheme, rest)) = url.split_once("://") else { return "***".to_owned() };
    let authority = rest.split(['/', '?', '#']).next().unwrap_or_default();
    let host = authority.rsplit('@').next().unwrap_or_default();
    visible(&format!("{scheme}://{host}"))
}

/// One line of visible ASCII, of bounded length.
fn visible(text: &str) -> String {
    let shown = text.chars().map(|c| if c == ' ' || c.is_ascii_graphic() { c } else { '?' });
    let mut line: String = shown.take(MAX_SHOWN_CHARS).collect();
    if text.chars().nth(MAX_SHOWN_CHARS).is_some() {
        line.push_str("...");
    }
    line
}

#[cfg(test)]
#[path = "mail_tests.rs"]
mod tests;
