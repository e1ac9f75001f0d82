//! How do two gateways prove to each other that they know the cluster's secret? Each signs the other's nonce, with what it
//! wants, so neither learns the secret nor can use an old answer.
//!
//! ```text
//! caller                        listener
//!   |<--------- Challenge{nonce} --|
//!   |-- Hello{nonce, purpose, proof} ->|
//!   |<-- Welcome{gateway, epoch, proof} --|   or the connection is closed
//! ```
use hmac::{Hmac, KeyInit, Mac};
use serde::{Deserialize, Serialize};
use sha2::Sha256;
use uuid::Uuid;

/// The listener's first message.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Challenge {
    pub(super) nonce: String,
}

/// What a caller wants.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum Purpose {
    /// To follow the listener.
    Follow,
    /// To have the listener follow the caller, who leads.
    Summon {
        /// Where the caller's link listens.
        address: String,
        /// The epoch of its lease.
        epoch: u64,
    },
    /// To see the state of the listener's scheduler.
    Look {
        /// What it wants to see.
        question: String,
    },
}

/// The caller's answer.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Hello {
    pub(super) gateway: String,
    pub(super) nonce: String,
    pub(super) purpose: Purpose,
    pub(super) proof: String,
}

/// The listener's last word before the frames.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Welcome {
    pub(super) gateway: String,
    pub(super) epoch: u64,
    pub(super) proof: String,
}

/// The cluster's secret.
#[derive(Clone)]
pub(super) struct Secret(String);

impl Secret {
    pub(super) fn new(secret: String) -> Self {
        Self(secret)
    }

    pub(super) fn challenge() -> Challenge {
        Challenge { nonce: nonce() }
    }

    pub(super) fn hello(&self, gateway: &str, purpose: Purpose, challenge: &Challenge) -> Hello {
        let nonce = nonce();
        let proof = self.sign(&["hello", gateway, &nonce, &challenge.nonce, &words(&purpose)]);
        Hello { gateway: gateway.to_owned(), nonce, purpose, proof }
    }

    /// Whether the caller knows the secret.
    pub(super) fn accepts_hello(&self, hello: &Hello, challenge: &Challenge) -> bool {
        let Hello { gateway, nonce, purpose, proof } = hello;
        self.is_signed(&["hello", gateway, nonce, &challenge.nonce, &words(purpose)], proof)
    }

    pub(super) fn welcome(&self, gateway: &str, epoch: u64, hello: &Hello) -> Welcome {
        let proof = self.sign(&["welcome", gateway, &epoch.to_string(), &hello.nonce]);
        Welcome { gateway: gateway.to_owned(), epoch, proof }
    }

    /// Whether the listener knows the secret.
    pub(super) fn accepts_welcome(&self, welcome: &Welcome, hello: &Hello) -> bool {
        let Welcome { gateway, epoch, proof } = welcome;
        self.is_signed(&["welcome", gateway, &epoch.to_string(), &hello.nonce], proof)
    }

    fn sign(&self, parts: &[&str]) -> String {
        let signature = self.mac(parts).finalize().into_bytes();
        signature.iter().map(|byte| format!("{byte:02x}")).collect()
    }

    fn is_signed(&self, parts: &[&str], proof: &str) -> bool {
        use subtle::ConstantTimeEq;
        self.sign(parts).as_bytes().ct_eq(proof.as_bytes()).into()
    }

    fn mac(&self, parts: &[&str]) -> Hmac<Sha256> {
        // HMAC takes a key of any length.
        let empty = || <Hmac<Sha256> as KeyInit>::new(&Default::default());
        let mut mac = Hmac::<Sha256>::new_from_slice(self.0.as_bytes()).unwrap_or_else(|_| empty());
        for part in parts {
            mac.update(&u64::try_from(part.len()).unwrap_or(u64::MAX).to_be_bytes());
            mac.update(part.as_bytes());
        }
        mac
    }
}

/// Never the same twice.
fn nonce() -> String {
    Uuid::now_v7().to_string()
}

fn words(purpose: &Purpose) -> String {
    match purpose {
        Purpose::Follow => "follow".to_owned(),
        Purpose::Summon { address, epoch } => format!("summon {epoch} {address}"),
        Purpose::Look { question } => format!("look {question}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_who_knows_the_secret_is_accepted_and_only_for_what_it_said() {
        let (own, other) = (Secret::new("a secret".to_owned()), Secret::new("another".to_owned()));
        let challenge = Secret::challenge();
        let hello = own.hello("g", Purpose::Follow, &challenge);
        assert!(own.accepts_hello(&hello, &challenge));
        assert!(!other.accepts_hello(&hello, &challenge));
        assert!(!own.accepts_hello(&hello, &Secret::challenge()), "an old answer");
        let purpose = Purpose::Summon { address: "http://x:1".to_owned(), epoch: 9 };
        assert!(!own.accepts_hello(&Hello { purpose, ..hello }, &challenge));

        let hello = own.hello("g", Purpose::Follow, &challenge);
        let welcome = own.welcome("l", 3, &hello);
        assert!(own.accepts_welcome(&welcome, &hello));
        assert!(!own.accepts_welcome(&Welcome { epoch: 4, ..own.welcome("l", 3, &hello) }, &hello));
        assert!(!other.accepts_welcome(&welcome, &hello));
    }
}
