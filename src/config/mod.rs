//! Configuration: defaults, then a TOML file, then environment variables, then flags; checked once, at start.
//!
//! `schema/config.toml` holds every key with its default and purpose, and a test keeps it equal to the code. A key that
//! does not exist or does not fit is an error that names it.

use std::fmt;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use figment::Figment;
use figment::providers::{Env, Format, Serialized, Toml};
use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use crate::event_store::postgres;
use crate::execute::retention;
use crate::{actors, authentication, event_store, http, notices, outbound, rate_limit};

/// Prefix of environment variables; `__` stands between section and key: `TIDINGS_SERVER__LISTEN`.
pub const ENV_PREFIX: &str = "TIDINGS_";

/// Everything that an operator can set.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// Where the log lives.
    pub database: Database,
    /// Where the API listens.
    pub server: Server,
    /// Where operators are served.
    pub admin: Admin,
    /// How secrets are sealed.
    pub secrets: Secrets,
    /// Where the read models are kept.
    pub projections: Projections,
    /// Delivery profiles of the operator's own.
    pub profiles: Profiles,
    /// Who may ask.
    pub auth: authentication::Config,
    /// What may be reached.
    pub egress: outbound::Config,
    /// Bounds of the log.
    pub event_store: event_store::Config,
    /// Bounds of the running system.
    pub actors: actors::Config,
    /// What is kept how long.
    pub retention: retention::Config,
    /// Bounds of live streams.
    pub live: http::LiveConfig,
    /// How much each caller may ask for.
    pub limits: rate_limit::Config,
    /// How owners are told by e-mail what happens to their webhooks.
    pub mail: notices::Config,
    /// What is told about it.
    pub telemetry: Telemetry,
    /// Where its numbers are told.
    pub metrics: Metrics,
}

/// Where the log lives.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Database {
    /// `sqlite://` and a path, or `postgres://user:password@host:port/database`, of which all but the host may be
    /// absent, with `?sslmode=…`. Default: `sqlite://tidings.db`, in the working directory.
    pub url: String,
    /// PostgreSQL: shards of a new log, 1 to 1024; an existing one must have as many. SQLite has one. Default: 64.
    pub shards: u16,
    /// PostgreSQL: connections that write, and so shards that are written at once, 1 to 64. Default: 4.
    pub write_connections: u32,
    /// PostgreSQL: connections that read, 1 to 256. Default: 8.
    pub read_connections: u32,
}

/// Without the password that the URL may hold.
impl fmt::Debug for Database {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let scheme = self.url.split_once("://").map_or("", |(scheme, _)| scheme);
        f.debug_struct("Database")
            .field("url", &format_args!("{scheme}://***"))
            .field("shards", &self.shards)
            .field("write_connections", &self.write_connections)
            .field("read_connections", &self.read_connections)
            .finish()
    }
}

/// The log's place, as `database` says.
#[derive(Clone, Debug)]
pub enum LogPlace {
    /// A file.
    Sqlite(PathBuf),
    /// A database of a server.
    Postgres(Box<postgres::Options>),
}

/// Where the read models are kept.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Projections {
    /// File of the read models, which can be folded from the log again. Default: empty, which means the database's path
    /// with `.read-models` behind it, and with PostgreSQL `tidings.read-models` in the working directory.
    pub path: PathBuf,
}

/// Delivery profiles of the operator's own.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Profiles {
    /// Folder whose files `*.json` are a profile each (docs/profiles.md). Default: empty, which means none.
    pub path: PathBuf,
}

/// Where the API listens.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Server {
    /// Address and port of GraphQL, playground and health. Default: `127.0.0.1:8080`.
    pub listen: SocketAddr,
    /// Whether there is a page to try the API on, at `/playground/`. Who may do what, keys say in either case.
    /// Default: true.
    pub playground: bool,
    /// Ranges of proxies in front of it: from them `X-Forwarded-For` says who the client is and `X-Forwarded-Proto`
    /// whether it came by TLS, for the audit log, throttles and answers. Default: none.
    pub trusted_proxies: Vec<IpNet>,
    /// Connections of one address at one time, trusted proxies aside, at least 1. Default: 1024.
    pub max_connections_per_address: usize,
}

/// Where operators are served: who may make tenants and act for any of them.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Admin {
    /// Address and port of a listener of their own, with everything that `server.listen` has; there, the scope
    /// TENANTS_ADMIN then counts no more. Default: empty, which means that operators are served at `server.listen` if
    /// that is a loopback address and the request came by no proxy, else nowhere.
    pub listen: String,
}

