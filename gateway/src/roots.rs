//! The roots that device certificates must chain to; may change at run time.

use std::sync::{
    Arc, PoisonError, RwLock,
    atomic::{AtomicU64, Ordering},
};

use tokio::sync::watch;
use wardring_seal::Roots;

/// The roots in force, with a number that moves when they change.
#[derive(Debug)]
pub struct TrustedRoots {
    current: RwLock<Option<Arc<Roots>>>,
    generation: AtomicU64,
    changed: watch::Sender<Option<Arc<Roots>>>,
}

impl Default for TrustedRoots {
    fn default() -> TrustedRoots {
        TrustedRoots {
            current: RwLock::new(None),
            generation: AtomicU64::new(0),
            changed: watch::Sender::new(None),
        }
    }
}

impl TrustedRoots {
    /// Takes roots into force; connections of earlier ones are judged anew at their next request.
    pub fn replace(&self, roots: Roots) {
        let roots = Arc::new(roots);
        *self.current.write().unwrap_or_else(PoisonError::into_inner) = Some(roots.clone());
        self.generation.fetch_add(1, Ordering::Release);
        self.changed.send_replace(Some(roots));
    }

    /// The roots, once they are known.
    pub fn current(&self) -> Option<Arc<Roots>> {
        self.current.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Moves when the roots change.
    pub fn generation(&self) -> u64 {
        self.generation.load(Ordering::Acquire)
    }

    /// Follows the roots.
    pub fn follow(&self) -> watch::Receiver<Option<Arc<Roots>>> {
        self.changed.subscribe()
    }
}
