//! What `#[derive(Fields)]` generates.

use proc_macro2::TokenStream;
use quote::{format_ident, quote};
use syn::meta::ParseNestedMeta;
use syn::{Attribute, Data, DeriveInput, Error, Fields, LitStr, Result};

use crate::record::unraw;

/// The implementations for a struct with named fields that serde writes as one value.
pub(crate) fn expand(input: &DeriveInput) -> Result<TokenStream> {
    let value = &input.ident;
    let only = "`Fields` is derived for structs with named fields";
    let Data::Struct(data) = &input.data else {
        return Err(Error::new_spanned(value, only));
    };
    let Fields::Named(named) = &data.fields else {
        return Err(Error::new_spanned(value, only));
    };
    if !input.generics.params.is_empty() {
        let why = "`Fields` is derived for structs without parameters: its fields have the types that are stored";
        return Err(Error::new_spanned(&input.generics, why));
    }
    let of = serde(&input.attrs)?.name.unwrap_or_else(|| unraw(value));
    let (mut names, mut types, mut scopes, mut texts) = (vec![], vec![], vec![], vec![]);
    for field in &named.named {
        let Some(name) = field.ident.as_ref() else { continue };
        let said = serde(&field.attrs)?;
        if said.is_skipped {
            continue;
        }
        texts.push(said.name.unwrap_or_else(|| unraw(name)));
        names.push(name);
        types.push(&field.ty);
        scopes.push(&field.vis);
    }
    let docs: Vec<String> = names.iter().map(|name| format!("`{value}::{name}`.")).collect();
    let (scope, all) = (&input.vis, format_ident!("{}Fields", value));
    let doc = format!("The fields of [`{value}`], for steps.");
    Ok(quote! {
        #[doc = #doc]
        #[derive(Clone, Copy, Debug)]
        #scope struct #all {
            #( #[doc = #docs] #[allow(dead_code)] #scopes #names: ::tidemill::schema::steps::Part<#value, #types>, )*
        }

        #[automatically_derived]
        impl ::tidemill::schema::Fields for #value {
            type All = #all;

            fn all() -> #all {
                #all { #( #names: ::tidemill::schema::steps::Part::new(#of, #texts), )* }
            }
        }
    })
}

/// What serde's attributes say of a struct or a field.
#[derive(Default)]
struct Said {
    name: Option<String>,
    is_skipped: bool,
}

/// What changes how a struct is written, so that its fields are not where their names say.
const ELSEWHERE: &[&str] = &[
    "rename_all",
    "rename_all_fields",
    "flatten",
    "transparent",
    "tag",
    "untagged",
    "into",
    "remote",
];

fn serde(attributes: &[Attribute]) -> Result<Said> {
    let mut said = Said::default();
    for attribute in attributes.iter().filter(|it| it.path().is_ident("serde")) {
        attribute.parse_nested_meta(|meta| note(&mut said, &meta))?;
    }
    Ok(said)
}

fn note(said: &mut Said, meta: &ParseNestedMeta<'_>) -> Result<()> {
    if let Some(known) = ELSEWHERE.iter().find(|known| meta.path.is_ident(known)) {
        let instead = if known.starts_with("rename_all") { ": rename each field" } else { "" };
        return Err(
            meta.error(format!("`Fields` does not know what `{known}` makes of a struct{instead}"))
        );
    }
    if meta.path.is_ident("rename") {
        let Ok(value) = meta.value() else {
            return Err(meta.error("`Fields` needs one name for both ways: `rename = \"name\"`"));
        };
        said.name = Some(value.parse::<LitStr>()?.value());
        return Ok(());
    }
    if meta.path.is_ident("skip") {
        said.is_skipped = true;
        return Ok(());
    }
    // Of what else serde knows, only the tokens matter.
    if meta.input.peek(syn::Token![=]) {
        meta.value()?.parse::<syn::Expr>()?;
    } else if meta.input.peek(syn::token::Paren) {
        meta.parse_nested_meta(|inner| {
            if inner.input.peek(syn::Token![=]) {
                inner.value()?.parse::<syn::Expr>()?;
            }
            Ok(())
        })?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn expanded(source: &str) -> Result<String> {
        expand(&syn::parse_str(source).expect("it is Rust")).map(|tokens| tokens.to_string())
    }

    #[test]
    fn names_are_those_that_serde_writes() {
        let source = r#"
            #[serde(rename = "Song", deny_unknown_fields)]
            struct Track {
                title: String,
                #[serde(rename = "secs", default = "none")] seconds: u32,
                #[serde(skip)] cached: u8,
                #[serde(default)] r#type: u8,
            }
        "#;
        let expanded = expanded(source).expect("it has fields");
        for part in [r#"("Song" , "title")"#, r#"("Song" , "secs")"#, r#"("Song" , "type")"#] {
            let part = part.replace(' ', "");
            assert!(expanded.replace(' ', "").contains(&part), "{part}: {expanded}");
        }
        assert!(!expanded.contains("cached"), "{expanded}");
    }

    #[test]
    fn what_has_no_known_fields_is_refused_with_the_reason() {
        for (source, reason) in [
            ("enum A { B }", "structs with named fields"),
            ("struct A(u8);", "structs with named fields"),
            ("struct A<T> { a: T }", "without parameters"),
            (r#"#[serde(rename_all = "camelCase")] struct A { a: u8 }"#, "rename each field"),
            ("struct A { #[serde(flatten)] a: B }", "`flatten`"),
            (r#"struct A { #[serde(rename(serialize = "b"))] a: u8 }"#, "one name for both ways"),
        ] {
            let refusal = expanded(source).expect_err("it is refused").to_string();
            assert!(refusal.contains(reason), "{source}: {refusal}");
        }
    }
}
