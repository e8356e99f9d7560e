use proc_macro2::TokenStream;
use quote::quote;

use crate::expand::action;

/// Tokens as text, without the differences that spaces make.
fn text(tokens: &TokenStream) -> String {
    tokens.to_string().split_whitespace().collect()
}

/// What the compiler says, and nothing else.
fn error(arguments: TokenStream, function: &TokenStream) -> String {
    let expanded = action(arguments, function).to_string();
    let (_, message) = expanded.split_once("compile_error ! { \"").expect("it is refused");
    message.split_once("\" }").expect("the message ends").0.replace("\\\"", "\"")
}

#[test]
fn an_action_expands_to_what_an_author_would_have_written() {
    let expanded = action(
        quote! { RandomInt, "random-int", effect = "pure", deadline = "2m" },
        &quote! {
            /// Draws one integer.
            async fn random_int(
                cx: &Cx<Randomness>,
                /// The lowest.
                #[schemars(range(min = 0))]
                low: i64,
                high: Option<i64>,
            ) -> Result<Drawn> {
                body()
            }
        },
    );
    let expected = quote! {
        #[doc = r" Draws one integer."]
        #[derive(::metagov_sdk::serde::Serialize, ::metagov_sdk::serde::Deserialize, ::metagov_sdk::schemars::JsonSchema)]
        #[serde(crate = "::metagov_sdk::serde")]
        #[schemars(crate = "::metagov_sdk::schemars")]
        pub struct RandomInt {
            #[doc = r" The lowest."]
            #[schemars(range(min = 0))]
            pub low: i64,
            #[serde(default, skip_serializing_if = "::core::option::Option::is_none")]
            pub high: Option<i64>
        }

        impl ::metagov_sdk::Action<Randomness> for RandomInt {
            const NAME: &'static str = "random-int";
            const EFFECT: ::metagov_sdk::Effect = ::metagov_sdk::Effect::Pure;
            fn deadline() -> ::core::option::Option<::core::time::Duration> {
                ::core::option::Option::Some(::core::time::Duration::from_secs(120u64))
            }
            type Output = Drawn;

            async fn run(self, cx: &::metagov_sdk::Cx<Randomness>) -> ::metagov_sdk::Result<Drawn> {
                random_int(cx, self.low, self.high).await
            }
        }

        #[allow(
            clippy::unused_async,
            clippy::missing_errors_doc,
            reason = "an action is async whether it waits or not, and its doc comment is written for drivers"
        )]
        #[doc = r" Draws one integer."]
        async fn random_int(cx: &Cx<Randomness>, low: i64, high: Option<i64>,) -> Result<Drawn> {
            body()
        }
    };
    assert_eq!(text(&expanded), text(&expected));
}

#[test]
fn an_action_without_parameters_is_an_empty_object_and_not_safe_to_repeat() {
    let expanded = action(
        quote! { Ping, "ping" },
        &quote! {
            #[doc = "Asks."]
            async fn ping(cx: &metagov_sdk::Cx<crate::Chat>) -> metagov_sdk::Result<Vec<u8>> { body() }
        },
    );
    let expected = quote! {
        #[doc = "Asks."]
        #[derive(::metagov_sdk::serde::Serialize, ::metagov_sdk::serde::Deserialize, ::metagov_sdk::schemars::JsonSchema)]
        #[serde(crate = "::metagov_sdk::serde")]
        #[schemars(crate = "::metagov_sdk::schemars")]
        pub struct Ping {}

        impl ::metagov_sdk::Action<crate::Chat> for Ping {
            const NAME: &'static str = "ping";
            type Output = Vec<u8>;

            async fn run(self, cx: &::metagov_sdk::Cx<crate::Chat>) -> ::metagov_sdk::Result<Vec<u8>> {
                ping(cx,).await
            }
        }

        #[allow(
            clippy::unused_async,
            clippy::missing_errors_doc,
            reason = "an action is async whether it waits or not, and its doc comment is written for drivers"
        )]
        #[doc = "Asks."]
        async fn ping(cx: &metagov_sdk::Cx<crate::Chat>) -> metagov_sdk::Result<Vec<u8>> { body() }
    };
    assert_eq!(text(&expanded), text(&expected));
}

