//! The derives of `tidemill`: structs that a `PState` stores field by field, and fields of values.
//!
//! `tidemill` re-exports it; what it generates names only `::tidemill`.

use proc_macro::TokenStream;

mod record;
mod value;

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

/// Names the fields of a struct that is one value, so that typed steps can go to them: see
/// `tidemill::schema::steps`.
///
/// Derived beside serde's traits; `#[serde(rename = "..")]` and `#[serde(skip)]` are honoured.
#[proc_macro_derive(Fields)]
pub fn derive_fields(input: TokenStream) -> TokenStream {
    let input = syn::parse_macro_input!(input as syn::DeriveInput);
    value::expand(&input).unwrap_or_else(syn::Error::into_compile_error).into()
}
