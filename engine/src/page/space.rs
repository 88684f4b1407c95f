//! Which pages of a file live, and which a fold may write.
//!
//! A page may be written only if neither the newest root nor the one before reaches it: the newest
//! because that is the state, the one before because its slot is what remains if the newest slot is
//! damaged. So a page freed by fold n is written again by fold n+2 at the earliest; later, if a reader of an
//! older id holds the root that reached it.

use super::EXTENT_PAGES;

/// Live pages of every extent, one bit a page.
pub(crate) type Live = Vec<u64>;

/// The space of a file between folds.
#[derive(Clone, Debug, Default)]
pub(crate) struct Space {
    /// What the newest durable root reaches.
    pub(crate) durable: Live,
    /// What the root before it reaches, as far as that is known.
    pub(crate) previous: Live,
    /// What roots reach that readers of older ids hold, in this process only.
    pub(crate) held: Live,
    /// Extents the file has.
    pub(crate) extents: u32,
}

/// The space as one fold changes it.
#[derive(Debug)]
pub(crate) struct Draft {
    /// What the new root will reach.
    pub(crate) live: Live,
    /// What must not be written: live before, or given out by this fold.
    busy: Live,
    /// Extents being emptied.
    avoid: Vec<bool>,
    /// Neighbouring pages given out next.
    open: std::ops::Range<u32>,
    pages_claimed: u64,
    /// First pages and lengths of what the new root no longer reaches.
    pub(crate) freed: Vec<(u32, u32)>,
}

/// A fold that has written as much looks for whole extents first; a smaller one fills gaps.
const LARGE_FOLD_PAGES: u64 = EXTENT_PAGES as u64;

/// Gaps shorter than this are left alone: they would make writes small and many.
const GAP_PAGES_MIN: u32 = 8;

impl Space {
    /// A draft that avoids writing into the extents of `avoid`.
    pub(crate) fn draft(&self, avoid: &[u32]) -> Draft {
        // The bitmaps may be longer than the file; only what the file has may be given out.
        let extents = (self.extents.max(1) as usize).max(self.used_extents());
        let mut busy = vec![0; extents];
        for live in [&self.durable, &self.previous, &self.held] {
            busy.iter_mut().zip(live).for_each(|(busy, live)| *busy |= live);
        }
        let mut avoided = vec![false; busy.len()];
        for &extent in avoid {
            avoided[extent as usize] = true;
        }
        // Extent 0 holds the root slots.
        avoided[0] = true;
        let mut live = self.durable.clone();
        live.resize(busy.len(), 0);
        Draft { live, busy, avoid: avoided, open: 0..0, pages_claimed: 0, freed: Vec::new() }
    }

    /// Extents up to and including the last one that must not be cut off.
    pub(crate) fn used_extents(&self) -> usize {
        let all = [&self.durable, &self.previous, &self.held];
        all.into_iter().map(|live| used_extents(live)).max().unwrap_or_default()
    }

    /// Whether a reader of an older id holds a page.
    pub(crate) fn holds(&self, place: u32) -> bool {
        let (extent, bits) = bits(place, 1);
        self.held.get(extent).is_some_and(|held| held & bits != 0)
    }

    /// Extents worth emptying, so that folds find whole extents and the file can shrink; about
    /// `pages_max` live pages in all.
    pub(crate) fn sparse(&self, pages_max: u64) -> Vec<u32> {
        let mut used: Vec<(u32, u32)> = Vec::new();
        let (mut live_pages, mut end) = (0_u64, 0_u64);
        for (extent, bits) in self.durable.iter().enumerate() {
            if *bits != 0 {
                let extent = u32::try_from(extent).expect("a file has below 2^26 extents");
                used.push((extent, bits.count_ones()));
                live_pages += u64::from(bits.count_ones());
                end = u64::from(extent);
            }
        }
        let used_pages = used.len() as u64 * u64::from(EXTENT_PAGES);
        let live_max = if used_pages > live_pages + live_pages / 3 + SLACK_PAGES {
            used.sort_by_key(|&(extent, live)| (live, std::cmp::Reverse(extent)));
            SPARSE_PAGES_MAX
        } else if end > used.len() as u64 * 5 / 4 + SLACK_EXTENTS {
            // Dense, but with empty extents in between: bring the end down.
            used.reverse();
            EXTENT_PAGES
        } else {
            return Vec::new();
        };
        let mut budget = pages_max;
        let chosen = used.iter().take_while(|&&(_, live)| {
            let fits = live <= live_max && u64::from(live) <= budget;
            budget = budget.saturating_sub(u64::from(live));
            fits
        });
        // Emptying one that somebody holds gains nothing before it is let go.
        let held = |extent: u32| self.held.get(extent as usize).is_some_and(|&held| held != 0);
        chosen.map(|&(extent, _)| extent).filter(|&extent| !held(extent)).collect()
    }
}

