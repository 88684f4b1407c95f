//! What `#[derive(Schema)]` generates.

use std::collections::BTreeMap;

use proc_macro2::TokenStream;
use quote::{format_ident, quote};
use syn::{Data, DeriveInput, Error, Field, Fields, Ident, LitInt, Result};

/// A field's number is one byte of its key; 0 and 255 are kept for what records may need later.
const NUMBERS: std::ops::RangeInclusive<u8> = 1..=254;

/// The implementations for a struct with named fields.
pub(crate) fn expand(input: &DeriveInput) -> Result<TokenStream> {
    let record = &input.ident;
    let only = "`Schema` is derived for structs with named fields";
    let Data::Struct(data) = &input.data else {
        return Err(Error::new_spanned(record, only));
    };
    let Fields::Named(named) = &data.fields else {
        return Err(Error::new_spanned(record, only));
    };
    if !input.generics.params.is_empty() {
        let why =
            "a record of a PState has no parameters: its fields have the types that are stored";
        return Err(Error::new_spanned(&input.generics, why));
    }
    let fields: Vec<&Field> = named.named.iter().collect();
    if fields.is_empty() {
        return Err(Error::new_spanned(record, "a record without fields stores nothing"));
    }
    let numbers = numbers(&fields)?;
    let names: Vec<&Ident> = fields.iter().filter_map(|field| field.ident.as_ref()).collect();
    let types: Vec<_> = fields.iter().map(|field| &field.ty).collect();
    let scopes: Vec<_> = fields.iter().map(|field| &field.vis).collect();
    let texts: Vec<String> = names.iter().map(|name| unraw(name)).collect();
    let docs: Vec<String> = texts.iter().map(|name| format!("`{record}::{name}`.")).collect();
    let (scope, all) = (&input.vis, format_ident!("{}Fields", record));
    let (doc, record_name) = (format!("The fields of [`{record}`], for paths."), unraw(record));
    Ok(quote! {
        #[doc = #doc]
        #[derive(Clone, Copy, Debug)]
        #scope struct #all {
            #( #[doc = #docs] #[allow(dead_code)] #scopes #names: ::tidemill::schema::Field<#record, #types>, )*
        }

        #[automatically_derived]
        impl ::tidemill::schema::Record for #record {
            const NAME: &'static str = #record_name;
            type Fields = #all;

            fn fields() -> #all {
                #all { #( #names: ::tidemill::schema::Field::new(#numbers, #texts), )* }
            }
        }

        #[automatically_derived]
        impl ::tidemill::schema::Fields for #record {
            type All = #all;

            fn all() -> #all {
                <#record as ::tidemill::schema::Record>::fields()
            }
        }

        #[automatically_derived]
        impl ::tidemill::schema::Position for #record {
            const IS_COLLECTION: bool = true;

            fn layout(
                trace: &mut ::tidemill::codec::table::Trace,
            ) -> ::tidemill::codec::Result<::tidemill::schema::Layout> {
                ::core::result::Result::Ok(::tidemill::schema::Layout::record(
                    #record_name,
                    [ #( (
                        #numbers,
                        #texts,
                        <#types as ::tidemill::schema::Position>::layout(trace)?,
                    ), )* ],
                ))
            }
        }

        // Its fields are read by nobody: the struct is a type to describe what is stored with.
        const _: () = {
            #[allow(dead_code)]
            fn reads(record: &#record) {
                let _ = ( #( &record.#names, )* );
            }
        };
    })
}

/// The number of each field.
fn numbers(fields: &[&Field]) -> Result<Vec<u8>> {
    let mut taken: BTreeMap<u8, String> = BTreeMap::new();
    let mut next = Some(*NUMBERS.start());
    let mut numbers = Vec::with_capacity(fields.len());
    for field in fields {
        let name = field.ident.as_ref().map(unraw).unwrap_or_default();
        let given = given(field)?;
        let number = given.or(next).filter(|number| NUMBERS.contains(number)).ok_or_else(|| {
            let (first, last) = (NUMBERS.start(), NUMBERS.end());
            Error::new_spanned(field, format!("a field's number is {first} to {last}"))
        })?;
        if let Some(other) = taken.insert(number, name) {
            let what = format!("field number {number} is taken by `{other}`");
            return Err(Error::new_spanned(field, what));
        }
        next = number.checked_add(1);
        numbers.push(number);
    }
    Ok(numbers)
}

/// What `#[field(n)]` says.
fn given(field: &Field) -> Result<Option<u8>> {
    let mut given = None;
    for attribute in field.attrs.iter().filter(|it| it.path().is_ident("field")) {
        let number: LitInt = attribute.parse_args()?;
        if given.replace(number.base10_parse()?).is_some() {
            return Err(Error::new_spanned(attribute, "a field has one number"));
        }
    }
    Ok(given)
}

/// The name without the `r#` of a keyword.
pub(crate) fn unraw(name: &Ident) -> String {
    let name = name.to_string();
    name.strip_prefix("r#").map(str::to_owned).unwrap_or(name)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refusal(source: &str) -> String {
        expand(&syn::parse_str(source).expect("it is Rust")).expect_err("it is refused").to_string()
    }

    #[test]
    fn numbers_go_on_from_the_last_one() {
        let source = "struct A { a: u8, #[field(9)] b: u8, c: u8, #[field(2)] r#type: u8 }";
        let input: DeriveInput = syn::parse_str(source).expect("it is Rust");
        let Data::Struct(data) = &input.data else { panic!("it is a struct") };
        let fields: Vec<&Field> = data.fields.iter().collect();
        assert_eq!(numbers(&fields).expect("they are all different"), [1, 9, 10, 2]);
        let expanded = expand(&input).expect("it is a record").to_string();
        assert!(expanded.contains("\"type\"") && !expanded.contains("\"r#type\""), "{expanded}");
    }

    #[test]
    fn what_is_no_record_is_refused_with_the_reason() {
        for (source, reason) in [
            ("enum A { B }", "structs with named fields"),
            ("struct A(u8);", "structs with named fields"),
            ("struct A;", "structs with named fields"),
            ("struct A {}", "stores nothing"),
            ("struct A<T> { a: T }", "no parameters"),
            ("struct A { a: u8, #[field(1)] b: u8 }", "field number 1 is taken by `a`"),
            ("struct A { #[field(0)] a: u8 }", "a field's number is 1 to 254"),
            ("struct A { #[field(254)] a: u8, b: u8 }", "a field's number is 1 to 254"),
            ("struct A { #[field(300)] a: u8 }", "number too large"),
            ("struct A { #[field(x)] a: u8 }", "expected integer literal"),
            ("struct A { #[field(1)] #[field(2)] a: u8 }", "a field has one number"),
        ] {
            let refusal = refusal(source);
            assert!(refusal.contains(reason), "{source}: {refusal}");
        }
    }
}