/// How secrets are sealed.
#[derive(Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Secrets {
    /// File with the 32-byte key, in hex, that seals signing secrets. Default: empty, which means the database's path
    /// with `.key` behind it, and with PostgreSQL `tidings.key` in the working directory. Made at the first start; without it the secrets of an existing store are lost.
    pub key_file: PathBuf,
    /// Files with the keys that sealed before the current one. What is sealed under them is sealed under the current one
    /// in the background; then they may go. Default: none.
    pub old_key_files: Vec<PathBuf>,
    /// Program, and its arguments, that prints the key in place of `key_file`: run at start, without a shell, for 20 s at
    /// most. Default: none.
    pub key_command: Vec<String>,
    /// Where sealed keys and secrets are kept: `sqlite://` and a path, or `postgres://…`, where they have the schema
    /// `tidings_keys`. Default: empty, which means the log's path with `.keys` behind it, and with PostgreSQL the log's
    /// database.
    pub store_url: String,
}

/// Without the password that the URL may hold.
impl fmt::Debug for Secrets {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { key_file, old_key_files, key_command, store_url } = self;
        let scheme = store_url.split_once("://").map_or("", |(scheme, _)| scheme);
        f.debug_struct("Secrets")
            .field("key_file", key_file)
            .field("old_key_files", old_key_files)
            .field("key_command", key_command)
            .field("store_url", &format_args!("{scheme}://***"))
            .finish()
    }
}

/// The key store's place, as `secrets` says.
#[derive(Clone, PartialEq, Eq)]
pub enum KeyPlace {
    /// A file.
    Sqlite(PathBuf),
    /// The URL of a database, which may hold a password.
    Postgres(String),
}

/// Where the numbers of the running program are told.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Metrics {
    /// Address and port of `/metrics`, for Prometheus. Default: empty, which means nowhere.
    pub listen: String,
    /// File with the token that is asked for, as `Authorization: Bearer …`. Default: empty, which means that whoever
    /// reaches it may read; the address must then be a loopback one.
    pub token_file: PathBuf,
}

/// What is told about the running program.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Telemetry {
    /// Which log lines are written: a level or `tracing` directives; those of libraries never below `info`. Default:
    /// `info,ractor=warn`.
    pub filter: String,
    /// `text` for people, `json` for machines. Default: `text`.
    pub format: LogFormat,
}

/// How log lines are written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum LogFormat {
    /// One readable line for each event.
    #[default]
    Text,
    /// One JSON object for each event.
    Json,
}

impl Default for Database {
    fn default() -> Self {
        Self { url: "sqlite://tidings.db".into(), shards: 64, write_connections: 4, read_connections: 8 }
    }
}

impl Default for Server {
    fn default() -> Self {
        Self {
            listen: SocketAddr::from(([127, 0, 0, 1], 8080)),
            playground: true,
            trusted_proxies: vec![],
            max_connections_per_address: 1_024,
        }
    }
}

impl Default for Telemetry {
    fn default() -> Self {
        Self { filter: "info,ractor=warn".into(), format: LogFormat::Text }
    }
}

/// The configuration is wrong.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file is not there.
    #[error("the configuration file '{0}' does not exist")]
    NoFile(PathBuf),
    /// A key does not exist, or its value does not fit.
    #[error("the configuration is wrong: {0}")]
    Invalid(String),
}

impl Config {
    /// Reads file and environment over the defaults.
    pub fn load(file: Option<&Path>) -> Result<Self, ConfigError> {
        let mut figment = Figment::from(Serialized::defaults(Self::default()));
        if let Some(file) = file {
            if !file.exists() {
                return Err(ConfigError::NoFile(file.to_owned()));
            }
            figment = figment.merge(Toml::file(file));
        }
        Self::extract(figment.merge(Env::prefixed(ENV_PREFIX).split("__")))
    }

    /// Reads a file's text over the defaults.
    pub fn of(text: &str) -> Result<Self, ConfigError> {
        Self::extract(Figment::from(Serialized::defaults(Self::default())).merge(Toml::string(text)))
    }

    fn extract(figment: Figment) -> Result<Self, ConfigError> {
        let config: Self = figment.extract().map_err(|error| invalid(&error))?;
        config.check()?;
        Ok(config)
    }