/// Slack below which nothing is emptied: small files are not worth the trouble.
const SLACK_PAGES: u64 = 2 * EXTENT_PAGES as u64;
const SLACK_EXTENTS: u64 = 4;

/// Emptying a fuller extent costs more writes than it gains space.
const SPARSE_PAGES_MAX: u32 = EXTENT_PAGES * 3 / 4;

impl Draft {
    /// Gives out `pages` neighbouring pages of one extent; none if the file must grow first.
    pub(crate) fn claim(&mut self, pages: u32) -> Option<u32> {
        assert!(0 < pages && pages <= EXTENT_PAGES);
        if self.open.end - self.open.start < pages {
            self.open = self.find(pages)?;
        }
        let place = self.open.start;
        self.open.start += pages;
        self.pages_claimed += u64::from(pages);
        let (extent, bits) = bits(place, pages);
        assert_eq!(self.busy[extent] & bits, 0, "a page was given out twice");
        self.busy[extent] |= bits;
        self.live[extent] |= bits;
        Some(place)
    }

    /// Takes pages back that the new root does not reach.
    ///
    /// # Errors
    /// If they were not live: then some reference or the table is wrong.
    pub(crate) fn free(&mut self, place: u32, pages: u32) -> Result<(), &'static str> {
        let inside = pages > 0 && place % EXTENT_PAGES + pages <= EXTENT_PAGES;
        let extent = (place / EXTENT_PAGES) as usize;
        if !inside || extent >= self.live.len() {
            return Err("a reference leads out of the file");
        }
        let (extent, bits) = bits(place, pages);
        if self.live[extent] & bits != bits {
            return Err("a page is referred to but not marked live, or referred to twice");
        }
        self.live[extent] &= !bits;
        self.freed.push((place, pages));
        Ok(())
    }

    /// The file has more extents now.
    pub(crate) fn grow(&mut self, extents: u32) {
        let extents = extents as usize;
        assert!(extents > self.live.len());
        self.live.resize(extents, 0);
        self.busy.resize(extents, 0);
        self.avoid.resize(extents, false);
    }

    pub(crate) fn extents(&self) -> u32 {
        u32::try_from(self.live.len()).expect("a file has below 2^26 extents")
    }

    pub(crate) fn pages_claimed(&self) -> u64 {
        self.pages_claimed
    }

    fn find(&self, pages: u32) -> Option<std::ops::Range<u32>> {
        let whole = || {
            self.candidates().find(|&extent| self.busy[extent] == 0).map(|extent| {
                let first = u32::try_from(extent).expect("below 2^26") * EXTENT_PAGES;
                first..first + EXTENT_PAGES
            })
        };
        let gap = || {
            let mut best = 0..0;
            for extent in self.candidates() {
                let best_pages: u32 = best.end - best.start;
                if self.busy[extent].count_zeros() > best_pages && self.busy[extent] != 0 {
                    let found = longest_gap(extent, self.busy[extent]);
                    if found.end - found.start > best_pages {
                        best = found;
                    }
                }
                // Good enough: looking on would cost more than a slightly longer gap gains.
                if best.end - best.start >= EXTENT_PAGES / 2 {
                    break;
                }
            }
            (best.end - best.start >= pages.max(GAP_PAGES_MIN)).then_some(best)
        };
        if self.pages_claimed >= LARGE_FOLD_PAGES {
            whole().or_else(gap)
        } else {
            gap().or_else(whole)
        }
    }

    fn candidates(&self) -> impl Iterator<Item = usize> {
        (0..self.busy.len()).filter(|&extent| !self.avoid[extent])
    }
}

/// Extent and bits of neighbouring pages.
pub(crate) fn bits(place: u32, pages: u32) -> (usize, u64) {
    let run = if pages == EXTENT_PAGES { u64::MAX } else { (1 << pages) - 1 };
    ((place / EXTENT_PAGES) as usize, run << (place % EXTENT_PAGES))
}

/// The longest run of free pages of an extent.
fn longest_gap(extent: usize, busy: u64) -> std::ops::Range<u32> {
    let first = u32::try_from(extent).expect("below 2^26") * EXTENT_PAGES;
    let (mut best, mut start) = (0..0, 0);
    for page in 0..=EXTENT_PAGES {
        if page == EXTENT_PAGES || busy >> page & 1 == 1 {
            if page - start > best.end - best.start {
                best = start..page;
            }
            start = page + 1;
        }
    }
    first + best.start..first + best.end
}

/// Extents up to and including the last one in use.
pub(crate) fn used_extents(live: &[u64]) -> usize {
    live.iter().rposition(|&bits| bits != 0).map_or(0, |last| last + 1)
}

pub(crate) fn live_pages(live: &[u64]) -> u64 {
    live.iter().map(|bits| u64::from(bits.count_ones())).sum()
}
