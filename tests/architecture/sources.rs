//! What the rules look at, read from the sources by their syntax. Tests within the sources are left
//! out: items under `#[cfg(test)]` and files that are modules under it.

use std::collections::BTreeSet;
use std::fs;
use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;
use syn::spanned::Spanned;
use syn::visit::{self, Visit};
use syn::{Attribute, Item, UseTree};

/// The crates that have rules.
const ROOTS: [&str; 5] = ["src", "datapath/src", "shell/src", "testbed/src", "perf/src"];

/// What a source file has apart from its tests.
pub(crate) struct Source {
    pub(crate) path: PathBuf,
    /// Its module, from the crate's root.
    pub(crate) module: Vec<String>,
    /// Everything that it names by a path: from the crate's root with `crate` first, from
    /// elsewhere as it is written.
    pub(crate) names: BTreeSet<Vec<String>>,
    /// Functions with the number of their lines.
    pub(crate) functions: Vec<(String, usize)>,
    /// Its lines, comments apart.
    pub(crate) code: String,
    /// How many lines it has, with comments.
    pub(crate) lines: usize,
    /// Modules of other files that are tests.
    test_modules: Vec<Vec<String>>,
}

/// All files of the crates that have rules.
pub(crate) fn sources() -> &'static [Source] {
    static ALL: OnceLock<Vec<Source>> = OnceLock::new();
    ALL.get_or_init(|| {
        let mut all = Vec::new();
        for root in ROOTS {
            let files = files(Path::new(root));
            let mut read: Vec<_> = files.into_iter().map(|file| Source::read(root, file)).collect();
            let tests: Vec<_> = read.iter().flat_map(|file| file.test_modules.clone()).collect();
            read.retain(|file| !tests.iter().any(|test| file.module.starts_with(test)));
            all.append(&mut read);
        }
        all
    })
}

/// The files below a folder, without those that are tests.
pub(crate) fn within(folder: &str) -> impl Iterator<Item = &'static Source> {
    sources().iter().filter(move |source| source.path.starts_with(folder))
}

/// All Rust files below a folder.
pub(crate) fn files(folder: &Path) -> Vec<PathBuf> {
    let mut files = Vec::new();
    for entry in fs::read_dir(folder).expect("a readable folder") {
        let path = entry.expect("a readable entry").path();
        if path.is_dir() {
            files.extend(self::files(&path));
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            files.push(path);
        }
    }
    files.sort();
    files
}

impl Source {
    /// Reads a file of the crate whose root is in this folder.
    fn read(root: &str, path: PathBuf) -> Self {
        let text = fs::read_to_string(&path).expect("a readable source file");
        let inside = path.strip_prefix(root).expect("a file of its crate").with_extension("");
        let mut module: Vec<_> =
            inside.iter().map(|part| part.to_string_lossy().into_owned()).collect();
        module.pop_if(|last| ["mod", "lib", "main"].contains(&last.as_str()));
        Self::parse(path, module, &text)
    }

    pub(crate) fn parse(path: PathBuf, module: Vec<String>, text: &str) -> Self {
        let file =
            syn::parse_file(text).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        let mut facts = Facts { module: module.clone(), ..Facts::default() };
        facts.visit_file(&file);
        let is_test = |line: usize| facts.tests.iter().any(|test| test.contains(&line));
        let lines = text.lines().enumerate().filter(|(index, _)| !is_test(index + 1));
        let lines: Vec<_> = lines.map(|(_, line)| line).collect();
        let code = lines.iter().filter(|line| !line.trim_start().starts_with("//"));
        Self {
            path,
            module,
            code: code.copied().collect::<Vec<_>>().join("\n"),
            lines: lines.len(),
            names: facts.names,
            functions: facts.functions,
            test_modules: facts.test_modules,
        }
    }
}

/// What a walk through a file finds.
#[derive(Default)]
struct Facts {
    module: Vec<String>,
    names: BTreeSet<Vec<String>>,
    functions: Vec<(String, usize)>,
    tests: Vec<RangeInclusive<usize>>,
    test_modules: Vec<Vec<String>>,
}

impl Facts {
    fn name(&mut self, path: &[String]) {
        let ups = path.iter().take_while(|part| *part == "super").count();
        let relative = ups > 0 || path[0] == "self";
        self.names.insert(if relative {
            let kept = self.module.len().saturating_sub(ups);
            let here = ["crate".to_owned()].into_iter().chain(self.module[..kept].iter().cloned());
            here.chain(path.iter().skip(ups.max(1)).cloned()).collect()
        } else {
            path.to_vec()
        });
    }