    /// Where the log is.
    pub fn log_place(&self) -> Result<LogPlace, ConfigError> {
        // Only the scheme is ever told: what follows may hold a password.
        let invalid = |text: String| Err(ConfigError::Invalid(format!("database.url: {text}")));
        match self.database.url.split_once("://") {
            Some(("sqlite", path)) if !path.is_empty() && !path.contains(['?', '#']) => {
                Ok(LogPlace::Sqlite(PathBuf::from(path)))
            }
            Some(("sqlite", _)) => invalid("is not of the form sqlite://PATH".into()),
            Some(("postgres" | "postgresql", _)) => match postgres::Options::at(&self.database.url) {
                Ok(options) => Ok(LogPlace::Postgres(Box::new(self.database.sized(options)))),
                Err(error) => {
                    let source = std::error::Error::source(&error).map(|source| format!(": {source}"));
                    let form = "is not of the form postgres://USER:PASSWORD@HOST:PORT/DATABASE";
                    invalid(format!("{form}{}", source.unwrap_or_default()))
                }
            },
            Some((scheme, _)) => {
                invalid(format!("no store of the kind '{scheme}' is known, only sqlite://PATH and postgres://…"))
            }
            None => invalid("is not of the form sqlite://PATH or postgres://…".into()),
        }
    }

    /// Path of the read models' SQLite file, which is disposable: beside the log if that is a file.
    pub fn read_models_path(&self) -> Result<PathBuf, ConfigError> {
        self.beside_log(&self.projections.path, ".read-models")
    }

    /// Where the metrics are told, if they are.
    pub fn metrics_listen(&self) -> Result<Option<SocketAddr>, ConfigError> {
        let listen = optional_address("metrics.listen", &self.metrics.listen)?;
        if listen.is_some_and(|address| !address.ip().is_loopback()) && self.metrics.token_file.as_os_str().is_empty() {
            let text = "metrics.listen: an address that is not a loopback one needs metrics.token_file";
            return Err(ConfigError::Invalid(text.into()));
        }
        Ok(listen)
    }

    /// Where operators have a listener of their own, if they have.
    pub fn admin_listen(&self) -> Result<Option<SocketAddr>, ConfigError> {
        optional_address("admin.listen", &self.admin.listen)
    }

    /// Path of the key that seals secrets.
    pub fn key_path(&self) -> Result<PathBuf, ConfigError> {
        self.beside_log(&self.secrets.key_file, ".key")
    }

    /// Where sealed keys and secrets are kept.
    pub fn key_place(&self) -> Result<KeyPlace, ConfigError> {
        let url = match (self.secrets.store_url.as_str(), self.log_place()?) {
            ("", LogPlace::Sqlite(log)) => return Ok(KeyPlace::Sqlite(with_suffix(&log, ".keys"))),
            ("", LogPlace::Postgres(_)) => &self.database.url,
            (url, _) => url,
        };
        match url.split_once("://") {
            Some(("sqlite", path)) if !path.is_empty() && !path.contains(['?', '#']) => {
                Ok(KeyPlace::Sqlite(PathBuf::from(path)))
            }
            Some(("postgres" | "postgresql", _)) => Ok(KeyPlace::Postgres(url.to_owned())),
            // What is there may hold a password.
            Some(_) | None => {
                Err(ConfigError::Invalid("secrets.store_url: is not of the form sqlite://PATH or postgres://…".into()))
            }
        }
    }

    fn beside_log(&self, configured: &Path, suffix: &str) -> Result<PathBuf, ConfigError> {
        if !configured.as_os_str().is_empty() {
            return Ok(configured.to_owned());
        }
        match self.log_place()? {
            LogPlace::Sqlite(log) => Ok(with_suffix(&log, suffix)),
            LogPlace::Postgres(_) => Ok(with_suffix(Path::new("tidings"), suffix)),
        }
    }

    fn check(&self) -> Result<(), ConfigError> {
        self.log_place()?;
        self.key_place()?;
        self.secrets.check()?;
        self.metrics_listen()?;
        self.admin_listen()?;
        self.auth.check().map_err(ConfigError::Invalid)?;
        self.limits.check().map_err(ConfigError::Invalid)?;
        self.live.check().map_err(ConfigError::Invalid)?;
        self.mail.check().map_err(ConfigError::Invalid)?;
        let actors = &self.actors;
        let at_least_one = [
            ("actors.max_attempts", actors.max_attempts),
            ("actors.max_attempts_per_tenant", actors.max_attempts_per_tenant),
            ("actors.max_attempts_per_host", actors.max_attempts_per_host),
            ("actors.max_attempts_per_subscription", actors.max_attempts_per_subscription),
            ("actors.slow_after_ms", usize::try_from(actors.slow_after_ms).unwrap_or(usize::MAX)),
            ("actors.match_credits", actors.match_credits as usize),
            ("actors.intake_queue", actors.intake_queue),
            ("actors.request_credits", actors.request_credits),
            ("server.max_connections_per_address", self.server.max_connections_per_address),
            ("event_store.queue_appends", self.event_store.queue_appends),
            ("event_store.batch_events", self.event_store.batch_events),
        ];
        if let Some((key, _)) = at_least_one.iter().find(|(_, value)| *value == 0) {
            return Err(ConfigError::Invalid(format!("{key}: must be at least 1")));
        }
        let database = &self.database;
        let within = [
            ("actors.regions", u32::from(actors.regions), 1_024),
            ("actors.max_slow_percent", u32::from(actors.max_slow_percent), 100),
            ("actors.max_unproven_percent", u32::from(actors.max_unproven_percent), 100),
            ("database.shards", u32::from(database.shards), 1_024),
            ("database.write_connections", database.write_connections, 64),
            ("database.read_connections", database.read_connections, 256),
        ];
        match within.iter().find(|(_, value, most)| !(1..=*most).contains(value)) {
            Some((key, _, most)) => Err(ConfigError::Invalid(format!("{key}: must be 1 to {most}"))),
            None => self.check_retention(),
        }
    }

