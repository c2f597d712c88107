//! The mail server: where it is, and how one mail is handed to it.
//!
//! Each mail has a connection of its own, since few are sent. TLS is by rustls with *ring*, and cannot be left out by
//! accident: `smtp://` asks for STARTTLS and sends nothing without it, unless the URL says `?tls=none`.

use std::path::Path;
use std::time::Duration;

use lettre::transport::smtp::Error as SmtpError;
use lettre::transport::smtp::authentication::{Credentials, Mechanism};
use lettre::transport::smtp::client::{
    AsyncSmtpConnection, Certificate, CertificateStore, TlsParameters, TlsParametersBuilder,
};
use lettre::transport::smtp::commands::{Data, Mail, Rcpt};
use lettre::transport::smtp::extension::ClientId;
use percent_encoding::percent_decode_str;
use tokio::time::timeout;
use url::{Host, Url};

use super::Config;
use crate::domain::notice::Address;
use crate::domain::secret::Secret;

/// How long a server may take its leave.
const QUIT_LIMIT: Duration = Duration::from_secs(2);
/// How long it may take over one mail once it knows who sends it. Longer than for the rest: what it has read and not yet
/// acknowledged would be sent twice.
const HANDING_OVER_LIMIT: Duration = Duration::from_secs(120);
/// What a server says of a mailbox that cannot be.
const MAILBOX_NAME_NOT_ALLOWED: u16 = 553;

/// Why a mail was not taken. Tells nothing of what the server said but its number: it may repeat the address.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Refused {
    /// The server takes nothing for now, from us: it did not come as far as the address.
    Server(String),
    /// Not this one for now, with that number; without one the conversation broke off.
    ForNow(Option<u16>),
    /// Not this one, ever.
    ForGood(u16),
}

/// When a connection is encrypted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Encryption {
    /// From the first byte.
    Immediate,
    /// Before anything is said.
    StartTls,
    Never,
}

/// Where mails go, as the configuration says.
#[derive(Clone)]
pub(super) struct Route {
    host: String,
    port: u16,
    encryption: Encryption,
    login: Option<(String, Secret)>,
}

impl Route {
    /// Reads a URL. What is wrong is told without the URL, which may hold a password.
    pub(super) fn parse(text: &str) -> Result<Self, String> {
        let form = "is not of the form smtps://USER:PASSWORD@HOST:PORT or smtp://…";
        let url = Url::parse(text).map_err(|_| form.to_owned())?;
        let (encryption, port) = match (url.scheme(), url.query()) {
            ("smtps", None) => (Encryption::Immediate, 465),
            ("smtp", None) => (Encryption::StartTls, 587),
            ("smtp", Some("tls=none")) => (Encryption::Never, 25),
            ("smtp" | "smtps", Some(_)) => return Err("has a query other than smtp://…?tls=none".into()),
            (_, _) => return Err(form.into()),
        };
        let rest = matches!(url.path(), "" | "/") && url.fragment().is_none();
        let host = url.host().filter(|_| rest).ok_or(form)?;
        let host = match host {
            Host::Ipv6(address) => address.to_string(),
            Host::Ipv4(_) | Host::Domain(_) => host.to_string(),
        };
        if host.is_empty() {
            return Err(form.into());
        }
        let login = login(&url)?;
        if encryption == Encryption::Never && login.is_some() {
            return Err("a password is sent by TLS alone".into());
        }
        Ok(Self { host, port: url.port().unwrap_or(port), encryption, login })
    }
}

fn login(url: &Url) -> Result<Option<(String, Secret)>, String> {
    let decoded = |text: &str| percent_decode_str(text).decode_utf8().map(|text| text.into_owned());
    let not_text = |_| "user and password are to be percent-encoded UTF-8".to_owned();
    match (url.username(), url.password()) {
        ("", None) => Ok(None),
        ("", Some(_)) | (_, None) => Err("has a user without a password, or a password without a user".into()),
        (user, Some(password)) => {
            let password = Secret::stored(decoded(password).map_err(not_text)?);
            Ok(Some((decoded(user).map_err(not_text)?, password)))
        }
    }
}

/// The mail server, and in whose name mails are sent.
pub(super) struct MailServer {
    route: Route,
    tls: Option<TlsParameters>,
    from: Address,
    limit: Duration,
}

impl MailServer {
    /// One that can be asked; `None` if no mails are sent. An error names the key.
    pub(super) fn of(config: &Config) -> Result<Option<Self>, String> {
        let Some((route, from)) = config.route()? else { return Ok(None) };
        let tls = match route.encryption {
            Encryption::Never => None,
            Encryption::Immediate | Encryption::StartTls => Some(tls(&route.host, &config.ca_file)?),
        };
        Ok(Some(Self { route, tls, from, limit: Duration::from_millis(config.timeout_ms) }))
    }

    /// In whose name mails are sent.
    pub(super) fn from(&self) -> &Address {
        &self.from
    }

    /// Hands a mail over. When this returns without an error the server is answerable for it.
    pub(super) async fn send(&self, to: &Address, mail: &str) -> Result<(), Refused> {
        let (Ok(from), Ok(recipient)) = (self.from.expose().parse(), to.expose().parse()) else {
            return Err(Refused::ForGood(MAILBOX_NAME_NOT_ALLOWED));
        };
        let late = |_| Refused::Server("it did not answer in time".into());
        let began = timeout(self.limit, self.begin(from)).await.map_err(late)?;
        let mut connection = began.map_err(|error| Refused::Server(describe(&error)))?;
        let hand_over = async {
            connection.command(Rcpt::new(recipient, vec![])).await?;
            connection.command(Data).await?;
            connection.message(mail.as_bytes()).await
        };
        let handed_over = timeout(HANDING_OVER_LIMIT, hand_over).await.map_err(|_| Refused::ForNow(None))?;
        handed_over.map_err(|error| of_mail(&error))?;
        // What it has taken it has taken, however it takes its leave.
        drop(timeout(QUIT_LIMIT, connection.quit()).await);
        Ok(())
    }

