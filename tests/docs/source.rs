//! What do the sources of the gateway say that no value at run time tells? Fields' docs, and literals of calls.
use syn::visit::{self, Visit};
use syn::{Attribute, Expr, ExprLit, ExprMethodCall, ItemStruct, Lit, Meta};

use crate::files;

/// A method call with literal arguments, such as `declare.counters("requests_total", "…", &["route"])`.
pub struct Call {
    pub method: String,
    /// The strings among the arguments, in order.
    pub strings: Vec<String>,
    /// Those of the arguments that are lists of strings.
    pub lists: Vec<Vec<String>>,
}

/// The name and the doc comment of every field of a struct that is read from a file.
pub fn fields() -> Vec<(String, String)> {
    let mut reader = Fields(Vec::new());
    for folder in ["src", "crates"] {
        for file in files(folder, "rs") {
            reader.visit_file(&parsed(&file));
        }
    }
    reader.0
}

/// Every method call in these files that has a string as its first argument.
pub fn calls(folder: &str, keep: impl Fn(&std::path::Path) -> bool) -> Vec<Call> {
    let mut reader = Calls(Vec::new());
    for file in files(folder, "rs").iter().filter(|file| keep(file)) {
        reader.visit_file(&parsed(file));
    }
    reader.0
}

fn parsed(file: &std::path::Path) -> syn::File {
    let text = std::fs::read_to_string(file).unwrap();
    syn::parse_file(&text).unwrap_or_else(|error| panic!("{}: {error}", file.display()))
}

struct Fields(Vec<(String, String)>);

impl Visit<'_> for Fields {
    fn visit_item_struct(&mut self, item: &ItemStruct) {
        let derives = item.attrs.iter().filter(|attribute| attribute.path().is_ident("derive"));
        let is_read = derives.into_iter().any(
            |attribute| matches!(&attribute.meta, Meta::List(list) if list.tokens.to_string().contains("Deserialize")),
        );
        for field in item.fields.iter().filter(|_| is_read) {
            let Some(name) = &field.ident else { continue };
            self.0.push((name.to_string(), doc(&field.attrs)));
        }
    }
}

/// The lines of a doc comment as one.
fn doc(attributes: &[Attribute]) -> String {
    let lines = attributes.iter().filter_map(|attribute| match &attribute.meta {
        Meta::NameValue(pair) if pair.path.is_ident("doc") => string(&pair.value),
        _ => None,
    });
    lines.map(|line| line.trim().to_owned()).collect::<Vec<_>>().join(" ")
}

struct Calls(Vec<Call>);

impl Visit<'_> for Calls {
    fn visit_expr_method_call(&mut self, call: &ExprMethodCall) {
        if call.args.first().and_then(string).is_some() {
            let strings = call.args.iter().filter_map(string).collect();
            let lists = call.args.iter().filter_map(list).collect();
            self.0.push(Call { method: call.method.to_string(), strings, lists });
        }
        visit::visit_expr_method_call(self, call);
    }
}

fn string(expression: &Expr) -> Option<String> {
    match expression {
        Expr::Lit(ExprLit { lit: Lit::Str(text), .. }) => Some(text.value()),
        _ => None,
    }
}

fn list(expression: &Expr) -> Option<Vec<String>> {
    let Expr::Reference(reference) = expression else { return None };
    let Expr::Array(array) = &*reference.expr else { return None };
    Some(array.elems.iter().filter_map(string).collect())
}
