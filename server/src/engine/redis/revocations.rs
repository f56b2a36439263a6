//! Revocations in the store: a hash of subjects, and by what serial and until when each of them is there.
//!
//! A node reads what is newer than the serial that it read last, so that a look costs one small command while nothing
//! changes. Another life of the data, or a serial that went back, means that some may be lost; nodes hand in theirs then.

use std::sync::Arc;

use redis::Value;

use super::link::{CallError, UNAVAILABLE};
use super::state::text;
use super::{Inner, scripts};
use crate::engine::{EngineError, REVOCATIONS_PAGE, Revocation, RevocationCursor, RevocationPage, Subject};

/// What is handed in with one round trip.
const RESTORED_AT_ONCE: usize = 100;
/// When a revocation may be tried again that found the table full, ms.
const FULL_RETRY_MS: u32 = 60_000;

/// Which of two rules a change goes by.
#[derive(Clone, Copy)]
enum Rule {
    /// It is made now.
    Change,
    /// It was made before, and holds if it is newer.
    Known,
}

impl Inner {
    pub(super) async fn revoke(&self, change: Revocation) -> Result<Revocation, EngineError> {
        let up = self.up()?;
        let change = Revocation { changed_ms: self.clock.now_ms(), ..change };
        let cmd = self.revoke_command(&up, &change, Rule::Change);
        let answer = self.link.call(&up, &cmd).await.map_err(CallError::into_engine)?;
        match text(&answer) {
            Some("full") => Err(EngineError::Full { what: "revocations", retry_after_ms: FULL_RETRY_MS }),
            Some(kept) => parse(change.subject, kept).ok_or(UNAVAILABLE),
            None => Err(UNAVAILABLE),
        }
    }

    pub(super) async fn restore(&self, known: Vec<Revocation>) -> Result<(), EngineError> {
        let up = self.up()?;
        for some in known.chunks(RESTORED_AT_ONCE) {
            let mut pipeline = redis::pipe();
            for change in some {
                pipeline.add_command(self.revoke_command(&up, change, Rule::Known));
            }
            let answers = self.link.call_all(&up, &pipeline).await.map_err(CallError::into_engine)?;
            if answers.iter().any(|answer| text(answer) == Some("full")) {
                return Err(EngineError::Full { what: "revocations", retry_after_ms: FULL_RETRY_MS });
            }
        }
        Ok(())
    }

    fn revoke_command(&self, up: &super::Up, change: &Revocation, rule: Rule) -> redis::Cmd {
        let mut cmd = up.script(scripts::REVOKE, &self.keys.revocations());
        cmd.arg(self.clock.now_ms()).arg(self.options.revocations_max);
        cmd.arg(match rule {
            Rule::Change => "change",
            Rule::Known => "known",
        });
        cmd.arg(change.subject.to_text()).arg(change.changed_ms).arg(change.issued_through_ms).arg(change.until_ms);
        cmd.arg(u8::from(change.lifted));
        cmd
    }

    pub(super) async fn revocations(&self, after: Option<&RevocationCursor>) -> Result<RevocationPage, EngineError> {
        let up = self.up()?;
        let [table, serials, _] = self.keys.revocations();
        let mut cmd = redis::cmd("HGET");
        cmd.arg(&table).arg("#");
        let newest = self.link.call(&up, &cmd).await.map_err(CallError::into_engine)?;
        let newest: u64 = text(&newest).and_then(|serial| serial.parse().ok()).unwrap_or(0);
        let life = Arc::clone(&up.replication_id);
        let anew = after.is_some_and(|after| after.life != life || after.serial > newest);
        let from = after.filter(|_| !anew).map_or(0, |after| after.serial);
        let page = |changes, serial, more| RevocationPage {
            changes,
            cursor: RevocationCursor { life: Arc::clone(&life), serial },
            more,
            anew,
        };
        if from == newest {
            return Ok(page(Vec::new(), newest, false));
        }
        let mut cmd = redis::cmd("ZRANGEBYSCORE");
        cmd.arg(&serials).arg(format!("({from}")).arg(newest).arg("WITHSCORES").arg("LIMIT").arg(0);
        cmd.arg(REVOCATIONS_PAGE);
        let Value::Array(found) = self.link.call(&up, &cmd).await.map_err(CallError::into_engine)? else {
            return Err(UNAVAILABLE);
        };
        let (fields, scores): (Vec<&str>, Vec<&str>) =
            found.chunks(2).filter_map(|pair| Some((text(&pair[0])?, text(pair.get(1)?)?))).unzip();
        // What changed since, or ended, has no serial in this stretch any more.
        let Some(last) = scores.last().and_then(|score| score.parse::<u64>().ok()) else {
            return Ok(page(Vec::new(), newest, false));
        };
        let mut cmd = redis::cmd("HMGET");
        cmd.arg(&table).arg(&fields);
        let Value::Array(kept) = self.link.call(&up, &cmd).await.map_err(CallError::into_engine)? else {
            return Err(UNAVAILABLE);
        };
        let changes =
            fields.iter().zip(&kept).filter_map(|(field, kept)| parse(Subject::from_text(field)?, text(kept)?));
        let more = fields.len() == REVOCATIONS_PAGE;
        Ok(page(changes.collect(), if more { last } else { newest }, more))
    }
}

fn parse(subject: Subject, kept: &str) -> Option<Revocation> {
    let mut numbers = kept.split(' ').map(str::parse::<u64>);
    let mut next = || numbers.next()?.ok();
    let (changed_ms, issued_through_ms, until_ms, lifted) = (next()?, next()?, next()?, next()? == 1);
    Some(Revocation { subject, issued_through_ms, until_ms, changed_ms, lifted })
}