    fn check_retention(&self) -> Result<(), ConfigError> {
        let retention::Config {
            events_minutes,
            bodies_minutes,
            bucket_minutes,
            period_events,
            check_every_ms,
            backups_kept_days: _,
        } = self.retention;
        let refuse = |text: &str| Err(ConfigError::Invalid(text.into()));
        if bucket_minutes == 0 {
            return refuse("retention.bucket_minutes: must be at least 1");
        }
        if period_events < 2 {
            return refuse("retention.period_events: must be at least 2");
        }
        if check_every_ms == 0 {
            return refuse("retention.check_every_ms: must be at least 1");
        }
        if events_minutes > 0 && bodies_minutes > events_minutes {
            return refuse(
                "retention.bodies_minutes: data is not kept longer than its message (retention.events_minutes)",
            );
        }
        Ok(())
    }
}

impl Secrets {
    fn check(&self) -> Result<(), ConfigError> {
        let refuse = |text: &str| Err(ConfigError::Invalid(text.into()));
        if !self.key_command.is_empty() && !self.key_file.as_os_str().is_empty() {
            return refuse("secrets.key_command: stands in the place of secrets.key_file, and both are set");
        }
        if self.key_command.first().is_some_and(String::is_empty) {
            return refuse("secrets.key_command: names no program");
        }
        Ok(())
    }
}

impl Database {
    fn sized(&self, mut options: postgres::Options) -> postgres::Options {
        options.shards = self.shards;
        options.write_connections = self.write_connections;
        options.read_connections = self.read_connections;
        options
    }
}

fn invalid(error: &figment::Error) -> ConfigError {
    let key = error.path.join(".");
    // It puts what it expected into backticks that are there already.
    let text = error.kind.to_string().replace("``", "`").replace("`one of `", "one of `");
    ConfigError::Invalid(if key.is_empty() { text } else { format!("{key}: {text}") })
}

/// Empty for none.
fn optional_address(key: &str, text: &str) -> Result<Option<SocketAddr>, ConfigError> {
    if text.is_empty() {
        return Ok(None);
    }
    text.parse().map(Some).map_err(|error| ConfigError::Invalid(format!("{key}: '{text}': {error}")))
}

