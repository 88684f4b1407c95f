//! Wrong uses of lists that must not compile, after a right one.
//!
//! ```no_run
//! # use tidemill::schema::{List, Map, Owned, Sub};
//! # use tidemill::topology::{At, StateError};
//! # async fn right<O>(at: At<'_, O>, texts: Owned<Map<u32, Sub<List<String>>>, O>) -> Result<(), StateError> {
//! at.push(texts.key(7), "a".to_owned()).await?;
//! let _: u64 = at.get(texts.key(7).size()).await?;
//! let _: Vec<String> = at.get(texts.key(7).all().reverse().limit(2)).await?;
//! # Ok(())
//! # }
//! ```
//!
//! An element of another type:
//!
//! ```compile_fail,E0308
//! # use tidemill::schema::{List, Map, Owned, Sub};
//! # use tidemill::topology::{At, StateError};
//! # async fn wrong<O>(at: At<'_, O>, texts: Owned<Map<u32, Sub<List<String>>>, O>) -> Result<(), StateError> {
//! at.push(texts.key(7), 5).await?;
//! # Ok(())
//! # }
//! ```
//!
//! A list of another topology:
//!
//! ```compile_fail,E0277
//! # use tidemill::schema::{List, Map, PState, Sub};
//! # use tidemill::topology::{At, StateError};
//! # enum Own {}
//! # async fn wrong(at: At<'_, Own>, texts: PState<Map<u32, Sub<List<String>>>>) -> Result<(), StateError> {
//! at.push(texts.key(7), "a".to_owned()).await?;
//! # Ok(())
//! # }
//! ```
//!
//! A list that is one value is pushed to by `update`:
//!
//! ```compile_fail,E0277
//! # use tidemill::schema::{List, Map, Owned, Sub};
//! # use tidemill::topology::{At, StateError};
//! # async fn wrong<O>(at: At<'_, O>, texts: Owned<Map<u32, Vec<String>>, O>) -> Result<(), StateError> {
//! at.push(texts.key(7), "a".to_owned()).await?;
//! # Ok(())
//! # }
//! ```
//!
//! A list is no value to be put, and has no keys:
//!
//! ```compile_fail,E0277
//! # use tidemill::schema::{List, Map, Owned, Sub};
//! # use tidemill::topology::{At, StateError};
//! # fn wrong<O>(at: At<'_, O>, texts: Owned<Map<u32, Sub<List<String>>>, O>) -> Result<(), StateError> {
//! at.put(texts.key(7), vec!["a".to_owned()])?;
//! # Ok(())
//! # }
//! ```
//!
//! ```compile_fail,E0277
//! # use tidemill::schema::{List, Map, Owned, Sub};
//! # fn wrong<O>(texts: Owned<Map<u32, Sub<List<String>>>, O>) {
//! let _ = texts.key(7).key(3);
//! # }
//! ```
//!
//! Nor is one of its items put blindly, which has to be found first; `replace` does:
//!
//! ```compile_fail,E0277
//! # use tidemill::schema::{List, Map, Owned, Sub};
//! # use tidemill::topology::{At, StateError};
//! # fn wrong<O>(at: At<'_, O>, texts: Owned<Map<u32, Sub<List<String>>>, O>) -> Result<(), StateError> {
//! at.put(texts.key(7).item(0), "a".to_owned())
//! # }
//! ```