#[test]
fn an_author_who_speaks_of_serde_is_not_interrupted() {
    let expanded = action(
        quote! { A, "a" },
        &quote! {
            #[doc = "A."]
            async fn a(cx: &Cx<P>, #[serde(default = "some_five")] n: Option<u8>) -> Result<()> { body() }
        },
    );
    assert_eq!(text(&expanded).matches("#[serde(default").count(), 1, "{expanded}");
}

#[test]
fn each_misuse_of_the_arguments_is_told_with_its_remedy() {
    let function = quote! {
        /// Does it.
        async fn f(cx: &Cx<P>) -> Result<()> { body() }
    };
    let shape = "write #[action(TypeName, \"wire-name\", effect = \"keyed\")]";
    for (arguments, expected) in [
        (quote! {}, shape),
        (quote! { "wire-name" }, shape),
        (quote! { F }, shape),
        (quote! { F, name }, shape),
        (quote! { F, "Wire.Name" }, "the wire name must match [a-z0-9][a-z0-9-]{0,62}"),
        (quote! { F, "" }, "the wire name must match [a-z0-9][a-z0-9-]{0,62}"),
        (quote! { F, "f", effect = "safe" }, "effect is one of \"pure\", \"idempotent\", \"keyed\", \"unsafe\""),
        (quote! { F, "f", deadline = "soon" }, "deadline is a whole number of seconds or minutes: \"90s\", \"2m\""),
        (quote! { F, "f", deadline = "0s" }, "deadline is a whole number of seconds or minutes: \"90s\", \"2m\""),
        (quote! { F, "f", retries = "3" }, "unknown argument `retries`: there are `effect` and `deadline`"),
    ] {
        assert_eq!(error(arguments, &function), expected);
    }
}

#[test]
fn each_misuse_of_the_function_is_told_with_its_remedy() {
    for (function, expected) in [
        (quote! { struct F; }, "#[action] stands on an async function"),
        (
            quote! { #[doc = "F."] fn f(cx: &Cx<P>) -> Result<()> { body() } },
            "an action is an async function: write `async fn`",
        ),
        (
            quote! { #[doc = "F."] async fn f<T>(cx: &Cx<P>) -> Result<T> { body() } },
            "an action takes no generic parameters",
        ),
        (
            quote! { async fn f(cx: &Cx<P>) -> Result<()> { body() } },
            "document the action: its doc comment is the description that drivers read",
        ),
        (
            quote! { #[doc = "F."] async fn f() -> Result<()> { body() } },
            "the first parameter of an action is its context: `cx: &Cx<YourPlugin>`",
        ),
        (
            quote! { #[doc = "F."] async fn f(low: i64) -> Result<()> { body() } },
            "the first parameter of an action is its context: `cx: &Cx<YourPlugin>`",
        ),
        (
            quote! { #[doc = "F."] async fn f(&self, cx: &Cx<P>) -> Result<()> { body() } },
            "the first parameter of an action is its context: `cx: &Cx<YourPlugin>`",
        ),
        (
            quote! { #[doc = "F."] async fn f(cx: &Cx<P>, (a, b): (u8, u8)) -> Result<()> { body() } },
            "a parameter needs a plain name: it is its name on the wire",
        ),
        (
            quote! { #[doc = "F."] async fn f(cx: &Cx<P>, text: &str) -> Result<()> { body() } },
            "a parameter is taken by value: write `String`, not `&str`",
        ),
        (
            quote! { #[doc = "F."] async fn f(cx: &Cx<P>) { body() } },
            "an action returns `Result<T>`, where `T` is what it answers",
        ),
        (
            quote! { #[doc = "F."] async fn f(cx: &Cx<P>) -> u8 { body() } },
            "an action returns `Result<T>`, where `T` is what it answers",
        ),
    ] {
        assert_eq!(error(quote! { F, "f" }, &function), expected);
    }
}
