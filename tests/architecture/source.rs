//! What does the source of a crate say of itself? Every file of its module tree, and every path in it, resolved to the
//! file that defines what the path names.
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use proc_macro2::{Spacing, TokenStream, TokenTree};
use syn::spanned::Spanned;
use syn::visit::{self, Visit};
use syn::{Attribute, Item, ItemMod, ItemUse, Macro, UseTree, Visibility};

/// A path longer than this many aliases of aliases is given up.
const MOST_ALIASES: usize = 16;

/// Modules by their path from the crate's root, which is the empty path.
type Modules = BTreeMap<Vec<String>, Module>;

/// One module: a file, or a part of one.
struct Module {
    file: PathBuf,
    /// Whether it is an alias for each name, and for what.
    aliases: BTreeMap<String, Vec<String>>,
    globs: Vec<Vec<String>>,
    items: Vec<String>,
}

/// A path that the source names.
pub struct Mention {
    /// The file that names it, from the repository's root.
    pub file: PathBuf,
    pub line: usize,
    /// As it stands there.
    pub path: Vec<String>,
    /// Where what it names is defined, if it is in the same crate.
    pub target: Option<PathBuf>,
    /// Whether only tests are built from it.
    pub is_test: bool,
}

impl Mention {
    /// `src/relay/carry.rs:12: crate::store::Row`.
    pub fn place(&self) -> String {
        format!("{}:{}: `{}`", self.file.display(), self.line, self.path.join("::"))
    }

    /// The library that it names, if it is none of the crate's own modules.
    pub fn package(&self) -> Option<&str> {
        let first = self.path.first().filter(|_| self.target.is_none() && self.path.len() > 1)?;
        (!["crate", "self", "super"].contains(&first.as_str())).then_some(first)
    }
}

/// Reads a crate from its root file, such as `src/lib.rs`. Re-exports are followed and are no mentions of their own.
pub fn read(repository: &Path, root: &Path) -> Vec<Mention> {
    let mut reader = Reader { repository, modules: Modules::new(), found: Vec::new() };
    reader.file(root, Vec::new(), false);
    let Reader { modules, found, .. } = reader;
    let mentions = found.into_iter().map(|found| Mention {
        target: resolve(&modules, &found.module, &found.path, 0),
        file: modules[&found.module].file.clone(),
        line: found.line,
        path: found.path,
        is_test: found.is_test,
    });
    mentions.collect()
}

struct Found {
    module: Vec<String>,
    line: usize,
    path: Vec<String>,
    is_test: bool,
}

struct Reader<'a> {
    repository: &'a Path,
    modules: Modules,
    found: Vec<Found>,
}

impl Reader<'_> {
    fn file(&mut self, file: &Path, module: Vec<String>, is_test: bool) {
        let path = self.repository.join(file);
        let text = std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        let syntax = syn::parse_file(&text).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        let is_test = is_test || is_for_tests(&syntax.attrs);
        self.items(&syntax.items, file, module, is_test);
    }

    fn items(&mut self, items: &[Item], file: &Path, module: Vec<String>, is_test: bool) {
        let empty = Module { file: file.to_owned(), aliases: BTreeMap::new(), globs: Vec::new(), items: Vec::new() };
        self.modules.insert(module.clone(), empty);
        let mut visitor = Paths { module: &module, is_test, found: Vec::new() };
        for item in items {
            match item {
                Item::Mod(child) => self.child(child, file, &module, is_test),
                Item::Use(import) => self.import(import, &module, &mut visitor),
                other => {
                    visitor.visit_item(other);
                    let name = name_of(other);
                    self.modules.entry(module.clone()).and_modify(|it| it.items.extend(name));
                }
            }
        }
        self.found.append(&mut visitor.found);
    }

    fn child(&mut self, child: &ItemMod, file: &Path, parent: &[String], is_test: bool) {
        let name = child.ident.to_string();
        let is_test = is_test || is_for_tests(&child.attrs);
        let module = [parent, std::slice::from_ref(&name)].concat();
        if let Some((_, items)) = &child.content {
            self.items(items, file, module, is_test);
            return;
        }
        let stem = file.file_stem().unwrap().to_str().unwrap();
        let folder = file.parent().unwrap();
        let folder = if ["lib", "main", "mod"].contains(&stem) { folder.to_owned() } else { folder.join(stem) };
        let flat = folder.join(format!("{name}.rs"));
        let nested = folder.join(&name).join("mod.rs");
        let file = if self.repository.join(&flat).exists() { flat } else { nested };
        self.file(&file, module, is_test);
    }

    fn import(&mut self, import: &ItemUse, module: &[String], visitor: &mut Paths<'_>) {
        let is_reexport = !matches!(import.vis, Visibility::Inherited);
        let mut leaves = Vec::new();
        flatten(&import.tree, &mut Vec::new(), &mut leaves);
        let this = self.modules.get_mut(module).unwrap();
        for (alias, path) in leaves {
            if !is_reexport {
                visitor.push(import.span().start().line, path.clone());
            }
            match alias {
                Some(alias) => _ = this.aliases.insert(alias, path),
                None => this.globs.push(path),
            }
        }
    }
}

