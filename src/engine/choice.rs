//! Which engine a gateway uses, and how it came to be that one.

use super::{EngineChoice, EngineError, EngineKind, probe};
use tracing::{info, warn};

/// The engines that `auto` tries, best first: by what docs/PERF.md measured.
pub const PREFERENCE: [EngineKind; 2] = [EngineKind::Uring, EngineKind::Epoll];

/// The engine to use.
#[derive(Debug)]
pub struct Choice {
    kind: EngineKind,
    /// Engines that `auto` prefers and that do not work here, each with its error.
    refused: Vec<(EngineKind, EngineError)>,
    /// Engines that may come next.
    others: &'static [EngineKind],
    is_auto: bool,
}

impl Choice {
    /// What a choice means here. An engine that the user names is not probed: if it does not work,
    /// its own error says why.
    #[must_use]
    pub fn new(choice: EngineChoice) -> Self {
        Self::by(choice, probe)
    }

    fn by(choice: EngineChoice, probe: impl FnMut(EngineKind) -> Result<(), EngineError>) -> Self {
        let refused = Vec::new();
        match choice {
            EngineChoice::Only(kind) => Self { kind, refused, others: &[], is_auto: false },
            EngineChoice::Auto => {
                let (kind, others) = (PREFERENCE[0], &PREFERENCE[1..]);
                let mut choice = Self { kind, refused, others, is_auto: true };
                choice.settle(probe);
                choice
            }
        }
    }

    /// Goes on to the first engine that works. When none does, there is most likely no TUN device:
    /// the start says so in its own words.
    fn settle(&mut self, mut probe: impl FnMut(EngineKind) -> Result<(), EngineError>) {
        while !self.others.is_empty()
            && let Err(error) = probe(self.kind)
        {
            let _ = self.refuse(error);
        }
    }

    fn refuse(&mut self, error: EngineError) -> Result<(), EngineError> {
        let Some((next, others)) = self.others.split_first() else { return Err(error) };
        self.refused.push((self.kind, error));
        (self.kind, self.others) = (*next, others);
        Ok(())
    }

    /// Takes note that the engine failed at the start although its probe had passed, and goes on
    /// to the next one that works.
    ///
    /// # Errors
    /// The engine's own, when it was asked for by name or is the last one.
    pub(crate) fn fall_back(&mut self, error: EngineError) -> Result<(), EngineError> {
        self.refuse(error)?;
        self.settle(probe);
        Ok(())
    }

    /// The engine.
    #[must_use]
    pub fn kind(&self) -> EngineKind {
        self.kind
    }

    /// Whether `auto` prefers another one, which does not work here.
    #[must_use]
    pub fn is_fallback(&self) -> bool {
        !self.refused.is_empty()
    }

    /// Why it is that one, for people.
    #[must_use]
    pub fn reason(&self) -> String {
        if !self.is_auto {
            return "as configured".to_owned();
        }
        if self.refused.is_empty() {
            return "preferred engine; its probe passed".to_owned();
        }
        let refused = self.refused.iter();
        let each = refused.map(|(kind, error)| format!("{kind} does not work here: {error}"));
        each.collect::<Vec<_>>().join("; ")
    }

    /// Logs the engine and the reason, in one line.
    pub fn announce(&self) {
        let (kind, reason) = (self.kind, self.reason());
        if self.is_fallback() {
            warn!("{reason}; using {kind} instead, see `twill doctor`");
        } else {
            info!("engine {kind}: {reason}");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use EngineKind::{Epoll, TokioUring, Uring};
    use std::io;

    #[test]
    fn auto_takes_the_first_engine_that_works() {
        let choice = Choice::by(EngineChoice::Auto, |_| Ok(()));

        assert_eq!((choice.kind(), choice.is_fallback()), (PREFERENCE[0], false));
        assert_eq!(choice.reason(), "preferred engine; its probe passed");
    }

    #[test]
    fn auto_passes_over_an_engine_that_does_not_work_and_says_why() {
        let probe = |kind| if kind == Epoll { Ok(()) } else { Err(refusal("io_uring", kind)) };
        let choice = Choice::by(EngineChoice::Auto, probe);

        assert_eq!((choice.kind(), choice.is_fallback()), (Epoll, true));
        let expected = "uring does not work here: io_uring is not available: says uring";
        assert!(choice.reason().starts_with(expected), "{}", choice.reason());
    }

    #[test]
    fn every_refusal_is_kept() {
        const ORDER: [EngineKind; 3] = [Uring, TokioUring, Epoll];
        let mut choice =
            Choice { kind: ORDER[0], refused: Vec::new(), others: &ORDER[1..], is_auto: true };

        choice.settle(|kind| Err(refusal("it", kind)));

        assert_eq!(choice.kind(), Epoll, "the last one is tried without a probe");
        assert_eq!(
            choice.reason(),
            "uring does not work here: it is not available: says uring; \
             tokio-uring does not work here: it is not available: says tokio-uring"
        );
    }

    #[test]
    fn an_engine_that_the_user_names_is_neither_probed_nor_replaced() {
        let unprobed = |_| panic!("nobody asked");
        let mut choice = Choice::by(EngineChoice::Only(Uring), unprobed);

        let error = choice.fall_back(refusal("a ring", Uring)).unwrap_err().to_string();

        assert_eq!(error, "a ring is not available: says uring");
        assert_eq!((choice.kind(), choice.is_fallback()), (Uring, false));
        assert_eq!(choice.reason(), "as configured");
    }

    fn refusal(what: &'static str, kind: EngineKind) -> EngineError {
        EngineError::Unsupported { what, source: io::Error::other(format!("says {kind}")) }
    }
}
