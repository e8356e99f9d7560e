//! From a function to an action.
//!
//! Up: [`crate::action`]. Down: the compiler.

use proc_macro2::TokenStream;
use quote::{quote, quote_spanned};
use syn::{
    Attribute, Error, FnArg, GenericArgument, Ident, ItemFn, PatType, PathArguments, PathSegment, Result, ReturnType,
    Type, parse2, spanned::Spanned as _,
};

use crate::arguments::Arguments;

/// The attribute on plain tokens. Where it is used wrongly, the function stays beside the error, so that the compiler
/// does not complain about a missing function as well.
pub(crate) fn action(arguments: TokenStream, function: &TokenStream) -> TokenStream {
    let mut item: ItemFn = match parse2(function.clone()) {
        Ok(item) => item,
        Err(error) => {
            let error = Error::new(error.span(), "#[action] stands on an async function").into_compile_error();
            return quote! { #error #function };
        }
    };
    match written(arguments, &item) {
        Ok(written) => {
            strip(&mut item);
            quote! {
                #written

                #[allow(
                    clippy::unused_async,
                    clippy::missing_errors_doc,
                    reason = "an action is async whether it waits or not, and its doc comment is written for drivers"
                )]
                #item
            }
        }
        Err(error) => {
            let error = error.into_compile_error();
            strip(&mut item);
            quote! { #error #item }
        }
    }
}

fn written(arguments: TokenStream, item: &ItemFn) -> Result<TokenStream> {
    let arguments: Arguments = parse2(arguments)?;
    let signature = &item.sig;
    if signature.asyncness.is_none() {
        return Err(Error::new(signature.fn_token.span, "an action is an async function: write `async fn`"));
    }
    if !signature.generics.params.is_empty() {
        return Err(Error::new(signature.generics.span(), "an action takes no generic parameters"));
    }
    let docs: Vec<&Attribute> = item.attrs.iter().filter(|attribute| attribute.path().is_ident("doc")).collect();
    if docs.is_empty() {
        let message = "document the action: its doc comment is the description that drivers read";
        return Err(Error::new(signature.ident.span(), message));
    }
    let mut inputs = signature.inputs.iter();
    let plugin = plugin(inputs.next().ok_or_else(|| no_context(&signature.ident))?)?;
    let parameters = inputs.map(parameter).collect::<Result<Vec<_>>>()?;
    let output = output(&signature.output)?;

    let Arguments { type_name, wire_name, .. } = &arguments;
    let (function, items) = (&signature.ident, arguments.items());
    let fields = parameters.iter().map(|Parameter { attributes, name, kind }| {
        // An author who says something about serde says all of it.
        let silent = !attributes.iter().any(|attribute| attribute.path().is_ident("serde"));
        let optional = (silent && argument_of(kind, "Option").is_some())
            .then(|| quote! { #[serde(default, skip_serializing_if = "::core::option::Option::is_none")] });
        // Spanned, so that what the compiler has to say about the field points at the parameter.
        let public = quote_spanned! { name.span() => pub };
        quote! { #(#attributes)* #optional #public #name: #kind }
    });
    let names = parameters.iter().map(|parameter| parameter.name);
    Ok(quote! {
        #(#docs)*
        #[derive(::metagov_sdk::serde::Serialize, ::metagov_sdk::serde::Deserialize, ::metagov_sdk::schemars::JsonSchema)]
        #[serde(crate = "::metagov_sdk::serde")]
        #[schemars(crate = "::metagov_sdk::schemars")]
        pub struct #type_name { #(#fields),* }

        impl ::metagov_sdk::Action<#plugin> for #type_name {
            const NAME: &'static str = #wire_name;
            #items
            type Output = #output;

            async fn run(self, cx: &::metagov_sdk::Cx<#plugin>) -> ::metagov_sdk::Result<#output> {
                #function(cx, #(self.#names),*).await
            }
        }
    })
}

/// One parameter of the function: one field of the struct.
struct Parameter<'a> {
    attributes: Vec<&'a Attribute>,
    name: &'a Ident,
    kind: &'a Type,
}

fn parameter(input: &FnArg) -> Result<Parameter<'_>> {
    let FnArg::Typed(PatType { attrs, pat, ty, .. }) = input else {
        return Err(Error::new(input.span(), "an action is a free function: it takes no `self`"));
    };
    let syn::Pat::Ident(name) = &**pat else {
        return Err(Error::new(pat.span(), "a parameter needs a plain name: it is its name on the wire"));
    };
    if let Type::Reference(_) = **ty {
        return Err(Error::new(ty.span(), "a parameter is taken by value: write `String`, not `&str`"));
    }
    Ok(Parameter {
        attributes: attrs.iter().filter(|attribute| is_ours(attribute)).collect(),
        name: &name.ident,
        kind: ty,
    })
}

/// `P` of the context `&Cx<P>`.
fn plugin(input: &FnArg) -> Result<&Type> {
    let found = match input {
        FnArg::Typed(PatType { ty, .. }) => match &**ty {
            Type::Reference(reference) => argument_of(&reference.elem, "Cx"),
            _ => None,
        },
        FnArg::Receiver(_) => None,
    };
    found.ok_or_else(|| no_context(input))
}

fn no_context(at: &impl syn::spanned::Spanned) -> Error {
    Error::new(at.span(), "the first parameter of an action is its context: `cx: &Cx<YourPlugin>`")
}

/// `T` of the return type `Result<T>`.
fn output(output: &ReturnType) -> Result<&Type> {
    let message = "an action returns `Result<T>`, where `T` is what it answers";
    match output {
        ReturnType::Type(_, kind) => argument_of(kind, "Result").ok_or_else(|| Error::new(kind.span(), message)),
        ReturnType::Default => Err(Error::new(output.span(), message)),
    }
}

/// The first type argument of a path that ends in `name<…>`.
fn argument_of<'a>(kind: &'a Type, name: &str) -> Option<&'a Type> {
    match &last_segment(kind).filter(|segment| segment.ident == name)?.arguments {
        PathArguments::AngleBracketed(arguments) => arguments.args.iter().find_map(|argument| match argument {
            GenericArgument::Type(kind) => Some(kind),
            _ => None,
        }),
        PathArguments::None | PathArguments::Parenthesized(_) => None,
    }
}

fn last_segment(kind: &Type) -> Option<&PathSegment> {
    match kind {
        Type::Path(path) => path.path.segments.last(),
        _ => None,
    }
}

/// Attributes of a parameter that belong to the field.
fn is_ours(attribute: &Attribute) -> bool {
    ["doc", "serde", "schemars"].iter().any(|name| attribute.path().is_ident(name))
}

/// Takes from the function what only the struct can carry.
fn strip(item: &mut ItemFn) {
    for input in &mut item.sig.inputs {
        if let FnArg::Typed(typed) = input {
            typed.attrs.retain(|attribute| !is_ours(attribute));
        }
    }
}
