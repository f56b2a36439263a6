//! The newest answers of this node, for commands that come once more because an answer was lost.

use std::collections::VecDeque;

use parking_lot::Mutex;

use super::message::Answer;

/// Answers kept at most; the oldest is forgotten. An asker repeats within a second, so these are seconds' worth.
const ANSWERS_MAX: usize = 256;

/// (asker, request) and what was answered.
type Kept = ((String, u64), Answer);

/// Answers that were given.
#[derive(Debug, Default)]
pub(super) struct Answered(Mutex<VecDeque<Kept>>);

impl Answered {
    pub(super) fn find(&self, from: &str, request: u64) -> Option<Answer> {
        let kept = self.0.lock();
        kept.iter().find(|((asker, id), _)| *id == request && asker == from).map(|(_, answer)| answer.clone())
    }

    pub(super) fn keep(&self, from: &str, request: u64, answer: &Answer) {
        let mut kept = self.0.lock();
        if kept.len() == ANSWERS_MAX {
            kept.pop_front();
        }
        kept.push_back(((from.to_owned(), request), answer.clone()));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_newest_answers_are_known_and_no_more() {
        let answered = Answered::default();
        let answer = |connections| Answer { connections, ..Answer::default() };
        for request in 0..=ANSWERS_MAX as u64 {
            answered.keep("n1", request, &answer(request as u32));
        }
        assert_eq!(answered.find("n1", 0), None);
        assert_eq!(answered.find("n1", 1), Some(answer(1)));
        assert_eq!(answered.find("n2", 1), None);
    }
}
