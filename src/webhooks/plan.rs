//! What is stored beside a batch: which events it has, and where the batches after it end. So that a busy room need not
//! wait for a write before each POST, the ranges of several POSTs are stored together.

use super::settings::Events;
use uproar_model::Offset;

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Plan {
    /// What the hook wanted when the batches were cut. The configuration may have changed since, but a repeated POST has
    /// the same publications.
    pub events: Events,
    /// The last offsets of the batches that follow, ascending.
    pub next: Vec<Offset>,
}

impl Plan {
    /// As it is stored: `EVENTS|OFFSET,OFFSET`.
    pub fn encode(&self) -> String {
        let ends: Vec<String> = self.next.iter().map(Offset::to_string).collect();
        format!("{}|{}", self.events.encode(), ends.join(","))
    }

    /// `to`: where the batch ends beside which it is stored. `head`: the last offset of the room. `None`: it is not
    /// from this program, or not of this batch.
    pub fn parse(note: &str, to: Offset, head: Offset) -> Option<Plan> {
        let (events, ends) = note.split_once('|')?;
        let events = Events::parse(events)?;
        let ends = ends.split(',').filter(|end| !end.is_empty());
        let next: Vec<Offset> = ends.map(str::parse).collect::<Result<_, _>>().ok()?;
        let is_ascending = std::iter::once(&to).chain(&next).is_sorted_by(|one, other| one < other);
        (is_ascending && next.last().is_none_or(|last| *last <= head)).then_some(Plan { events, next })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_plan_is_read_as_it_was_stored() {
        for (events, next, stored) in [("*", vec![], "*|"), ("message,edit", vec![7, 12], "message,edit|7,12")] {
            let plan = Plan { events: Events::parse(events).unwrap(), next };
            assert_eq!(plan.encode(), stored);
            assert_eq!(Plan::parse(stored, 6, 12), Some(plan));
        }
        for wrong in ["", "*", "other|", "*|x", "*|7,7", "*|6", "*|9,13", "|", "message,|"] {
            assert_eq!(Plan::parse(wrong, 6, 12), None, "{wrong}");
        }
    }
}
