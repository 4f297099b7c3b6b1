//! Decides who may use the channel: whoever hands over the secret first, then who proves it.

use forge_wire::handshake::End;
use forge_wire::message::Settings;
use forge_wire::{Nonce, Proof, Request, Secret};

/// What is known about the owner of this sandbox.
#[derive(Debug, Default)]
pub(crate) struct Gate {
    owner: Option<Owner>,
}

#[derive(Debug)]
struct Owner {
    secret: Secret,
    /// The highest that was proved.
    epoch: u64,
    settings: Settings,
}

/// The answer to a first frame.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// The client is the owner; this is our own proof.
    Welcome(Proof),
    /// It was the owner until one of this epoch came; this is our own proof of that.
    Superseded { epoch: u64, proof: Proof },
    /// It is not.
    Refused,
}

impl Gate {
    /// Whether a secret was handed over.
    pub(crate) fn is_claimed(&self) -> bool {
        self.owner.is_some()
    }

    /// What the owner wants to be watched.
    pub(crate) fn settings(&self) -> Option<&Settings> {
        self.owner.as_ref().map(|owner| &owner.settings)
    }

    /// Judges the first frame of a connection that was greeted with `sandbox_nonce`.
    pub(crate) fn judge(&mut self, request: Request, sandbox_nonce: &Nonce) -> Verdict {
        match (request, &mut self.owner) {
            (
                Request::Claim {
                    nonce,
                    secret,
                    epoch,
                    settings,
                },
                None,
            ) if is_usable(&settings) => {
                let proof = Proof::make(&secret, End::Sandbox, epoch, sandbox_nonce, &nonce);
                self.owner = Some(Owner {
                    secret,
                    epoch,
                    settings,
                });
                Verdict::Welcome(proof)
            }
            (
                Request::Prove {
                    nonce,
                    epoch,
                    proof,
                },
                Some(owner),
            ) if proof.is_from(&owner.secret, End::Client, epoch, sandbox_nonce, &nonce) => {
                let newest = owner.epoch.max(epoch);
                owner.epoch = newest;
                let proof = Proof::make(&owner.secret, End::Sandbox, newest, sandbox_nonce, &nonce);
                if epoch < newest {
                    Verdict::Superseded {
                        epoch: newest,
                        proof,
                    }
                } else {
                    Verdict::Welcome(proof)
                }
            }
            _ => Verdict::Refused,
        }
    }
}

/// A sandbox whose workspace cannot be watched must not look as if it were.
fn is_usable(settings: &Settings) -> bool {
    crate::names::split_absolute(settings.workspace.as_bytes()).is_ok_and(|parts| !parts.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    const SANDBOX: Nonce = [1; 32];
    const CLIENT: Nonce = [2; 32];

    fn claim(secret: u8) -> Request {
        Request::Claim {
            nonce: CLIENT,
            secret: Secret::new([secret; 32]),
            epoch: 5,
            settings: Settings {
                workspace: "/workspace".into(),
                disk_limit: 1,
                lifetime_seconds: 60,
                network: None,
            },
        }
    }

    fn prove(secret: u8, sandbox_nonce: &Nonce) -> Request {
        prove_epoch(secret, 5, sandbox_nonce)
    }

    fn prove_epoch(secret: u8, epoch: u64, sandbox_nonce: &Nonce) -> Request {
        let secret = Secret::new([secret; 32]);
        Request::Prove {
            nonce: CLIENT,
            epoch,
            proof: Proof::make(&secret, End::Client, epoch, sandbox_nonce, &CLIENT),
        }
    }

    #[test]
    fn the_first_claim_is_taken_and_no_other() {
        let mut gate = Gate::default();
        let Verdict::Welcome(proof) = gate.judge(claim(7), &SANDBOX) else {
            panic!("the first claim was refused");
        };
        assert!(proof.is_from(&Secret::new([7; 32]), End::Sandbox, 5, &SANDBOX, &CLIENT));
        assert_eq!(gate.judge(claim(7), &SANDBOX), Verdict::Refused);
        assert!(gate.is_claimed());
    }

    #[test]
    fn a_proof_must_answer_this_connection() {
        let mut gate = Gate::default();
        assert_eq!(gate.judge(prove(7, &SANDBOX), &SANDBOX), Verdict::Refused);
        gate.judge(claim(7), &SANDBOX);
        assert_eq!(gate.judge(prove(8, &SANDBOX), &SANDBOX), Verdict::Refused);
        assert_eq!(gate.judge(prove(7, &[9; 32]), &SANDBOX), Verdict::Refused);
        assert!(matches!(
            gate.judge(prove(7, &SANDBOX), &SANDBOX),
            Verdict::Welcome(_)
        ));
    }

    #[test]
    fn an_epoch_below_the_highest_that_was_proved_is_superseded() {
        let mut gate = Gate::default();
        gate.judge(claim(7), &SANDBOX);
        let mut judge = |epoch| gate.judge(prove_epoch(7, epoch, &SANDBOX), &SANDBOX);
        for (epoch, newest) in [(4, 5), (5, 5), (9, 9), (5, 9), (8, 9), (9, 9)] {
            let secret = Secret::new([7; 32]);
            let proof = Proof::make(&secret, End::Sandbox, newest, &SANDBOX, &CLIENT);
            let expected = if epoch < newest {
                let epoch = newest;
                Verdict::Superseded { epoch, proof }
            } else {
                Verdict::Welcome(proof)
            };
            assert_eq!(judge(epoch), expected);
        }
    }

    #[test]
    fn an_epoch_that_the_proof_does_not_cover_is_refused_and_not_kept() {
        let mut gate = Gate::default();
        gate.judge(claim(7), &SANDBOX);
        let mut request = prove(7, &SANDBOX);
        if let Request::Prove { epoch, .. } = &mut request {
            *epoch = 6;
        }
        assert_eq!(gate.judge(request, &SANDBOX), Verdict::Refused);
        let stranger = prove_epoch(8, 6, &SANDBOX);
        assert_eq!(gate.judge(stranger, &SANDBOX), Verdict::Refused);
        assert!(matches!(
            gate.judge(prove(7, &SANDBOX), &SANDBOX),
            Verdict::Welcome(_)
        ));
    }

    #[test]
    fn anything_but_a_handshake_is_refused() {
        let mut gate = Gate::default();
        gate.judge(claim(7), &SANDBOX);
        let ping = Request::Ping { request: 1 };
        assert_eq!(gate.judge(ping, &SANDBOX), Verdict::Refused);
    }

    #[test]
    fn a_claim_with_no_workspace_is_refused() {
        for workspace in ["", "/", "relative", "/a/../b"] {
            let mut request = claim(7);
            if let Request::Claim { settings, .. } = &mut request {
                settings.workspace = workspace.into();
            }
            assert_eq!(
                Gate::default().judge(request, &SANDBOX),
                Verdict::Refused,
                "{workspace}"
            );
        }
    }
}
