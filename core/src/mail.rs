//! E-mail through the provider's own SMTP server.

use std::time::Duration;

use lettre::message::header::ContentType;
use lettre::message::{Attachment, Mailbox, MultiPart, SinglePart};
use lettre::{AsyncSmtpTransport, AsyncTransport, Message, Tokio1Executor};

use crate::config;

const TIMEOUT: Duration = Duration::from_secs(20);

/// What is sent. `id` makes the Message-ID: what is sent again after a crash is known for the same by whoever receives it.
#[derive(Debug, Clone)]
pub struct Mail {
    pub id: String,
    pub to: String,
    pub subject: String,
    pub text: String,
    pub attachments: Vec<File>,
}

#[derive(Debug, Clone)]
pub struct File {
    pub name: String,
    /// Such as `application/pdf`.
    pub media_type: String,
    pub bytes: Vec<u8>,
}

#[derive(Debug, thiserror::Error)]
pub enum MailError {
    /// The address, or the configuration, is wrong: sending it again would not help.
    #[error("{0}")]
    Impossible(String),
    /// The server refused it for good.
    #[error("the mail server refused it: {0}")]
    Refused(String),
    /// Worth another try.
    #[error("the mail server did not take it: {0}")]
    Later(String),
}

/// Keeps connections; cheap to clone.
#[derive(Clone)]
pub struct Mailer {
    transport: AsyncSmtpTransport<Tokio1Executor>,
    from: Mailbox,
    domain: String,
}

impl Mailer {
    /// None when no server is configured.
    pub fn new(config: &config::Mail) -> Result<Option<Self>, MailError> {
        if config.smtp_url.is_empty() {
            return Ok(None);
        }
        let wrong = |what: &str, error: &dyn std::fmt::Display| MailError::Impossible(format!("mail.{what}: {error}"));
        let transport = AsyncSmtpTransport::<Tokio1Executor>::from_url(&config.smtp_url).map_err(|e| wrong("smtp_url", &e))?;
        let from: Mailbox = config.from.parse().map_err(|e| wrong("from", &e))?;
        let domain = from.email.domain().to_owned();
        Ok(Some(Self { transport: transport.timeout(Some(TIMEOUT)).build(), from, domain }))
    }

    /// Returns when the server has taken it.
    pub async fn send(&self, mail: &Mail) -> Result<(), MailError> {
        let impossible = |error: &dyn std::fmt::Display| MailError::Impossible(format!("{}: {error}", mail.to));
        let to: Mailbox = mail.to.parse().map_err(|e| impossible(&e))?;
        // A subject is one line, whatever is in it.
        let subject: String = mail.subject.chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
        let mut parts = MultiPart::mixed().singlepart(SinglePart::plain(mail.text.clone()));
        for file in &mail.attachments {
            let kind = ContentType::parse(&file.media_type).map_err(|e| impossible(&e))?;
            parts = parts.singlepart(Attachment::new(file.name.clone()).body(file.bytes.clone(), kind));
        }
        let message = Message::builder()
            .from(self.from.clone())
            .to(to)
            .subject(subject)
            .message_id(Some(format!("<{}@{}>", mail.id, self.domain)))
            .multipart(parts)
            .map_err(|e| impossible(&e))?;
        match self.transport.send(message).await {
            Ok(_) => Ok(()),
            Err(error) if error.is_permanent() => Err(MailError::Refused(error.to_string())),
            Err(error) => Err(MailError::Later(error.to_string())),
        }
    }
}

/// Whether it could be the address of someone.
pub fn is_address(text: &str) -> bool {
    text.len() <= 254 && text.parse::<lettre::Address>().is_ok()
}
