//! New labels where there is no room between two elements.

use super::find::{Step, Way};
use super::{Block, Edits, Head, Label, List, Result};

impl<R: Edits> List<'_, R> {
    /// Inserts an element in front of the one that `way` leads to, or at the end if there is none, and labels
    /// anew what is in the smallest block around it that has room.
    ///
    /// The block is built again, so it also becomes as tight as one that filled by itself. It is large only if
    /// many elements came to lie close together: where a block of a level was used up, the next one to be
    /// built again around it has a whole block's labels for each of its children.
    pub(super) async fn insert_anew(
        &self,
        mut head: Head,
        way: Option<Way>,
        value: &[u8],
    ) -> Result<(), R::Error> {
        let (mut way, is_end) = match way {
            Some(way) => (way, false),
            None => (self.way(&head, head.count() - 1).await?, true),
        };
        let before = self.labels(way.steps[0], way.nth + 1).await?[way.nth];
        let level = self.level_with_room(&way.steps);
        let step = way.steps[level - 1];
        let rows = self.scan(0, (step.block.label, step.end), usize::MAX, false).await?;
        let mut values = Vec::with_capacity(rows.len() + 1);
        let mut is_placed = false;
        for (key, old) in rows {
            if !is_end && !is_placed && self.label(&key)? == before {
                values.push(value.to_vec());
                is_placed = true;
            }
            values.push(old);
        }
        if is_end {
            values.push(value.to_vec());
        }
        for below in 0..level {
            let (from, to) = (self.key(below, step.block.label), self.end(below, step.end));
            self.rows.delete_range(&from, &to)?;
        }
        let labels = spread(step, values.len());
        for (label, value) in labels.iter().zip(&values) {
            self.rows.put(&self.key(0, *label), value)?;
        }
        head.last = labels.iter().copied().fold(head.last, Label::max);
        let children = self.build(&mut head, level, step, labels)?;
        way.steps[level - 1].block.children = children;
        for step in &mut way.steps[level - 1..] {
            step.block.elements += 1;
        }
        self.settle(&mut head, &mut way.steps, level).await?;
        self.put_head(&head)
    }

    /// The lowest level whose block on the way has labels enough for its elements and one more.
    fn level_with_room(&self, steps: &[Step]) -> usize {
        let has_room =
            |step: &Step| span(*step) / u128::from(step.block.elements + 1) >= self.gap_min;
        steps.iter().position(has_room).map_or(steps.len(), |below| below + 1)
    }

    /// Builds the blocks below `level` in a block of that level, whose elements have these labels; how many
    /// children it has.
    fn build(
        &self,
        head: &mut Head,
        level: usize,
        step: Step,
        labels: Vec<Label>,
    ) -> Result<u32, R::Error> {
        let leaf = |label| Block { label, elements: 1, children: 1 };
        let mut blocks: Vec<Block> = labels.into_iter().map(leaf).collect();
        for below in 1..level {
            blocks = self.parents(&blocks, step.block.label, level);
            let (last, others) = blocks.split_last().expect("it has elements");
            for block in others {
                self.put_block(below, *block)?;
            }
            if step.is_tail {
                head.tails[below - 1] = *last;
            } else {
                self.put_block(below, *last)?;
            }
        }
        Ok(u32::try_from(blocks.len()).expect("children were built of few each"))
    }

    /// Blocks over these, all about equally full; the first begins at `first`.
    fn parents(&self, children: &[Block], first: Label, level: usize) -> Vec<Block> {
        // With some room, as long as the block that is built gets fewer than twice as many children as it may
        // have: then one split is enough.
        let max = self.children_max as usize;
        let full = if level <= 3 { max * 3 / 4 } else { max };
        let count = children.len().div_ceil(full);
        let block = |nth: usize| {
            let group = &children[children.len() * nth / count..children.len() * (nth + 1) / count];
            Block {
                label: if nth == 0 { first } else { group[0].label },
                elements: group.iter().map(|child| child.elements).sum(),
                children: u32::try_from(group.len()).expect("at most as many as fit"),
            }
        };
        (0..count).map(block).collect()
    }
}

/// How many labels a block has.
fn span(step: Step) -> u128 {
    step.end.unwrap_or(Label::MAX) - step.block.label
}

/// Labels for so many elements of a block, with equal room before, between and behind them.
fn spread(step: Step, count: usize) -> Vec<Label> {
    let gap = span(step) / count as u128;
    assert!(gap > 0, "a block has more labels than elements");
    (0..count as u128).map(|nth| step.block.label + gap * nth + gap / 2).collect()
}
