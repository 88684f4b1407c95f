//! [`Navigate`]: steps of one's own.

use std::fmt;
use std::sync::Arc;

use super::Value;
use crate::codec::value::raw::Raw;
use crate::codec::{self, FieldTable, decode};
use crate::schema::Data;
use crate::schema::eval::{Problem, guarded};

/// A way from one value to others that no step of [`Step`](super::Step) is: into a text that is parsed, into the
/// digits of a number.
///
/// ```
/// use tidemill::schema::Map;
/// use tidemill::schema::ast::{Functions, Navigate, Navigator, Query, Step, Term, Value};
/// use tidemill::schema::eval::Problem;
/// use tidemill::testing::TestPState;
///
/// /// The minutes of a time such as `7:05`.
/// struct Minutes;
///
/// impl Navigate for Minutes {
///     type From = String;
///     type To = u32;
///
///     fn select(&self, time: String, reach: &mut dyn FnMut(u32)) {
///         if let Some(minutes) = time.split_once(':').and_then(|(_, minutes)| minutes.parse().ok()) {
///             reach(minutes);
///         }
///     }
///
///     fn transform(
///         &self,
///         time: String,
///         change: &mut dyn FnMut(u32) -> Result<Option<u32>, Problem>,
///     ) -> Result<Option<String>, Problem> {
///         let Some((hours, Ok(minutes))) = time.split_once(':').map(|(h, m)| (h, m.parse())) else {
///             return Ok(Some(time));
///         };
///         Ok(Some(format!("{hours}:{:02}", change(minutes)?.unwrap_or(0))))
///     }
/// }
///
/// let trains = TestPState::<Map<String, String>>::new()?;
/// trains.put(trains.token().key("north"), "7:05".to_owned()).unwrap();
/// let minutes = Query::from([
///     Step::Key(Value::from("north")),
///     Step::Navigate(Navigator::named("minutes")), // so the query can be sent
/// ]);
/// let functions = Functions::none().with_navigator("minutes", Minutes);
/// trains.run(async |at| {
///     let late = Term::Set(Value::from(21));
///     at.transform_with(trains.token(), &minutes, &late, &functions).await?;
///     assert_eq!(at.query_with::<u32>(trains.token(), &minutes, &functions).await?, [21]);
///     Ok(())
/// }).unwrap();
/// assert_eq!(trains.select(trains.token().key("north")).unwrap().as_deref(), Some("7:21"));
/// # Ok::<(), tidemill::codec::Error>(())
/// ```
pub trait Navigate: Send + Sync + 'static {
    /// What it starts from. Where nothing is stored, it gets what nil decodes to: an `Option` to be asked.
    type From: Data;
    /// What it reaches.
    type To: Data;

    /// Calls `reach` with each part that it reaches.
    fn select(&self, from: Self::From, reach: &mut dyn FnMut(Self::To));

    /// Calls `change` with the same parts, each of which becomes what that says, or goes if that is `None`; and
    /// says what becomes of the whole.
    ///
    /// # Errors
    /// Those of `change`, to be passed on.
    fn transform(
        &self,
        from: Self::From,
        change: &mut dyn FnMut(Self::To) -> Result<Option<Self::To>, Problem>,
    ) -> Result<Option<Self::From>, Problem>;
}

/// A [`Navigate`] as a step has it: by its name, which can be sent, or itself.
#[derive(Clone)]
pub enum Navigator {
    /// One of the [`Functions`](super::Functions) that the query is evaluated with.
    Named(String),
    /// Code of this process.
    Local(LocalNavigator),
}

/// A [`Navigate`] of this process.
#[derive(Clone)]
pub struct LocalNavigator(Arc<dyn Erased>);

impl Navigator {
    /// The navigator of this name.
    pub fn named(name: impl Into<String>) -> Self {
        Self::Named(name.into())
    }

    /// A navigator of this process.
    pub fn of(navigator: impl Navigate) -> Self {
        Self::Local(LocalNavigator::of(navigator))
    }
}

impl LocalNavigator {
    pub(super) fn of(navigator: impl Navigate) -> Self {
        Self(Arc::new(navigator))
    }

    pub(crate) fn select(&self, fields: &FieldTable, from: Raw<'_>) -> Result<Vec<Value>, Problem> {
        guarded(|| self.0.select_raw(fields, from))
    }

    pub(crate) fn transform(
        &self,
        fields: &FieldTable,
        from: Raw<'_>,
        change: &mut Change<'_>,
    ) -> Result<Option<Value>, Problem> {
        guarded(|| self.0.transform_raw(fields, from, change))
    }
}

/// What becomes of an encoded part.
pub(crate) type Change<'c> = dyn FnMut(Raw<'_>) -> Result<Option<Value>, Problem> + 'c;

/// A [`Navigate`] without its types.
trait Erased: Send + Sync {
    fn select_raw(&self, fields: &FieldTable, from: Raw<'_>) -> Result<Vec<Value>, Problem>;

    fn transform_raw(
        &self,
        fields: &FieldTable,
        from: Raw<'_>,
        change: &mut Change<'_>,
    ) -> Result<Option<Value>, Problem>;
}

impl<N: Navigate> Erased for N {
    fn select_raw(&self, fields: &FieldTable, from: Raw<'_>) -> Result<Vec<Value>, Problem> {
        let from = decode(fields, from.bytes()).map_err(Problem::Function)?;
        let mut reached = Vec::new();
        self.select(from, &mut |part| reached.push(Value::of(fields, &part)));
        reached.into_iter().collect::<codec::Result<_>>().map_err(Problem::Function)
    }

    fn transform_raw(
        &self,
        fields: &FieldTable,
        from: Raw<'_>,
        change: &mut Change<'_>,
    ) -> Result<Option<Value>, Problem> {
        let from = decode(fields, from.bytes()).map_err(Problem::Function)?;
        let mut change = |part: N::To| {
            let part = Value::of(fields, &part).map_err(Problem::Function)?;
            let changed = change(part.raw())?;
            let decoded = changed.map(|changed| changed.decode(fields)).transpose();
            decoded.map_err(|source| Problem::WrongType { source })
        };
        let whole = self.transform(from, &mut change)?;
        whole.map(|whole| Value::of(fields, &whole)).transpose().map_err(Problem::Function)
    }
}

/// Navigators of this process are the same if they are one.
impl PartialEq for Navigator {
    fn eq(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Named(a), Self::Named(b)) => a == b,
            (Self::Local(a), Self::Local(b)) => Arc::ptr_eq(&a.0, &b.0),
            (Self::Named(_), Self::Local(_)) | (Self::Local(_), Self::Named(_)) => false,
        }
    }
}

impl fmt::Debug for Navigator {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Named(name) => f.debug_tuple("Named").field(name).finish(),
            Self::Local(_) => f.write_str("Local"),
        }
    }
}

impl fmt::Debug for LocalNavigator {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Local")
    }
}
