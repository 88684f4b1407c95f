//! Paths into one value: see [`Path::inside`].

use std::fmt;

use super::ast::Query;
use super::path::{Maybe, Path};
use super::private::Open;
use super::steps::Steps;
use super::{Data, Outside};
use crate::codec::{FieldTable, Result};

/// Parts `T` of the value `V` that a path leads to: what can be subscribed of it.
pub struct Inside<V, T, O> {
    path: Path<V, Maybe, O>,
    steps: Steps<O, T>,
}

impl<V: Data, O> Path<V, Maybe, O> {
    /// What steps reach in the value, to be [subscribed](crate::client::Launched::subscribe): a subscriber is told
    /// of the parts, and nothing while they stay what they are. Where no value is, steps begin at nothing, as
    /// they do in queries.
    ///
    /// ```
    /// # use serde::{Deserialize, Serialize};
    /// use tidemill::schema::{Fields, Map, PState};
    ///
    /// #[derive(Serialize, Deserialize, Fields)]
    /// struct Track { title: String, plays: u64 }
    ///
    /// async fn titles(shop: tidemill::Launched<()>, albums: PState<Map<String, Vec<Track>>>) {
    ///     let titles = albums
    ///         .key("Giant Steps")
    ///         .inside(|album| album.all().field(|track| track.title).some());
    ///     let titles = shop.subscribe(titles).await.unwrap();
    ///     let _: &[String] = titles.value();
    /// }
    /// ```
    #[must_use]
    pub fn inside<T>(self, steps: impl FnOnce(Steps<O, V>) -> Steps<O, T>) -> Inside<V, T, O> {
        let steps = steps(Steps::root(self.pstate()));
        Inside { path: self, steps }
    }
}

impl<V, T, O> Inside<V, T, O> {
    /// The steps, for the module whose table this is.
    ///
    /// # Errors
    /// As [`Steps::query`].
    pub(crate) fn query(&self, fields: &FieldTable) -> Result<Query> {
        self.steps.query(fields)
    }

    pub(crate) fn into_path(self) -> Path<V, Maybe, O> {
        self.path
    }
}

impl<V, T, O> Clone for Inside<V, T, O> {
    fn clone(&self) -> Self {
        Self { path: self.path.clone(), steps: self.steps.clone() }
    }
}

impl<V, T, O> fmt::Debug for Inside<V, T, O> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Inside").field("path", &self.path).field("steps", &self.steps).finish()
    }
}

impl<V, T, O: Open> Outside for Inside<V, T, O> {}