    /// Up to the sender, who is the same for all mails: what is refused until then is refused to all.
    async fn begin(&self, from: lettre::Address) -> Result<AsyncSmtpConnection, SmtpError> {
        let mut connection = self.connect().await?;
        connection.command(Mail::new(Some(from), vec![])).await?;
        Ok(connection)
    }

    async fn connect(&self) -> Result<AsyncSmtpConnection, SmtpError> {
        let Route { host, port, encryption, login } = &self.route;
        let name = ClientId::Domain(self.from.domain().to_owned());
        let wrapped = self.tls.clone().filter(|_| *encryption == Encryption::Immediate);
        let server = (host.as_str(), *port);
        let mut connection =
            AsyncSmtpConnection::connect_tokio1(server, Some(self.limit), &name, wrapped, None).await?;
        if let (Encryption::StartTls, Some(tls)) = (encryption, &self.tls) {
            connection.starttls(tls.clone(), &name).await?;
        }
        if let Some((user, password)) = login {
            let credentials = Credentials::new(user.clone(), password.expose().to_owned());
            connection.auth(&[Mechanism::Plain, Mechanism::Login], &credentials).await?;
        }
        Ok(connection)
    }
}

/// The public authorities, and the operator's own.
fn tls(host: &str, ca_file: &Path) -> Result<TlsParameters, String> {
    let mut builder = TlsParametersBuilder::new(host.to_owned()).certificate_store(CertificateStore::WebpkiRoots);
    if !ca_file.as_os_str().is_empty() {
        let wrong = |error: String| format!("mail.ca_file: '{}': {error}", ca_file.display());
        let pem = std::fs::read(ca_file).map_err(|error| wrong(error.to_string()))?;
        // lettre takes the first of a text alone.
        let parts: Vec<_> =
            String::from_utf8_lossy(&pem).split_inclusive("-----END CERTIFICATE-----").map(str::to_owned).collect();
        let certificates = parts.iter().filter(|part| part.contains("-----BEGIN CERTIFICATE-----"));
        let mut found = false;
        for certificate in certificates {
            let certificate =
                Certificate::from_pem(certificate.as_bytes()).map_err(|error| wrong(error.to_string()))?;
            builder = builder.add_root_certificate(certificate);
            found = true;
        }
        if !found {
            return Err(wrong("holds no certificate".into()));
        }
    }
    builder.build().map_err(|error| format!("mail.url: no TLS with that host: {error}"))
}

/// What became of a mail whose sender was accepted. Whoever chose the address may have chosen the answer too: it keeps
/// no other mail waiting.
fn of_mail(error: &SmtpError) -> Refused {
    match error.status().map(u16::from) {
        Some(number) if error.is_permanent() => Refused::ForGood(number),
        number => Refused::ForNow(number),
    }
}

fn describe(error: &SmtpError) -> String {
    match error.status() {
        Some(number) => format!("it answered {}", u16::from(number)),
        None if error.is_response() => "its answer cannot be read".to_owned(),
        None => error.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn route(url: &str) -> (String, u16, Encryption, Option<(String, String)>) {
        let Route { host, port, encryption, login } = Route::parse(url).unwrap();
        (host, port, encryption, login.map(|(user, password)| (user, password.expose().to_owned())))
    }

    #[test]
    fn a_url_says_where_and_tls_is_left_out_on_purpose_alone() {
        let (immediate, start, never) = (Encryption::Immediate, Encryption::StartTls, Encryption::Never);
        let login = Some(("me@example.com".to_owned(), "p:w/@".to_owned()));
        for (url, expected) in [
            ("smtps://mail.example.com", ("mail.example.com".to_owned(), 465, immediate, None)),
            ("smtp://mail.example.com/", ("mail.example.com".to_owned(), 587, start, None)),
            ("smtp://mail.example.com:2525", ("mail.example.com".to_owned(), 2_525, start, None)),
            ("smtp://127.0.0.1?tls=none", ("127.0.0.1".to_owned(), 25, never, None)),
            ("smtps://[::1]:4650", ("::1".to_owned(), 4_650, immediate, None)),
            ("smtps://me%40example.com:p%3Aw%2F%40@m.example", ("m.example".to_owned(), 465, immediate, login)),
        ] {
            assert_eq!(route(url), expected, "{url}");
        }
    }

    #[test]
    fn what_is_wrong_with_a_url_is_told_without_it() {
        for url in [
            "mail.example.com",
            "https://hunter2@mail.example.com",
            "smtp://",
            "smtps:///hunter2",
            "smtps://mail.example.com/hunter2",
            "smtps://mail.example.com/#hunter2",
            "smtps://mail.example.com?tls=none",
            "smtp://mail.example.com?tls=opportunistic",
            "smtp://me:hunter2@mail.example.com?tls=none",
            "smtps://hunter2@mail.example.com",
            "smtps://:hunter2@mail.example.com",
            "smtps://me:hunter2%ff@mail.example.com",
            "smtps://me:hunter2@mail.example.com:port",
        ] {
            let error = Route::parse(url).map(|_| ()).unwrap_err();
            assert!(!error.contains("hunter2"), "{url}: {error}");
        }
    }
}
