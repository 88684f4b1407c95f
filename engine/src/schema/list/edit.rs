//! Changing a list: every edit changes one element, one block of each level, and the head.

use super::find::{Step, Way};
use super::{Block, Edits, Error, Head, Label, List, Result, decode_id, encode_id};
use crate::schema::plan::RangeOp;

impl<R: Edits> List<'_, R> {
    /// Adds an element at the end.
    pub(crate) async fn push(&self, value: &[u8]) -> Result<(), R::Error> {
        self.extend(&[value]).await
    }

    /// Adds elements at the end, in their order. The head is read once, and written once.
    pub(crate) async fn extend<V: AsRef<[u8]>>(&self, values: &[V]) -> Result<(), R::Error> {
        let mut head = self.head().await?;
        for value in values {
            head = Some(self.append(head, value.as_ref()).await?);
        }
        head.map_or(Ok(()), |head| self.put_head(&head))
    }

    /// Adds an element at the end that is a collection, of which nothing is stored yet; its id.
    pub(crate) async fn push_new(&self) -> Result<u64, R::Error> {
        let mut head = self.head().await?;
        let (id, next_id) = ids(head.as_ref())?;
        match &mut head {
            Some(head) => head.next_id = next_id,
            None => self.clear_under().await?,
        }
        let head = self.append(head, &encode_id(id)).await?;
        self.put_head(&Head { next_id, ..head })?;
        Ok(id)
    }

    /// Adds an element in front of the one at `index`, or at the end if that is the count, that is a
    /// collection, of which nothing is stored yet; its id.
    pub(crate) async fn insert_new(&self, index: u64) -> Result<u64, R::Error> {
        let head = self.head().await?;
        let count = head.as_ref().map_or(0, Head::count);
        let (id, next_id) = ids(head.as_ref())?;
        match head {
            _ if index > count => Err(Error::Beyond { count }),
            Some(head) if index < count => {
                self.insert_before(Head { next_id, ..head }, index, &encode_id(id)).await?;
                Ok(id)
            }
            _ => self.push_new().await,
        }
    }

    /// Ids begin anew in a list that had become empty. Whoever wrote under an item that was gone left something
    /// there, which is no part of an item that comes after it.
    async fn clear_under(&self) -> Result<(), R::Error> {
        let (from, to) = super::under_range(self.prefix);
        let (limit, prefix_bytes) = (Some(1), self.prefix.len());
        let any =
            RangeOp { from, to: Some(to), reverse: false, limit, keys_only: true, prefix_bytes };
        if !self.rows.scan(&any).await?.is_empty() {
            let (from, to) = super::under_range(self.prefix);
            self.rows.delete_range(&from, &to)?;
        }
        Ok(())
    }

    /// The head once an element was written behind all others; it is the caller's to write.
    async fn append(&self, head: Option<Head>, value: &[u8]) -> Result<Head, R::Error> {
        let Some(mut head) = head else { return self.put_first(value) };
        if let Some(label) = self.label_behind(head.last) {
            self.put_last(&mut head, label, value)?;
            return Ok(head);
        }
        self.insert_anew(head, None, value).await?;
        self.head().await?.ok_or(Error::Malformed("its head is gone"))
    }

    /// Writes an element behind all others, and what of the blocks does not lie in the head.
    fn put_last(&self, head: &mut Head, label: Label, value: &[u8]) -> Result<(), R::Error> {
        self.rows.put(&self.key(0, label), value)?;
        head.last = label;
        for tail in &mut head.tails {
            tail.elements += 1;
        }
        head.tails[0].children += 1;
        let count = head.count();
        let mut last = Block { label, elements: 1, children: 1 };
        let mut level = 1;
        while head.tails[level - 1].children > self.children_max {
            // The new element begins a block: those that fill from the end are full.
            let tail = &mut head.tails[level - 1];
            let new = Block { children: 1, ..last };
            let full = Block {
                label: tail.label,
                elements: tail.elements - new.elements,
                children: tail.children - 1,
            };
            *tail = new;
            last = new;
            self.put_block(level, full)?;
            match head.tails.get_mut(level) {
                Some(parent) => parent.children += 1,
                None => head.add_root(count),
            }
            level += 1;
        }
        Ok(())
    }

    /// Adds an element in front of the one at `index`, or at the end if that is the count.
    pub(crate) async fn insert(&self, index: u64, value: &[u8]) -> Result<(), R::Error> {
        let head = self.head().await?;
        let count = head.as_ref().map_or(0, Head::count);
        match head {
            _ if index > count => Err(Error::Beyond { count }),
            Some(head) if index < count => self.insert_before(head, index, value).await,
            _ => self.push(value).await,
        }
    }

    /// Adds an element in front of the one at `index`, which there is.
    async fn insert_before(
        &self,
        mut head: Head,
        index: u64,
        value: &[u8],
    ) -> Result<(), R::Error> {
        let mut way = self.way(&head, index).await?;
        let Some(label) = self.label_before(&way, index).await? else {
            return self.insert_anew(head, Some(way), value).await;
        };
        self.rows.put(&self.key(0, label), value)?;
        way.steps[0].block.children += 1;
        for step in &mut way.steps {
            step.block.elements += 1;
        }
        self.settle(&mut head, &mut way.steps, 1).await?;
        self.put_head(&head)
    }

    /// Replaces the element at `index`.
    pub(crate) async fn set(&self, index: u64, value: &[u8]) -> Result<(), R::Error> {
        let (_, _, label) = self.find(index).await?;
        Ok(self.rows.put(&self.key(0, label), value)?)
    }

    /// Removes the element at `index`, and nothing that hangs under it.
    pub(crate) async fn remove(&self, index: u64) -> Result<(), R::Error> {
        let found = self.find(index).await?;
        self.remove_found(found).await
    }

    /// Removes the element at `index`, which is a collection, with all that hangs under it.
    pub(crate) async fn remove_with_all(&self, index: u64) -> Result<(), R::Error> {
        let found = self.find(index).await?;
        let value = self.rows.get(&self.key(0, found.2)).await?;
        let value = value.ok_or(Error::Malformed("an element is gone that was there"))?;
        let id = decode_id(&value).map_err(Error::Malformed)?;
        if id >= found.0.next_id {
            return Err(Error::Malformed("an element has an id that was never given"));
        }
        let is_last = found.0.count() == 1;
        self.remove_found(found).await?;
        // With the last one goes what somebody may have written under items that were gone.
        let own = || (super::under(self.prefix, id), super::under(self.prefix, id + 1));
        let (from, to) = if is_last { super::under_range(self.prefix) } else { own() };
        Ok(self.rows.delete_range(&from, &to)?)
    }

    async fn remove_found(
        &self,
        (mut head, way, label): (Head, Way, Label),
    ) -> Result<(), R::Error> {
        self.rows.delete(&self.key(0, label))?;
        if head.count() == 1 {
            return Ok(self.rows.delete(&super::head_key(self.prefix))?);
        }
        let mut steps = way.steps;
        steps[0].block.children -= 1;
        for step in &mut steps {
            step.block.elements -= 1;
        }
        let root = steps.len();
        for level in 1..root {
            let step = steps[level - 1];
            if step.block.children > 0 {
                self.store(&mut head, level, step)?;
                continue;
            }
            let parent = &mut steps[level].block;
            parent.children = parent
                .children
                .checked_sub(1)
                .ok_or(Error::Malformed("a block has more children than it says"))?;
            let (parent_label, has_others) = (parent.label, parent.children > 0);
            self.remove_block(&mut head, level, step).await?;
            if let Some(next) = step.end
                && has_others
                && step.block.label == parent_label
            {
                self.rename(&mut head, level, next, parent_label).await?;
            }
        }
        if steps[root - 1].block.children == 0 {
            return Err(Error::Malformed("its root has elements and no children"));
        }
        head.tails[root - 1] = steps[root - 1].block;
        while head.levels() > 1 && head.root().children == 1 {
            head.tails.pop();
            if head.root().label != 0 {
                return Err(Error::Malformed("the first block of a level does not begin at 0"));
            }
        }
        self.put_head(&head)
    }

    /// The head, the way to the element at `index`, and its label.
    pub(super) async fn find(&self, index: u64) -> Result<(Head, Way, Label), R::Error> {
        let head = self.head().await?.ok_or(Error::Beyond { count: 0 })?;
        if index >= head.count() {
            return Err(Error::Beyond { count: head.count() });
        }
        let way = self.way(&head, index).await?;
        let labels = self.labels(way.steps[0], way.nth + 1).await?;
        let label = labels[way.nth];
        Ok((head, way, label))
    }

    /// Writes the only element; the head that goes with it.
    fn put_first(&self, value: &[u8]) -> Result<Head, R::Error> {
        // There is as much room in front as behind.
        let last = 1 << 127;
        let root = Block { label: 0, elements: 1, children: 1 };
        self.rows.put(&self.key(0, last), value)?;
        Ok(Head { last, tails: vec![root], next_id: 0 })
    }

    /// A label above all others, if there is one.
    pub(super) fn label_behind(&self, last: Label) -> Option<Label> {
        let room = Label::MAX - last;
        let step = if room >= self.step { self.step } else { room.div_ceil(2) };
        (step > 0).then(|| last + step)
    }

    /// A label between the element at `index`, to which `way` leads, and the one before it; none if there
    /// is none.
    async fn label_before(&self, way: &Way, index: u64) -> Result<Option<Label>, R::Error> {
        let labels = self.labels(way.steps[0], way.nth + 1).await?;
        let above = labels[way.nth];
        let lowest = match way.nth.checked_sub(1) {
            Some(before) => labels[before] + 1,
            None => way.steps[0].block.label,
        };
        if lowest >= above {
            return Ok(None);
        }
        let half = lowest + (above - lowest) / 2;
        // In front of everything there will be more.
        let stepped = above.saturating_sub(self.step).max(lowest);
        Ok(Some(if index == 0 { stepped } else { half }))
    }

    /// Stores the blocks of a way from `level` up, and splits those that have too many children.
    pub(super) async fn settle(
        &self,
        head: &mut Head,
        steps: &mut [Step],
        from_level: usize,
    ) -> Result<(), R::Error> {
        let root = steps.len();
        for level in from_level..=root {
            let step = steps[level - 1];
            if step.block.children <= self.children_max {
                self.store(head, level, step)?;
                continue;
            }
            let (lower, upper) = self.halves(head, level, step).await?;
            self.put_block(level, lower)?;
            if step.is_tail {
                head.tails[level - 1] = upper;
            } else {
                self.put_block(level, upper)?;
            }
            match steps.get_mut(level) {
                Some(parent) => parent.block.children += 1,
                None => head.add_root(steps[root - 1].block.elements),
            }
        }
        Ok(())
    }

    /// Both halves of a block that has too many children.
    async fn halves(
        &self,
        head: &Head,
        level: usize,
        step: Step,
    ) -> Result<(Block, Block), R::Error> {
        let block = step.block;
        let at = block.children / 2;
        let upper = if level == 1 {
            let labels = self.labels(step, at as usize + 1).await?;
            let children = block.children - at;
            Block { label: labels[at as usize], elements: u64::from(children), children }
        } else {
            let children = self.children(head, level - 1, step).await?;
            let upper = &children[at as usize..];
            Block {
                label: upper[0].label,
                elements: upper.iter().map(|child| child.elements).sum(),
                children: block.children - at,
            }
        };
        let elements = block.elements - upper.elements;
        Ok((Block { label: block.label, elements, children: at }, upper))
    }

    /// Stores a block that has changed.
    fn store(&self, head: &mut Head, level: usize, step: Step) -> Result<(), R::Error> {
        if step.is_tail {
            head.tails[level - 1] = step.block;
            return Ok(());
        }
        self.put_block(level, step.block)
    }

    /// Removes a block that is empty. If it was the last of its level, the one before is now.
    async fn remove_block(
        &self,
        head: &mut Head,
        level: usize,
        step: Step,
    ) -> Result<(), R::Error> {
        if !step.is_tail {
            return Ok(self.rows.delete(&self.key(level, step.block.label))?);
        }
        let before = RangeOp {
            from: self.key(level, 0),
            to: Some(self.key(level, step.block.label)),
            reverse: true,
            limit: Some(1),
            keys_only: false,
            prefix_bytes: self.prefix.len(),
        };
        let rows = self.rows.scan(&before).await?;
        let (key, value) = rows.first().ok_or(Error::Malformed("a level has no block left"))?;
        head.tails[level - 1] = Block::decode(self.label(key)?, value).map_err(Error::Malformed)?;
        Ok(self.rows.delete(key)?)
    }

    /// Lets the block of `level` that begins at `from` begin at `to`, below, where nothing is any more; and
    /// its first child, and that one's, which begin where it does.
    async fn rename(
        &self,
        head: &mut Head,
        level: usize,
        from: Label,
        to: Label,
    ) -> Result<(), R::Error> {
        for level in (1..=level).rev() {
            let tail = &mut head.tails[level - 1];
            if tail.label == from {
                tail.label = to;
                continue;
            }
            let key = self.key(level, from);
            let value = self.rows.get(&key).await?;
            let value = value.ok_or(Error::Malformed("a block's first child begins elsewhere"))?;
            self.rows.delete(&key)?;
            self.rows.put(&self.key(level, to), &value)?;
        }
        Ok(())
    }
}

/// The id of the next element that is a collection, and the one behind it.
fn ids<E>(head: Option<&Head>) -> Result<(u64, u64), E> {
    let id = head.map_or(0, |head| head.next_id);
    if head.is_some() && id == 0 {
        return Err(Error::Malformed("its head has given no id, and it has elements"));
    }
    let next = id.checked_add(1).ok_or(Error::Malformed("its head has no id left to give"))?;
    Ok((id, next))
}

impl Head {
    /// The root was split: there is a new one, over both halves. The lower one begins where the old root did.
    fn add_root(&mut self, elements: u64) {
        self.tails.push(Block { label: 0, elements, children: 2 });
    }
}
