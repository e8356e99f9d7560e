//! What stands between the brackets of `#[action(…)]`.
//!
//! Up: the attribute. Down: [`crate::expand`].

use proc_macro2::TokenStream;
use quote::quote;
use syn::{
    Ident, LitStr, Token,
    parse::{Parse, ParseStream},
};

const SHAPE: &str = "write #[action(TypeName, \"wire-name\", effect = \"keyed\")]";

/// `TypeName, "wire-name", effect = "…", deadline = "…"`.
pub(crate) struct Arguments {
    pub(crate) type_name: Ident,
    pub(crate) wire_name: LitStr,
    /// The variant of `Effect`, where one is named.
    pub(crate) effect: Option<Ident>,
    /// The deadline in seconds, where one is named.
    pub(crate) deadline: Option<u64>,
}

impl Parse for Arguments {
    fn parse(input: ParseStream<'_>) -> syn::Result<Self> {
        let shape = |error: syn::Error| syn::Error::new(error.span(), SHAPE);
        let type_name = input.parse().map_err(shape)?;
        input.parse::<Token![,]>().map_err(shape)?;
        let wire_name: LitStr = input.parse().map_err(shape)?;
        check_wire_name(&wire_name)?;
        let mut arguments = Self { type_name, wire_name, effect: None, deadline: None };
        while !input.is_empty() {
            input.parse::<Token![,]>()?;
            if input.is_empty() {
                break;
            }
            let key: Ident = input.parse()?;
            input.parse::<Token![=]>()?;
            let value: LitStr = input.parse()?;
            match key.to_string().as_str() {
                "effect" => arguments.effect = Some(effect(&value)?),
                "deadline" => arguments.deadline = Some(seconds(&value)?),
                other => {
                    let message = format!("unknown argument `{other}`: there are `effect` and `deadline`");
                    return Err(syn::Error::new(key.span(), message));
                }
            }
        }
        Ok(arguments)
    }
}

impl Arguments {
    /// The optional items of the implementation; without an argument the trait's default holds.
    pub(crate) fn items(&self) -> TokenStream {
        let effect = self.effect.as_ref().map(|effect| {
            quote! { const EFFECT: ::metagov_sdk::Effect = ::metagov_sdk::Effect::#effect; }
        });
        let deadline = self.deadline.map(|seconds| {
            quote! {
                fn deadline() -> ::core::option::Option<::core::time::Duration> {
                    ::core::option::Option::Some(::core::time::Duration::from_secs(#seconds))
                }
            }
        });
        quote! { #effect #deadline }
    }
}

fn check_wire_name(name: &LitStr) -> syn::Result<()> {
    let text = name.value();
    let plain = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
    if (1..=63).contains(&text.len()) && !text.starts_with('-') && text.chars().all(plain) {
        return Ok(());
    }
    Err(syn::Error::new(name.span(), "the wire name must match [a-z0-9][a-z0-9-]{0,62}"))
}

fn effect(value: &LitStr) -> syn::Result<Ident> {
    let variant = match value.value().as_str() {
        "pure" => "Pure",
        "idempotent" => "Idempotent",
        "keyed" => "Keyed",
        "unsafe" => "Unsafe",
        _ => {
            return Err(syn::Error::new(
                value.span(),
                "effect is one of \"pure\", \"idempotent\", \"keyed\", \"unsafe\"",
            ));
        }
    };
    Ok(Ident::new(variant, value.span()))
}

fn seconds(value: &LitStr) -> syn::Result<u64> {
    let text = value.value();
    let (number, unit) = text.split_at(text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len()));
    let unit = match unit {
        "s" => Some(1),
        "m" => Some(60),
        _ => None,
    };
    number
        .parse::<u64>()
        .ok()
        .filter(|number| *number > 0)
        .zip(unit)
        .and_then(|(number, unit)| number.checked_mul(unit))
        .ok_or_else(|| {
            syn::Error::new(value.span(), "deadline is a whole number of seconds or minutes: \"90s\", \"2m\"")
        })
}
