//! Whether all, whether any.

use super::Aggregate;

/// Keeps whether everything added was `true`.
///
/// ```
/// # use tidemill::schema::{Map, Owned, aggregate::And};
/// # fn example<O>(healthy: Owned<Map<String, bool>, O>) {
/// let _ = healthy.key("pump 3").add(And(false)); // and so it stays
/// # }
/// ```
#[derive(Clone, Copy, Debug)]
pub struct And(pub bool);

impl Aggregate<bool> for And {
    type Partial = bool;

    fn partial(self) -> bool {
        self.0
    }

    fn combine(a: &mut bool, b: bool) {
        *a &= b;
    }

    fn apply(partial: bool, old: Option<bool>) -> Option<bool> {
        Some(partial & old.unwrap_or(true))
    }
}

/// Keeps whether anything added was `true`.
///
/// ```
/// # use tidemill::schema::{Map, Owned, aggregate::Or};
/// # fn example<O>(alarmed: Owned<Map<String, bool>, O>, reading: i32) {
/// let _ = alarmed.key("pump 3").add(Or(reading > 90));
/// # }
/// ```
#[derive(Clone, Copy, Debug)]
pub struct Or(pub bool);

impl Aggregate<bool> for Or {
    type Partial = bool;

    fn partial(self) -> bool {
        self.0
    }

    fn combine(a: &mut bool, b: bool) {
        *a |= b;
    }

    fn apply(partial: bool, old: Option<bool>) -> Option<bool> {
        Some(partial | old.unwrap_or(false))
    }
}
