//! Wrong uses of sizes that must not compile, after right ones.
//!
//! ```no_run
//! # use tidemill::schema::{Map, Owned, Set, Sub, Uncounted};
//! # use tidemill::topology::{At, StateError};
//! # async fn right<O>(
//! #     at: At<'_, O>,
//! #     fans: Owned<Map<u32, Sub<Set<String>>>, O>,
//! #     seen: Owned<Map<u32, Sub<Map<u64, String>, Uncounted>>, O>,
//! # ) -> Result<(), StateError> {
//! let _: u64 = at.get(fans.key(7).size()).await?;
//! let _: (u64, Vec<String>) = at.get((fans.key(7).size(), fans.key(7).all().limit(9))).await?;
//! let _: u64 = at.remove_range(fans.key(7).range("k".to_owned()..)).await?;
//! let _: u64 = at.remove_range(seen.key(7).all().limit(9)).await?;
//! at.delete_range(seen.key(7).range(..9))?;
//! at.delete_range(seen.key(7).range(..9).values())?;
//! # Ok(())
//! # }
//! ```
//!
//! The size of what is `Uncounted`:
//!
//! ```compile_fail,E0277
//! # use tidemill::schema::{Map, Owned, Set, Sub, Uncounted};
//! # use tidemill::topology::{At, StateError};
//! # async fn wrong<O>(at: At<'_, O>, seen: Owned<Map<u32, Sub<Set<u64>, Uncounted>>, O>) -> Result<(), StateError> {
//! let _: u64 = at.get(seen.key(7).size()).await?;
//! # Ok(())
//! # }
//! ```
//!
//! The size of a value:
//!
//! ```compile_fail,E0277
//! # use tidemill::schema::{Map, Owned};
//! # use tidemill::topology::{At, StateError};
//! # async fn wrong<O>(at: At<'_, O>, seen: Owned<Map<u32, Vec<u64>>, O>) -> Result<(), StateError> {
//! let _: u64 = at.get(seen.key(7).size()).await?;
//! # Ok(())
//! # }
//! ```
//!
//! First keys are not counted:
//!
//! ```compile_fail,E0277
//! # use tidemill::schema::{Map, Owned, Set, Sub};
//! # use tidemill::topology::{At, StateError};
//! # async fn wrong<O>(at: At<'_, O>, fans: Owned<Map<u32, Sub<Set<u64>>>, O>) -> Result<(), StateError> {
//! let _: u64 = at.get(fans.size()).await?;
//! # Ok(())
//! # }
//! ```
//!
//! A part of what counts is not deleted blindly, nor are elements of a list:
//!
//! ```compile_fail,E0277
//! # use tidemill::schema::{Map, Owned, Set, Sub};
//! # use tidemill::topology::{At, StateError};
//! # async fn wrong<O>(at: At<'_, O>, fans: Owned<Map<u32, Sub<Set<u64>>>, O>) -> Result<(), StateError> {
//! at.delete_range(fans.key(7).range(..9))?;
//! # Ok(())
//! # }
//! ```
//!
//! ```compile_fail,E0277
//! # use tidemill::schema::{List, Map, Owned, Sub};
//! # use tidemill::topology::{At, StateError};
//! # async fn wrong<O>(at: At<'_, O>, texts: Owned<Map<u32, Sub<List<u64>>>, O>) -> Result<(), StateError> {
//! at.delete_range(texts.key(7).all())?;
//! # Ok(())
//! # }
//! ```
//!
//! ```compile_fail,E0277
//! # use tidemill::schema::{List, Map, Owned, Sub};
//! # use tidemill::topology::{At, StateError};
//! # async fn wrong<O>(at: At<'_, O>, texts: Owned<Map<u32, Sub<List<u64>>>, O>) -> Result<(), StateError> {
//! at.remove_range(texts.key(7).all()).await?;
//! # Ok(())
//! # }
//! ```
//!
//! A list always counts:
//!
//! ```compile_fail,E0277
//! # use tidemill::schema::{List, Map, Sub, Uncounted};
//! # use tidemill::module::Module;
//! # fn wrong(m: &Module) {
//! m.microbatch(|| "t").pstate::<Map<u32, Sub<List<u64>, Uncounted>>>("texts");
//! # }
//! ```
