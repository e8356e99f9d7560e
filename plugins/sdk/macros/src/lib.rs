//! The `#[action]` attribute of `metagov-sdk`, and nothing else.
//!
//! It writes what an author would have written by hand: the struct of the parameters and its `Action`. The function
//! stays as it is and stays callable. Up: a plugin's source. Down: [`expand`], which does the work on plain tokens.

mod arguments;
mod expand;
#[cfg(test)]
mod tests;

use proc_macro::TokenStream;

/// Turns a function into an action: `#[action(PostMessage, "post-message", effect = "keyed", deadline = "90s")]`.
///
/// The first word is the name of the struct to write, the second the name on the wire. `effect` is `pure`,
/// `idempotent`, `keyed` or `unsafe` (the default); `deadline` is a whole number of `s` or `m`, for calls that may take
/// longer than the service's own limit.
///
/// The function is `async`, takes the context first, `&Cx<P>`, then the parameters by value, and returns `Result<…>`.
/// Its doc comment is the action's description, a parameter's doc comment that of the parameter; a parameter may carry
/// attributes of `serde` and `schemars`. A parameter of type `Option<…>` may be left out.
#[proc_macro_attribute]
pub fn action(arguments: TokenStream, function: TokenStream) -> TokenStream {
    expand::action(arguments.into(), &function.into()).into()
}
