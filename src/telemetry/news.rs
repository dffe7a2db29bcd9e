//! Changes in the log.

/// Changes that are logged one by one; of more at a time only the number.
const NAMED_CHANGES: usize = 16;

/// Logs what changed: each by its name, or only how many there are.
pub(crate) fn tell<'a>(
    names: impl ExactSizeIterator<Item = &'a String>,
    one: impl Fn(&'a String),
    many: impl Fn(usize),
) {
    match names.len() {
        ..=NAMED_CHANGES => names.for_each(one),
        count => many(count),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::cell::{Cell, RefCell};

    #[test]
    fn many_changes_are_one_line() {
        let names: Vec<_> = (0..=NAMED_CHANGES).map(|number| number.to_string()).collect();
        let (named, counted) = (RefCell::new(Vec::new()), Cell::new(0));

        tell(names.iter(), |name| named.borrow_mut().push(name), |count| counted.set(count));
        assert_eq!((named.borrow().len(), counted.get()), (0, NAMED_CHANGES + 1));

        tell(names[1..].iter(), |name| named.borrow_mut().push(name), |count| counted.set(count));
        assert_eq!(named.borrow().len(), NAMED_CHANGES);
    }
}
