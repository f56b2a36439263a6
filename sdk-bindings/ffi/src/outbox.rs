//! How publishes of an earlier run end.

use std::fmt;
use std::future::Future;
use std::pin::pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use crate::cancel::Cancellation;
use crate::error::FfiError;
use crate::event::{Body, Lane};
use crate::live::Counted;
use crate::publish::Published;
use crate::pull::{Pull, Source, gather};
use crate::run;

/// How a publish of an earlier run ended. Of `published` and `failure` there is one.
#[derive(Clone, Debug, PartialEq, uniffi::Record)]
pub struct Outcome {
    /// The room.
    pub room: String,
    /// The lane.
    pub lane: Lane,
    /// The event's type.
    pub r#type: String,
    /// The event's key.
    pub key: String,
    /// The payload.
    pub body: Body,
    /// Where it is stored.
    pub published: Option<Published>,
    /// Why it is not.
    pub failure: Option<FfiError>,
}

impl From<&lanecast::Outcome> for Outcome {
    fn from(outcome: &lanecast::Outcome) -> Self {
        Self {
            room: outcome.room.clone(),
            lane: outcome.lane.into(),
            r#type: outcome.r#type.clone(),
            key: outcome.key.clone(),
            body: (&outcome.body).into(),
            published: outcome.result.clone().ok().map(Into::into),
            failure: outcome.result.clone().err().map(Into::into),
        }
    }
}

/// Some outcomes.
#[derive(Clone, Debug, uniffi::Record)]
pub struct OutcomeBatch {
    /// What to ask after for the next one.
    pub number: u64,
    /// The outcomes. Empty: there are no more.
    pub outcomes: Vec<Outcome>,
}

/// How the publishes of an earlier run end, which no receipt waits for. Each comes once.
#[derive(uniffi::Object)]
pub struct Outcomes {
    pull: Arc<Pull<Reader>>,
    _counted: Counted,
}

struct Reader(lanecast::Outcomes);

impl Source for Reader {
    type Item = lanecast::Outcome;
    type Place = ();

    fn poll_batch(&mut self, cx: &mut Context<'_>, max: usize) -> Poll<Vec<Self::Item>> {
        gather(max, || pin!(self.0.next()).poll(cx))
    }
}

impl Outcomes {
    pub(crate) fn new(outcomes: lanecast::Outcomes) -> Arc<Self> {
        Arc::new(Self { pull: Arc::new(Pull::new(Reader(outcomes))), _counted: Counted::object() })
    }
}

#[uniffi::export]
impl Outcomes {
    /// The outcomes after that batch, 0 for the first: at least one and at most `max`, or 4,096. A call that was cancelled
    /// takes nothing along: the same call gives the same batch. Calls wait for each other.
    ///
    /// # Errors
    ///
    /// Of kind `Invalid` if `max` is 0 or `after_batch` is neither the number of the last batch nor of the one before;
    /// `Cancelled`.
    pub async fn next_batch(
        &self,
        after_batch: u64,
        max: u32,
        cancellation: Option<Arc<Cancellation>>,
    ) -> Result<OutcomeBatch, FfiError> {
        let pull = self.pull.clone();
        run::call(cancellation, async move {
            let (number, batch) = pull.next(after_batch, max).await?;
            Ok(OutcomeBatch { number, outcomes: batch.items.iter().map(Into::into).collect() })
        })
        .await
    }

    /// Reads no more. Who waits for a batch gets an empty one.
    pub fn cancel(&self) {
        self.pull.end();
    }
}

/// A call that was given up may still hold the source for a moment. What it was for is over all the same.
impl Drop for Outcomes {
    fn drop(&mut self) {
        self.pull.end();
    }
}

impl fmt::Debug for Outcomes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Outcomes").finish_non_exhaustive()
    }
}
