//! Getting a page of an index.

use std::io;

use async_trait::async_trait;
use url::Url;

/// What an index answered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Page {
    /// The status code of the last answer.
    pub status: u16,
    /// What kind of document it is, without parameters and in lower case.
    pub content_type: String,
    /// The document.
    pub body: String,
    /// Every address that was asked, in order; the last one answered.
    pub hops: Vec<Url>,
}

/// An index that did not answer.
#[derive(Debug, thiserror::Error)]
pub enum FetchError {
    /// Its name does not resolve, or nothing listens there.
    #[error("could not connect to {host}")]
    Connect {
        /// Host and port.
        host: String,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// TLS failed.
    #[error("could not speak TLS to {host}")]
    Tls {
        /// Host and port.
        host: String,
        /// What went wrong.
        #[source]
        source: io::Error,
    },
    /// What it sent is no answer.
    #[error("{host} broke off its answer")]
    Answer {
        /// Host and port.
        host: String,
        /// What went wrong.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// It took too long.
    #[error("{host} did not answer within {seconds} s")]
    Slow {
        /// Host and port.
        host: String,
        /// How long was waited.
        seconds: u64,
    },
    /// It leads elsewhere in a way that is not followed.
    #[error("{url} leads to {location}, which is not followed")]
    Redirect {
        /// Where it was asked.
        url: String,
        /// Where it leads.
        location: String,
    },
    /// The certificate authorities of this machine cannot be used.
    #[error("the certificate authorities of this machine cannot be used: {0}")]
    Authorities(String),
}

impl FetchError {
    /// What a person can do about it.
    #[must_use]
    pub const fn hint(&self) -> Option<&'static str> {
        match self {
            Self::Tls { .. } => {
                Some("behind a gateway that inspects TLS, set network.ca_bundle to its authorities")
            }
            _ => None,
        }
    }
}

/// A way to get pages.
#[async_trait]
pub trait Fetch: Send + Sync {
    /// Gets `url`, following redirects; `accept` says which kinds of document are wanted.
    ///
    /// # Errors
    /// When there is no answer; an answer that says no is a [`Page`].
    async fn get(&self, url: &Url, accept: &str) -> Result<Page, FetchError>;
}