fn with_suffix(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(suffix);
    PathBuf::from(name)
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use figment::value::Value;

    use super::*;

    fn from_toml(text: &str) -> Result<Config, ConfigError> {
        let mut file = tempfile::NamedTempFile::new().unwrap();
        file.write_all(text.as_bytes()).unwrap();
        Config::load(Some(file.path()))
    }

    #[test]
    fn the_documented_file_holds_every_key_with_its_default() {
        let text = include_str!("../../schema/config.toml");
        assert_eq!(from_toml(text).unwrap(), Config::default());
        let keys = |figment: Figment| {
            let mut keys = vec![];
            collect(&figment.extract::<Value>().unwrap(), String::new(), &mut keys);
            keys
        };
        let documented = keys(Figment::from(Toml::string(text)));
        assert_eq!(documented, keys(Figment::from(Serialized::defaults(Config::default()))));
        for line in text.lines().filter(|line| line.contains('=') && !line.starts_with('#')) {
            let before: Vec<_> = text.lines().take_while(|other| *other != line).collect();
            assert!(before.last().is_some_and(|line| line.starts_with('#')), "no purpose above: {line}");
        }
    }

    fn collect(value: &Value, path: String, keys: &mut Vec<String>) {
        match value.as_dict() {
            Some(dict) => dict.iter().for_each(|(key, value)| collect(value, format!("{path}.{key}"), keys)),
            None => keys.push(path),
        }
    }

    #[test]
    fn what_is_wrong_is_named() {
        for (text, named) in [
            ("[server]\nlisten = \"nowhere\"", "server.listen"),
            ("[server]\nport = 1", "port"),
            ("[metrics]\nlisten = \"here\"", "metrics.listen"),
            ("[metrics]\nlisten = \"0.0.0.0:9464\"", "metrics.token_file"),
            ("[admin]\nlisten = \"here\"", "admin.listen"),
            ("[server]\nmax_connections_per_address = 0", "server.max_connections_per_address"),
            ("[server]\ntrusted_proxies = [\"proxy\"]", "server.trusted_proxies"),
            ("[actors]\nregions = 0", "actors.regions"),
            ("[actors]\nmax_attempts = 0", "actors.max_attempts"),
            ("[retention]\nbucket_minutes = 0", "retention.bucket_minutes"),
            ("[retention]\nevents_minutes = 10\nbodies_minutes = 11", "retention.bodies_minutes"),
            ("[database]\nurl = \"mysql://x\"", "database.url"),
            ("[database]\nurl = \"sqlite://\"", "database.url"),
            ("[database]\nurl = \"postgres://u:swordfish@h:port/d\"", "database.url"),
            ("[database]\nurl = \"postgres://u:swordfish@h/d?sslmode=perhaps\"", "database.url"),
            ("[database]\nshards = 0", "database.shards"),
            ("[database]\nwrite_connections = 0", "database.write_connections"),
            ("[database]\nread_connections = 257", "database.read_connections"),
            ("[auth]\nstep_up_max_age_s = 0", "auth.step_up_max_age_s"),
            ("[mail]\nurl = \"smtps://u:swordfish@h\"", "mail.from"),
            ("[mail]\nurl = \"smtp://u:swordfish@h?tls=none\"\nfrom = \"t@x.example\"", "mail.url"),
            ("[mail]\ntimeout_ms = 1", "mail.timeout_ms"),
            ("[live]\nmax_unread = 0", "live.max_unread"),
            ("[live]\nkeep_alive_ms = 0", "live.keep_alive_ms"),
            ("[[auth.oidc]]\nissuer = \"i\"\naudience = \"a\"\njwks_url = \"http://i/\"", "jwks_url"),
            ("[[auth.oidc]]\nissuer = \"i\"\naudience = \"a\"", "jwks_url"),
            (
                "[[auth.oidc]]\nissuer = \"i\"\naudience = \"a\"\njwks_url = \"https://i/\"\nalgorithms = [\"HS256\"]",
                "HS256",
            ),
            ("[egress]\nallow_cidrs = [\"10.0.0.0/33\"]", "egress.allow_cidrs"),
        ] {
            let error = from_toml(text).unwrap_err().to_string();
            assert!(error.contains(named) && !error.contains("swordfish"), "{text}: {error}");
        }
        let missing = Config::load(Some(Path::new("no-such-file.toml"))).unwrap_err();
        assert_eq!(missing.to_string(), "the configuration file 'no-such-file.toml' does not exist");
    }

    #[test]
    fn a_log_in_postgresql_has_its_files_where_the_keys_say() {
        let url = "[database]\nurl = \"postgres://tidings:swordfish@db/log\"\nshards = 8\n";
        let config = from_toml(url).unwrap();
        assert_eq!(config.read_models_path().unwrap(), Path::new("tidings.read-models"));
        assert_eq!(config.key_path().unwrap(), Path::new("tidings.key"));
        let LogPlace::Postgres(options) = config.log_place().unwrap() else { panic!("not in PostgreSQL") };
        assert_eq!((options.shards, options.write_connections, options.read_connections), (8, 4, 8));
        let shown = format!("{config:?} {options:?}");
        assert!(!shown.contains("swordfish"), "{shown}");
        let more = "[projections]\npath = \"/var/cache/models\"\n[secrets]\nkey_file = \"/etc/tidings/key\"";
        let config = from_toml(&format!("{url}{more}")).unwrap();
        assert_eq!(config.read_models_path().unwrap(), Path::new("/var/cache/models"));
        assert_eq!(config.key_path().unwrap(), Path::new("/etc/tidings/key"));
    }

    #[test]
    fn files_stand_beside_the_log() {
        let config = from_toml("[database]\nurl = \"sqlite:///var/lib/tidings/log.db\"").unwrap();
        assert_eq!(config.read_models_path().unwrap(), Path::new("/var/lib/tidings/log.db.read-models"));
        assert_eq!(config.key_path().unwrap(), Path::new("/var/lib/tidings/log.db.key"));
    }
}