/// The paths that a tree of imports names, each with the name that it gets; none for `*`.
fn flatten(tree: &UseTree, prefix: &mut Vec<String>, leaves: &mut Vec<(Option<String>, Vec<String>)>) {
    let whole = |prefix: &[String], name: &str| {
        if name == "self" { prefix.to_vec() } else { [prefix, &[name.to_owned()]].concat() }
    };
    match tree {
        UseTree::Path(path) => {
            prefix.push(path.ident.to_string());
            flatten(&path.tree, prefix, leaves);
            prefix.pop();
        }
        UseTree::Name(name) => {
            let path = whole(prefix, &name.ident.to_string());
            leaves.push((path.last().cloned(), path));
        }
        UseTree::Rename(rename) => {
            leaves.push((Some(rename.rename.to_string()), whole(prefix, &rename.ident.to_string())));
        }
        UseTree::Glob(_) => leaves.push((None, prefix.clone())),
        UseTree::Group(group) => group.items.iter().for_each(|tree| flatten(tree, prefix, leaves)),
    }
}

fn name_of(item: &Item) -> Option<String> {
    let ident = match item {
        Item::Const(it) => &it.ident,
        Item::Enum(it) => &it.ident,
        Item::Fn(it) => &it.sig.ident,
        Item::Static(it) => &it.ident,
        Item::Struct(it) => &it.ident,
        Item::Trait(it) => &it.ident,
        Item::Type(it) => &it.ident,
        Item::Macro(it) => it.ident.as_ref()?,
        _ => return None,
    };
    Some(ident.to_string())
}

fn is_for_tests(attributes: &[Attribute]) -> bool {
    attributes.iter().any(|attribute| {
        attribute.path().is_ident("cfg")
            && attribute.parse_args::<syn::Ident>().is_ok_and(|condition| condition == "test")
    })
}

/// Collects every path of an item, also those that are only tokens to the parser: the arguments of macros.
struct Paths<'a> {
    module: &'a [String],
    is_test: bool,
    found: Vec<Found>,
}

impl Paths<'_> {
    fn push(&mut self, line: usize, path: Vec<String>) {
        self.found.push(Found { module: self.module.to_vec(), line, path, is_test: self.is_test });
    }

    fn tokens(&mut self, tokens: TokenStream) {
        let mut path: Vec<String> = Vec::new();
        let (mut line, mut colons) = (0, 0);
        for token in tokens {
            match token {
                TokenTree::Ident(ident) if colons == 2 && !path.is_empty() => path.push(ident.to_string()),
                TokenTree::Ident(ident) => {
                    self.flush(line, &mut path);
                    line = ident.span().start().line;
                    path.push(ident.to_string());
                }
                TokenTree::Punct(punct) if punct.as_char() == ':' => {
                    colons = if punct.spacing() == Spacing::Joint { 1 } else { colons + 1 };
                    continue;
                }
                TokenTree::Group(group) => {
                    self.flush(line, &mut path);
                    self.tokens(group.stream());
                }
                _ => self.flush(line, &mut path),
            }
            colons = 0;
        }
        self.flush(line, &mut path);
    }

    fn flush(&mut self, line: usize, path: &mut Vec<String>) {
        let path = std::mem::take(path);
        if path.len() > 1 {
            self.push(line, path);
        }
    }
}

impl<'ast> Visit<'ast> for Paths<'_> {
    fn visit_path(&mut self, path: &'ast syn::Path) {
        let segments = path.segments.iter().map(|segment| segment.ident.to_string()).collect();
        self.push(path.span().start().line, segments);
        visit::visit_path(self, path);
    }

    fn visit_macro(&mut self, call: &'ast Macro) {
        self.tokens(call.tokens.clone());
        visit::visit_macro(self, call);
    }
}

/// The file that defines what a path names, as seen from a module.
fn resolve(modules: &Modules, from: &[String], path: &[String], aliases: usize) -> Option<PathBuf> {
    if aliases > MOST_ALIASES {
        return None;
    }
    let (first, rest) = path.split_first()?;
    match first.as_str() {
        "crate" => walk(modules, Vec::new(), rest, aliases),
        "self" => walk(modules, from.to_vec(), rest, aliases),
        "super" => walk(modules, from.split_last()?.1.to_vec(), rest, aliases),
        _ => named(modules, from, path, aliases),
    }
}

fn walk(modules: &Modules, mut module: Vec<String>, path: &[String], aliases: usize) -> Option<PathBuf> {
    if path.first().is_some_and(|first| first == "super") {
        module.pop();
        return walk(modules, module, &path[1..], aliases);
    }
    // What cannot be found, such as what a macro makes, is taken to be where it was looked for.
    named(modules, &module, path, aliases)
        .or_else(|| (!path.is_empty() && !is_module(modules, &module, path)).then(|| modules[&module].file.clone()))
}

fn is_module(modules: &Modules, module: &[String], path: &[String]) -> bool {
    modules.contains_key(&[module, path].concat())
}

/// A name as it is known within a module: a child, an item, or an alias.
fn named(modules: &Modules, module: &[String], path: &[String], aliases: usize) -> Option<PathBuf> {
    let (first, rest) = path.split_first()?;
    let this = modules.get(module)?;
    let child = [module, std::slice::from_ref(first)].concat();
    if modules.contains_key(&child) {
        return walk(modules, child, rest, aliases);
    }
    if this.items.contains(first) {
        return Some(this.file.clone());
    }
    if let Some(alias) = this.aliases.get(first) {
        return resolve(modules, module, &[alias, rest].concat(), aliases + 1);
    }
    this.globs.iter().find_map(|glob| {
        resolve(modules, module, &[glob.as_slice(), path].concat(), aliases + 1)
            .filter(|file| is_known(modules, file, path))
    })
}

/// Whether a file that a `*` led to really has the name: without that, each unknown name would be taken to come from it.
fn is_known(modules: &Modules, file: &Path, path: &[String]) -> bool {
    modules.values().any(|module| module.file == file && module.items.contains(&path[0]))
}
