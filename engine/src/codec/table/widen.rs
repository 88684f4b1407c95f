//! Whether values stored as one type can be read as another: [`ValueKind::widen`].
//!
//! What the decoder takes decides: a `u32` is read as a `u64`, as an `Option<u32>`, and a struct without a
//! field that has a default. What it might refuse, or would read as something else, does not fit.

use std::collections::BTreeMap;
use std::mem::take;

use super::shape::{Content, FieldShape, TypeShape, ValueKind, ValueShape, VariantShape};

/// Why what is stored cannot be read as it is declared.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Misfit {
    /// Where, outermost first: `values`, `Sale.count`, `elements`.
    pub at: Vec<String>,
    /// The type there when it was stored.
    pub stored: String,
    /// The type there now.
    pub declared: String,
    /// What is wrong with that, and what to do if there is something better than to take it back.
    pub why: String,
}

impl ValueKind {
    /// The kind to remember once values of both are stored: `declared`, and of this what `declared` has
    /// lost, so that it cannot come back as something else.
    ///
    /// # Errors
    /// [`Misfit`] if some value of this kind cannot be read as `declared`.
    pub fn widen(&self, declared: &Self) -> Result<Self, Misfit> {
        let mut widen = Widen {
            stored: self,
            declared,
            types: declared.types.clone(),
            kept: BTreeMap::new(),
            pairs: Vec::new(),
            at: Vec::new(),
        };
        widen.shape(&self.shape, &declared.shape)?;
        let (name, shape) = (declared.name.clone(), declared.shape.clone());
        Ok(Self { name, shape, types: widen.types, reader: declared.reader })
    }
}

struct Widen<'a> {
    stored: &'a ValueKind,
    declared: &'a ValueKind,
    /// The declared types, with what they have lost.
    types: Vec<TypeShape>,
    /// Stored types that only lost fields have, by their places there and in `types`.
    kept: BTreeMap<u32, u32>,
    /// Types that were compared, or are being compared: a type may contain itself.
    pairs: Vec<(u32, u32)>,
    at: Vec<String>,
}

type Fits<T = ()> = Result<T, Misfit>;

