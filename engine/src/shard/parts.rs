//! One answer to a request of several parts, which are done at different times.

use std::cell::{Cell, RefCell};
use std::rc::Rc;

use super::message::{Reply, answer};

/// Where the answer to one part goes. Once all parts are answered, so is the request. If any of them is
/// dropped instead, the request never is, which means that the shard ended first.
pub(crate) struct Part<T> {
    request: Rc<Request<T>>,
    place: usize,
}

struct Request<T> {
    reply: Cell<Option<Reply<Vec<T>>>>,
    answers: RefCell<Vec<Option<T>>>,
    left: Cell<usize>,
}

impl<T> Part<T> {
    /// The parts of a request, in order; there must be at least one.
    pub(crate) fn of(reply: Reply<Vec<T>>, count: usize) -> impl ExactSizeIterator<Item = Self> {
        assert!(count > 0, "nobody would answer");
        let mut answers = Vec::new();
        answers.resize_with(count, || None);
        let request = Rc::new(Request {
            reply: Cell::new(Some(reply)),
            answers: RefCell::new(answers),
            left: Cell::new(count),
        });
        (0..count).map(move |place| Self { request: Rc::clone(&request), place })
    }

    /// Answers this part.
    pub(crate) fn answer(self, with: T) {
        let request = &*self.request;
        let before = request.answers.borrow_mut()[self.place].replace(with);
        assert!(before.is_none(), "a part is answered once");
        request.left.set(request.left.get() - 1);
        if request.left.get() == 0
            && let Some(reply) = request.reply.take()
        {
            answer(reply, Ok(request.answers.take().into_iter().flatten().collect()));
        }
    }
}

#[cfg(test)]
mod tests {
    use futures_channel::oneshot;

    use super::*;

    #[test]
    fn the_answer_comes_with_the_last_part_and_in_order() {
        let (reply, mut answered) = oneshot::channel();
        let mut parts: Vec<_> = Part::of(reply, 3).collect();
        for place in [1, 0] {
            parts.remove(place).answer(place);
            assert!(answered.try_recv().unwrap().is_none());
        }
        parts.remove(0).answer(2);
        assert_eq!(answered.try_recv().unwrap().unwrap().unwrap(), [0, 1, 2]);
    }

    #[test]
    fn a_dropped_part_is_a_dropped_request() {
        let (reply, mut answered) = oneshot::channel();
        let mut parts: Vec<_> = Part::of(reply, 2).collect();
        drop(parts.pop());
        parts.pop().unwrap().answer(());
        assert!(answered.try_recv().is_err());
    }
}