    fn function(&mut self, name: &syn::Ident, from: &impl Spanned, to: &syn::Block) {
        let lines = to.span().end().line - from.span().start().line + 1;
        self.functions.push((name.to_string(), lines));
    }

    fn name_all(&mut self, tree: &UseTree, before: &[String]) {
        let with = |part: &syn::Ident| {
            let part = (*part != "self").then(|| part.to_string());
            before.iter().cloned().chain(part).collect::<Vec<_>>()
        };
        match tree {
            UseTree::Path(path) if before.is_empty() => {
                self.name_all(&path.tree, &[path.ident.to_string()]);
            }
            UseTree::Path(path) => self.name_all(&path.tree, &with(&path.ident)),
            UseTree::Name(name) => self.name(&with(&name.ident)),
            UseTree::Rename(name) => self.name(&with(&name.ident)),
            UseTree::Glob(_) => self.name(before),
            UseTree::Group(group) => group.items.iter().for_each(|it| self.name_all(it, before)),
        }
    }
}

impl<'ast> Visit<'ast> for Facts {
    fn visit_item(&mut self, item: &'ast Item) {
        if !attributes(item).iter().any(is_test) {
            return visit::visit_item(self, item);
        }
        self.tests.push(item.span().start().line..=item.span().end().line);
        if let Item::Mod(module) = item
            && module.content.is_none()
        {
            let mut path = self.module.clone();
            path.push(module.ident.to_string());
            self.test_modules.push(path);
        }
    }

    fn visit_item_mod(&mut self, module: &'ast syn::ItemMod) {
        self.module.push(module.ident.to_string());
        visit::visit_item_mod(self, module);
        self.module.pop();
    }

    fn visit_item_use(&mut self, item: &'ast syn::ItemUse) {
        self.name_all(&item.tree, &[]);
    }

    /// Who may see an item is not what it needs.
    fn visit_visibility(&mut self, _: &'ast syn::Visibility) {}

    fn visit_path(&mut self, path: &'ast syn::Path) {
        let parts: Vec<_> = path.segments.iter().map(|part| part.ident.to_string()).collect();
        if parts.len() > 1 {
            self.name(&parts);
        }
        visit::visit_path(self, path);
    }

    /// What a macro is given is not syntax yet, but often a list of expressions.
    fn visit_macro(&mut self, call: &'ast syn::Macro) {
        let list = syn::punctuated::Punctuated::<syn::Expr, syn::Token![,]>::parse_terminated;
        if let Ok(arguments) = call.parse_body_with(list) {
            arguments.iter().for_each(|argument| self.expression(argument));
        }
        visit::visit_macro(self, call);
    }

    fn visit_item_fn(&mut self, function: &'ast syn::ItemFn) {
        self.function(&function.sig.ident, &function.sig, &function.block);
        visit::visit_item_fn(self, function);
    }

    fn visit_impl_item_fn(&mut self, function: &'ast syn::ImplItemFn) {
        if function.attrs.iter().any(is_test) {
            self.tests.push(function.span().start().line..=function.span().end().line);
            return;
        }
        self.function(&function.sig.ident, &function.sig, &function.block);
        visit::visit_impl_item_fn(self, function);
    }
}

impl Facts {
    /// Looks into an expression that does not live as long as the file.
    fn expression(&mut self, expression: &syn::Expr) {
        let mut inside = Facts { module: self.module.clone(), ..Self::default() };
        inside.visit_expr(expression);
        self.names.append(&mut inside.names);
    }
}

/// `#[test]`, `#[cfg(test)]` and what demands more than that.
fn is_test(attribute: &Attribute) -> bool {
    let condition = |path: &str| match attribute.meta.require_list() {
        Ok(list) if list.path.is_ident(path) => list.tokens.to_string().replace(' ', ""),
        _ => String::new(),
    };
    let cfg = condition("cfg");
    attribute.path().is_ident("test") || cfg == "test" || cfg.starts_with("all(test,")
}

fn attributes(item: &Item) -> &[Attribute] {
    match item {
        Item::Const(item) => &item.attrs,
        Item::Enum(item) => &item.attrs,
        Item::ExternCrate(item) => &item.attrs,
        Item::Fn(item) => &item.attrs,
        Item::Impl(item) => &item.attrs,
        Item::Macro(item) => &item.attrs,
        Item::Mod(item) => &item.attrs,
        Item::Static(item) => &item.attrs,
        Item::Struct(item) => &item.attrs,
        Item::Trait(item) => &item.attrs,
        Item::Type(item) => &item.attrs,
        Item::Use(item) => &item.attrs,
        _ => &[],
    }
}