impl Widen<'_> {
    #[allow(clippy::match_same_arms, reason = "each is a case of its own")]
    fn shape(&mut self, stored: &ValueShape, declared: &ValueShape) -> Fits {
        use ValueShape::{
            Char, Float, Map, Opaque, Option, Seq, Signed, Text, Tuple, Type, Unseen, Unsigned,
        };
        match (stored, declared) {
            // What was never seen was never stored, and what reads anything reads this.
            (Unseen | Opaque, _) | (_, Unseen | Opaque) => Ok(()),
            (&Type(stored), &Type(declared)) => self.named(stored, declared),
            (Option(stored), Option(declared)) => self.shape(stored, declared),
            (Option(_), _) => self.misfit(stored, declared, "`None` may be stored"),
            // Both are nil, which is read as `None`.
            (ValueShape::Unit, Option(_)) => Ok(()),
            (stored, Option(declared)) => self.shape(stored, declared),
            (Seq(stored), Seq(declared)) => {
                self.within("elements", |it| it.shape(stored, declared))
            }
            (Tuple(parts), Seq(declared)) => self.within("elements", |it| {
                parts.iter().try_for_each(|stored| it.shape(stored, declared))
            }),
            (Tuple(stored), Tuple(declared)) if stored.len() == declared.len() => {
                self.parts(stored, declared)
            }
            (Map(stored), Map(declared)) => {
                self.within("keys", |it| it.shape(&stored.0, &declared.0))?;
                self.within("values", |it| it.shape(&stored.1, &declared.1))
            }
            (Char, Text) => Ok(()),
            (Unsigned(from), Unsigned(to))
            | (Signed(from), Signed(to))
            | (Float(from), Float(to))
                if from <= to =>
            {
                Ok(())
            }
            (Unsigned(from), Signed(to)) if from < to => Ok(()),
            (Unsigned(_) | Signed(_), Unsigned(_) | Signed(_)) | (Float(_), Float(_)) => {
                self.misfit(stored, declared, "that does not hold every number that may be stored")
            }
            (stored, declared) if stored == declared => Ok(()),
            _ => self.misfit(stored, declared, "the two are stored differently"),
        }
    }

    fn parts(&mut self, stored: &[ValueShape], declared: &[ValueShape]) -> Fits {
        for (at, (stored, declared)) in stored.iter().zip(declared).enumerate() {
            self.within(&format!("part {at}"), |it| it.shape(stored, declared))?;
        }
        Ok(())
    }

    fn named(&mut self, stored_at: u32, declared_at: u32) -> Fits {
        if self.pairs.contains(&(stored_at, declared_at)) {
            return Ok(());
        }
        self.pairs.push((stored_at, declared_at));
        let (from, to) = (self.stored.type_of(stored_at), self.declared.type_of(declared_at));
        let (Some(from), Some(to)) = (from, to) else {
            return Err(self.misfit_of("a type", "a type", "the catalogue does not say which"));
        };
        let wider = match (from, to) {
            (
                TypeShape::Struct { name, fields },
                TypeShape::Struct { name: to, fields: declared },
            ) if name == to => {
                let fields = self.fields(name, fields, declared)?;
                TypeShape::Struct { name: name.clone(), fields }
            }
            (
                TypeShape::Enum { name, variants },
                TypeShape::Enum { name: to, variants: declared },
            ) if name == to => {
                let variants = self.variants(name, variants, declared)?;
                TypeShape::Enum { name: name.clone(), variants }
            }
            (from, to) if from.what() == to.what() => {
                let why = format!(
                    "the numbers of fields and variants belong to a type's name: if it was renamed, keep \
                     the old name with `#[serde(rename = \"{}\")]`",
                    from.name()
                );
                return Err(self.misfit_of(from.name(), to.name(), &why));
            }
            (from, to) => {
                let written = |it: &TypeShape| format!("{} {}", it.what(), it.name());
                return Err(self.misfit_of(
                    &written(from),
                    &written(to),
                    "the two are stored differently",
                ));
            }
        };
        if let Some(place) = self.types.get_mut(declared_at as usize) {
            *place = wider;
        }
        Ok(())
    }

    /// The fields to remember.
    fn fields(
        &mut self,
        type_name: &str,
        stored: &[FieldShape],
        declared: &[FieldShape],
    ) -> Fits<Vec<FieldShape>> {
        let mut wider = declared.to_vec();
        for from in stored {
            let at = format!("{type_name}.{}", from.name);
            let Some(to) = declared.iter().find(|to| to.name == from.name) else {
                let shape = self.keep(&from.shape);
                let name = from.name.clone();
                wider.push(FieldShape { name, shape, optional: true, gone: true });
                continue;
            };
            self.within(&at, |it| {
                it.shape(&from.shape, &to.shape)?;
                if from.optional && !to.optional {
                    let why = "values without it may be stored: let it have `#[serde(default)]`, or be \
                               an `Option`";
                    let written = it.stored.written(&from.shape).to_string();
                    let declared = it.declared.written(&to.shape).to_string();
                    return Err(it.misfit_of(&format!("{written}, or nothing"), &declared, why));
                }
                Ok(())
            })?;
        }
        let is_new = |to: &FieldShape| stored.iter().all(|from| from.name != to.name);
        if let Some(to) = declared.iter().find(|to| is_new(to) && !to.optional) {
            self.at.push(format!("{type_name}.{}", to.name));
            let why = "the field is new, and values are stored without it: let it have \
                       `#[serde(default)]`, or be an `Option`";
            return Err(self.misfit_of(
                "nothing",
                &self.declared.written(&to.shape).to_string(),
                why,
            ));
        }
        Ok(wider)
    }

    /// The variants to remember.
    fn variants(
        &mut self,
        type_name: &str,
        stored: &[VariantShape],
        declared: &[VariantShape],
    ) -> Fits<Vec<VariantShape>> {
        let mut wider = declared.to_vec();
        for from in stored {
            let variant = format!("{type_name}::{}", from.name);
            let Some(to) = wider.iter_mut().find(|to| to.name == from.name) else {
                let why = "the variant is gone, and values may be stored as it";
                return Err(self.misfit_of(&variant, type_name, why));
            };
            let content = take(&mut to.content);
            to.content = match (&from.content, content) {
                (Content::Struct(from), Content::Struct(to)) => {
                    Content::Struct(self.fields(&variant, from, &to)?)
                }
                (Content::Newtype(from), Content::Newtype(to)) => {
                    self.within(&variant, |it| it.shape(from, &to))?;
                    Content::Newtype(to)
                }
                (Content::Tuple(from), Content::Tuple(to)) if from.len() == to.len() => {
                    self.within(&variant, |it| it.parts(from, &to))?;
                    Content::Tuple(to)
                }
                (Content::Unseen | Content::Opaque, to) => to,
                (from, to) if *from == to || to == Content::Opaque => to,
                (from, to) => {
                    let (from, to) =
                        (written_content(self.stored, from), written_content(self.declared, &to));
                    let why = "the variant has other content, which is stored differently";
                    let (from, to) = (format!("{variant}{from}"), format!("{variant}{to}"));
                    return Err(self.misfit_of(&from, &to, why));
                }
            };
        }
        Ok(wider)
    }

    /// A stored shape, with the types in it added to those that are remembered.
    fn keep(&mut self, shape: &ValueShape) -> ValueShape {
        shape.with_places(&mut |at| self.keep_type(at))
    }

    fn keep_type(&mut self, at: u32) -> u32 {
        if let Some(&kept) = self.kept.get(&at) {
            return kept;
        }
        let Some(found) = self.stored.type_of(at) else { return u32::MAX };
        let place = u32::try_from(self.types.len()).unwrap_or(u32::MAX);
        self.kept.insert(at, place);
        self.types.push(found.clone());
        let moved = found.with_places(&mut |at| self.keep_type(at));
        self.types[place as usize] = moved;
        place
    }

    fn within<T>(&mut self, part: &str, inner: impl FnOnce(&mut Self) -> Fits<T>) -> Fits<T> {
        self.at.push(part.to_owned());
        let fits = inner(self);
        self.at.pop();
        fits
    }

    #[cold]
    fn misfit(&self, stored: &ValueShape, declared: &ValueShape, why: &str) -> Fits {
        let stored = self.stored.written(stored).to_string();
        Err(self.misfit_of(&stored, &self.declared.written(declared).to_string(), why))
    }

    #[cold]
    fn misfit_of(&self, stored: &str, declared: &str, why: &str) -> Misfit {
        let (stored, declared) = (stored.to_owned(), declared.to_owned());
        Misfit { at: self.at.clone(), stored, declared, why: why.to_owned() }
    }
}

/// What is behind the name of a variant, as in Rust.
fn written_content(kind: &ValueKind, content: &Content) -> String {
    match content {
        Content::Unseen | Content::Opaque => "(_)".to_owned(),
        Content::Unit => String::new(),
        Content::Newtype(shape) => format!("({})", kind.written(shape)),
        Content::Tuple(parts) => {
            let parts: Vec<_> = parts.iter().map(|it| kind.written(it).to_string()).collect();
            format!("({})", parts.join(", "))
        }
        Content::Struct(fields) => {
            let names: Vec<_> = fields.iter().map(|field| &*field.name).collect();
            format!(" {{ {} }}", names.join(", "))
        }
    }
}
