//! Taking back what was done when something later fails.

/// The way back: one act for each that was done.
#[derive(Default)]
pub struct Undo {
    acts: Vec<(String, Act)>,
}

type Act = Box<dyn FnOnce() -> Result<(), String>>;

impl Undo {
    /// Something was done; `act` takes it back. `what` is that in words, for when it cannot be.
    pub fn push(
        &mut self,
        what: impl Into<String>,
        act: impl FnOnce() -> Result<(), String> + 'static,
    ) {
        self.acts.push((what.into(), Box::new(act)));
    }

    /// Takes everything back, the last first; what could not be, in words.
    pub fn back(self) -> Vec<String> {
        let failed = |(what, act): (String, Act)| act().err().map(|why| format!("{what}: {why}"));
        self.acts.into_iter().rev().filter_map(failed).collect()
    }
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;
    use std::rc::Rc;

    use super::*;

    #[test]
    fn what_was_done_is_taken_back_from_the_end_and_what_cannot_be_is_told() {
        let done = Rc::new(RefCell::new(Vec::new()));
        let mut undo = Undo::default();
        for name in ["folder", "program", "service"] {
            let done = Rc::clone(&done);
            undo.push(name, move || {
                done.borrow_mut().push(name);
                if name == "program" { Err("it is in use".to_owned()) } else { Ok(()) }
            });
        }
        assert_eq!(undo.back(), ["program: it is in use"]);
        assert_eq!(*done.borrow(), ["service", "program", "folder"]);
    }
}
