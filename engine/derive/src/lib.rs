//! The derive of `tidemill`: structs that a `PState` stores field by field.
//!
//! `tidemill` re-exports it; what it generates names only `::tidemill`.

use proc_macro::TokenStream;

mod record;

/// Makes a struct a record of `PState`s: each field is a row, or a `Sub` collection, under the record's key.
/// See `tidemill::schema::record`.
///
/// Fields are numbered from 1 in the order of declaration; `#[field(n)]` gives a number, and the fields
/// behind it go on from there. The catalogue remembers the numbers, and refuses those that moved.
#[proc_macro_derive(Schema, attributes(field))]
pub fn derive_schema(input: TokenStream) -> TokenStream {
    let input = syn::parse_macro_input!(input as syn::DeriveInput);
    record::expand(&input).unwrap_or_else(syn::Error::into_compile_error).into()
}
