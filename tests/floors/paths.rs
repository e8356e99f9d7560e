//! Finds the paths (`crate::bus::Bus`, `lapin::Channel`) that a source file names, with their lines.
//!
//! The tokens come from proc-macro2, so that comments and strings are gone and the insides of macro calls are seen.
//! Items under `#[cfg(test)]` are left out. Names that a `use` brought in are not followed: the `use` itself is seen.
//! Up: `floors.rs`, which says what may stand where.

use std::str::FromStr;

use proc_macro2::{Delimiter, LexError, TokenStream, TokenTree};

/// Words that stand where a path may begin and are none.
const KEYWORDS: &[&str] = &[
    "as", "async", "await", "break", "const", "continue", "dyn", "else", "enum", "extern", "fn", "for", "if", "impl",
    "in", "let", "loop", "match", "move", "mut", "pub", "ref", "return", "static", "struct", "trait", "type", "unsafe",
    "use", "where", "while",
];

/// A path with `self` and `super` resolved: `crate`, module, …, or the name of another crate first.
#[derive(Debug)]
pub(crate) struct Named {
    pub(crate) segments: Vec<String>,
    pub(crate) line: usize,
}

/// What one file names, without its tests.
#[derive(Debug, Default)]
pub(crate) struct Source {
    pub(crate) paths: Vec<Named>,
    /// How many lines there are, those of test items not counted.
    pub(crate) lines: usize,
}

impl Source {
    /// `module` is where the file stands in its crate: `bus`, `topology`.
    pub(crate) fn parse(module: &[String], text: &str) -> Result<Self, LexError> {
        let mut source = Self { paths: Vec::new(), lines: text.lines().count() };
        let tokens = TokenStream::from_str(text)?;
        source.walk(tokens, module, &[]);
        Ok(source)
    }

    /// Collects the paths of `stream`; inside the braces of a `use` each of them continues `prefix`.
    fn walk(&mut self, stream: TokenStream, module: &[String], prefix: &[String]) {
        let tokens: Vec<TokenTree> = stream.into_iter().collect();
        let mut at = 0;
        while at < tokens.len() {
            if is_test_attribute(&tokens[at..]) {
                let end = end_of_item(&tokens, at);
                let (from, to) = (tokens[at].span().start().line, tokens[end - 1].span().end().line);
                self.lines = self.lines.saturating_sub(to - from + 1);
                at = end;
                continue;
            }
            match &tokens[at] {
                TokenTree::Group(group) => {
                    self.walk(group.stream(), module, prefix);
                    at += 1;
                }
                TokenTree::Ident(word) if word == "as" => {
                    // The new name of a `use`; a path where it is the type of a cast.
                    at += if is_path_separator(tokens.get(at + 2..).unwrap_or_default()) { 1 } else { 2 };
                }
                TokenTree::Ident(word) if word == "mod" => at = self.walk_module(&tokens, at, module),
                TokenTree::Ident(word) if KEYWORDS.contains(&word.to_string().as_str()) => at += 1,
                TokenTree::Ident(_) => at = self.take_path(&tokens, at, module, prefix),
                TokenTree::Punct(_) | TokenTree::Literal(_) => at += 1,
            }
        }
    }

    /// `mod inner { … }`: one level further for `super`.
    fn walk_module(&mut self, tokens: &[TokenTree], at: usize, module: &[String]) -> usize {
        if let (Some(TokenTree::Ident(name)), Some(TokenTree::Group(body))) = (tokens.get(at + 1), tokens.get(at + 2)) {
            let inner: Vec<String> = module.iter().cloned().chain([name.to_string()]).collect();
            self.walk(body.stream(), &inner, &[]);
            return at + 3;
        }
        at + 2
    }

    /// The path that begins at `at`; returns where it ends.
    fn take_path(&mut self, tokens: &[TokenTree], mut at: usize, module: &[String], prefix: &[String]) -> usize {
        let line = tokens[at].span().start().line;
        let mut segments = prefix.to_vec();
        let mut in_use = !prefix.is_empty();
        while let Some(TokenTree::Ident(word)) = tokens.get(at) {
            segments.push(word.to_string());
            at += 1;
            if !is_path_separator(&tokens[at..]) {
                break;
            }
            at += 2;
            if let Some(TokenTree::Group(group)) = tokens.get(at)
                && group.delimiter() == Delimiter::Brace
            {
                self.walk(group.stream(), module, &segments);
                return at + 1;
            }
            in_use = true;
        }
        if in_use || segments.len() == 1 && follows_use(tokens, at) {
            self.paths.push(Named { segments: resolve(module, segments), line });
        }
        at
    }
}

/// Turns `self::…` and `super::…` into `crate::<module>::…`.
fn resolve(module: &[String], segments: Vec<String>) -> Vec<String> {
    let relative = segments.iter().take_while(|segment| matches!(segment.as_str(), "self" | "super")).count();
    if relative == 0 {
        return segments;
    }
    let ups = segments[..relative].iter().filter(|segment| *segment == "super").count();
    let base = &module[..module.len().saturating_sub(ups)];
    ["crate".to_owned()].into_iter().chain(base.iter().cloned()).chain(segments.into_iter().skip(relative)).collect()
}

/// `use lapin;`: a path of one word, which counts after `use` only.
fn follows_use(tokens: &[TokenTree], end: usize) -> bool {
    end >= 2 && matches!(&tokens[end - 2], TokenTree::Ident(word) if word == "use" || word == "crate")
}

fn is_path_separator(tokens: &[TokenTree]) -> bool {
    matches!(tokens, [TokenTree::Punct(first), TokenTree::Punct(second), ..] if first.as_char() == ':' && second.as_char() == ':')
}

/// `#[cfg(test)]`, exactly: what is compiled for other reasons too is no test code.
fn is_test_attribute(tokens: &[TokenTree]) -> bool {
    let [TokenTree::Punct(hash), TokenTree::Group(attribute), ..] = tokens else { return false };
    hash.as_char() == '#' && attribute.stream().to_string().replace(' ', "") == "cfg(test)"
}

/// Where the item ends whose attributes begin at `at`: behind its first block or semicolon.
fn end_of_item(tokens: &[TokenTree], mut at: usize) -> usize {
    while let [TokenTree::Punct(hash), TokenTree::Group(_), ..] = &tokens[at..]
        && hash.as_char() == '#'
    {
        at += 2;
    }
    let ends = |token: &TokenTree| match token {
        TokenTree::Group(group) => group.delimiter() == Delimiter::Brace,
        TokenTree::Punct(punct) => punct.as_char() == ';',
        TokenTree::Ident(_) | TokenTree::Literal(_) => false,
    };
    tokens[at..].iter().position(ends).map_or(tokens.len(), |length| at + length + 1)
}
