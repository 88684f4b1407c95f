//! Finding an element by its index: from the root down, one scan a level.

use super::{Block, Error, Head, Label, List, Result, Rows, decode_id};
use crate::codec::KeyBuf;

/// The way from the root to an element, or to where one could be.
#[derive(Debug)]
pub(super) struct Way {
    /// The blocks the element is in, from level 1 up to the root.
    pub(super) steps: Vec<Step>,
    /// The element's index in its block of level 1.
    pub(super) nth: usize,
}

/// One block of a [`Way`].
#[derive(Clone, Copy, Debug)]
pub(super) struct Step {
    pub(super) block: Block,
    /// Where the next block begins; none behind the last.
    pub(super) end: Option<Label>,
    /// It is the last one of its level.
    pub(super) is_tail: bool,
}

impl<R: Rows> List<'_, R> {
    /// The values at `from` and behind it, at most `count` of them; fewer at the end of the list.
    pub(crate) async fn slice(&self, from: u64, count: u64) -> Result<Vec<Vec<u8>>, R::Error> {
        let Some(head) = self.head().await? else { return Ok(Vec::new()) };
        if from >= head.count() || count == 0 {
            return Ok(Vec::new());
        }
        let way = self.way(&head, from).await?;
        let count = usize::try_from(count.min(head.count() - from)).unwrap_or(usize::MAX);
        let limit = way.nth.saturating_add(count);
        let rows = self.scan(0, (way.steps[0].block.label, None), limit, false).await?;
        if rows.len() < limit {
            return Err(Error::Malformed("it ends before its last element"));
        }
        Ok(rows.into_iter().skip(way.nth).map(|(_, value)| value).collect())
    }

    /// The id of the element at `index`, which is a collection; none behind the last element.
    pub(crate) async fn id(&self, index: u64) -> Result<Option<u64>, R::Error> {
        let found = self.slice(index, 1).await?;
        found.first().map(|value| decode_id(value).map_err(Error::Malformed)).transpose()
    }

    /// Where a scan has to begin that is to give the element at `index`: at the key of the first one of its
    /// block, of which so many come before it. None behind the last element.
    pub(crate) async fn locate(
        &self,
        head: &Head,
        index: u64,
    ) -> Result<Option<(KeyBuf, usize)>, R::Error> {
        if index >= head.count() {
            return Ok(None);
        }
        let way = self.way(head, index).await?;
        Ok(Some((self.key(0, way.steps[0].block.label), way.nth)))
    }

    /// The way to the element at `index`, which must be below the count.
    pub(super) async fn way(&self, head: &Head, index: u64) -> Result<Way, R::Error> {
        assert!(index < head.count(), "the element exists");
        let root = Step { block: head.root(), end: None, is_tail: true };
        let mut steps = vec![root];
        let mut left = index;
        for level in (1..head.levels()).rev() {
            let parent = steps[steps.len() - 1];
            let children = self.children(head, level, parent).await?;
            let mut found = None;
            for (nth, child) in children.iter().enumerate() {
                if left < child.elements {
                    let next = children.get(nth + 1).map(|next| next.label);
                    let is_tail = parent.is_tail && next.is_none();
                    found = Some(Step { block: *child, end: next.or(parent.end), is_tail });
                    break;
                }
                left -= child.elements;
            }
            steps.push(found.ok_or(Error::Malformed("a block counts more than is in it"))?);
        }
        steps.reverse();
        let nth = usize::try_from(left).ok().filter(|&nth| nth < steps[0].block.children as usize);
        let nth = nth.ok_or(Error::Malformed("a block counts more than is in it"))?;
        Ok(Way { steps, nth })
    }

    /// The children of a block that are blocks of `level`.
    pub(super) async fn children(
        &self,
        head: &Head,
        level: usize,
        parent: Step,
    ) -> Result<Vec<Block>, R::Error> {
        let count = parent.block.children as usize;
        // The last block of a level has no row.
        let rows_count = count - usize::from(parent.is_tail);
        let rows =
            self.scan(level, (parent.block.label, parent.end), rows_count + 1, false).await?;
        if rows.len() != rows_count {
            return Err(Error::Malformed("a block has more or fewer children than it says"));
        }
        let mut blocks = Vec::with_capacity(count);
        for (key, value) in &rows {
            blocks.push(Block::decode(self.label(key)?, value).map_err(Error::Malformed)?);
        }
        if parent.is_tail {
            blocks.push(head.tails[level - 1]);
        }
        let ascend = blocks.is_sorted_by(|a, b| a.label < b.label);
        let sum = blocks.iter().try_fold(0_u64, |sum, block| sum.checked_add(block.elements));
        if !ascend || sum != Some(parent.block.elements) {
            return Err(Error::Malformed("a block's children do not add up to it"));
        }
        Ok(blocks)
    }

    /// The labels of the first elements of a block of level 1, which has that many.
    pub(super) async fn labels(&self, step: Step, count: usize) -> Result<Vec<Label>, R::Error> {
        let rows = self.scan(0, (step.block.label, step.end), count, true).await?;
        if rows.len() != count {
            return Err(Error::Malformed("a block has fewer elements than it says"));
        }
        rows.iter().map(|(key, _)| self.label(key)).collect()
    }
}
