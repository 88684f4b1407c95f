//! Pages of what differs between two ids.

use std::ops::ControlFlow;
use std::rc::Rc;

use super::Shard;
use super::message::{Difference, DifferenceRequest, RawDiffering, answer};
use super::subscribers::PAGE_BYTES;
use crate::env::Class;
use crate::error::Result;
use crate::pstate::Between;

impl Shard {
    pub(super) fn difference(self: &Rc<Self>, request: DifferenceRequest) {
        let shard = Rc::clone(self);
        self.env.spawn(Class::Client, "page of a difference", async move {
            let found = shard.page_of_difference(&request).await;
            answer(request.reply, found);
        });
    }

    async fn page_of_difference(&self, request: &DifferenceRequest) -> Result<Difference> {
        let DifferenceRequest { topology, partition, watch, ids: (from, to), after, .. } = request;
        let partition = Rc::clone(self.partition(*partition)?);
        let (mut lower, upper) = watch.bounds();
        if let Some(after) = after {
            lower = after.clone();
            lower.push(0);
        }
        let mut page = Difference { rows: Vec::new(), is_last: true };
        let mut bytes = 0;
        let visit = |key: &[u8], before: Option<&[u8]>, after: Option<&[u8]>| {
            if watch.keys_only && before.is_some() == after.is_some() {
                return ControlFlow::Continue(());
            }
            if bytes >= PAGE_BYTES {
                page.is_last = false;
                return ControlFlow::Break(());
            }
            let is_told =
                |told: bool| move |value: &[u8]| Box::from(if told { value } else { &[] });
            let row = RawDiffering {
                key: key.into(),
                before: before.map(is_told(!watch.keys_only && !request.after_only)),
                after: after.map(is_told(!watch.keys_only)),
            };
            bytes += row.bytes();
            page.rows.push(row);
            ControlFlow::Continue(())
        };
        let between = Between { topology: *topology, from: *from, to: *to };
        let keys = (lower.as_slice(), upper.as_ref().map(crate::codec::KeyBuf::as_slice));
        let compared = partition.store.difference(between, watch.pstate, keys, visit);
        compared.await.map_err(|error| self.read_failed(&error))?;
        Ok(page)
    }
}
