//! [`Fault`]: the error that travels through serde.

use std::fmt;

/// What went wrong, and where in the value. One pointer wide: it is part of every result.
#[derive(Debug)]
pub(in crate::codec) struct Fault(Box<Inner>);

#[derive(Debug)]
struct Inner {
    problem: String,
    /// `Type.field`, innermost first.
    at: Vec<String>,
    is_final: bool,
    is_reacted_to: bool,
    /// Set if the value is too large: how far it got.
    too_large: Option<usize>,
}

impl Fault {
    #[cold]
    pub(in crate::codec) fn new(problem: impl fmt::Display) -> Self {
        Self(Box::new(Inner {
            problem: problem.to_string(),
            at: Vec::new(),
            is_final: false,
            is_reacted_to: false,
            too_large: None,
        }))
    }

    /// One that other data of the same type would meet, too.
    #[cold]
    pub(in crate::codec) fn fatal(problem: impl fmt::Display) -> Self {
        let mut fault = Self::new(problem);
        fault.0.is_final = true;
        fault
    }

    /// A value of at least so many bytes, which is too many.
    #[cold]
    pub(in crate::codec) fn too_large(bytes: usize) -> Self {
        let mut fault = Self::new("it is too large");
        fault.0.too_large = Some(bytes);
        fault
    }

    /// Adds that it happened in this field, or in this variant.
    #[cold]
    pub(in crate::codec) fn within(mut self, type_name: &str, part: &str) -> Self {
        self.0.at.push(format!("{type_name}.{part}"));
        self
    }

    /// Adds that it happened in this type, in none of its fields.
    #[cold]
    pub(in crate::codec) fn within_type(mut self, type_name: &str) -> Self {
        self.0.at.push(type_name.to_owned());
        self
    }

    pub(in crate::codec) fn is_final(&self) -> bool {
        self.0.is_final
    }

    /// Marks that other data will be tried because of it.
    pub(in crate::codec) fn reacted_to(mut self) -> Self {
        self.0.is_reacted_to = true;
        self
    }

    pub(in crate::codec) fn is_reacted_to(&self) -> bool {
        self.0.is_reacted_to
    }

    pub(in crate::codec) fn bytes_too_large(&self) -> Option<usize> {
        self.0.too_large
    }

    /// Where, as ` at Order.lines, Line.count` or empty, and what.
    pub(in crate::codec) fn into_parts(self) -> (String, String) {
        let Inner { problem, mut at, .. } = *self.0;
        at.reverse();
        let at = if at.is_empty() { String::new() } else { format!(" at {}", at.join(", ")) };
        (at, problem)
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0.problem)
    }
}

impl std::error::Error for Fault {}

impl serde::ser::Error for Fault {
    fn custom<T: fmt::Display>(problem: T) -> Self {
        Self::new(problem)
    }
}

impl serde::de::Error for Fault {
    fn custom<T: fmt::Display>(problem: T) -> Self {
        Self::new(problem)
    }
}
